# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv first, quickly when it is there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo test test-fast check docs format clean

help:
	@echo "make demo       a federation on real images, attacked and defended: a results table and a report"
	@echo "make test       all tests"
	@echo "make test-fast  those that need neither Ray nor whole studies"
	@echo "make check      ruff (lint and format) and mypy"
	@echo "make docs       the documentation, into site/"
	@echo "make format     rewrite the code in the project's format"
	@echo "make clean      remove the virtual environment and the demo's run"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(READY)

demo: $(READY)
	@rm -rf runs/demo
	$(BIN)/raysim run quickstart --name demo

test: $(READY)
	$(BIN)/python -m pytest

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not ray and not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs/demo
