# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv first, quickly when it is there.

SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_INSTALL := $(BIN)/python -m pip install
failed = { echo "step $(1) failed, for the reason above; nothing counts as installed, and the next make starts again" >&2; exit 1; }

.PHONY: help install demo gpu results results-caught results-papers test test-ray-1 test-ray-2 test-ray-3 test-rest-1 test-rest-2 test-fast test-fast-1 test-fast-2 soak check docs format clean

help:
	@echo "make demo       a federation on real images, attacked and defended: a results table and a report"
	@echo "make gpu        a GPU beside the CPU: the same verdicts, and seconds; in one process, without Ray"
	@echo "make results    the tables of docs/results that take minutes, measured anew; a stopped one goes on; also"
	@echo "                results-caught and results-papers (hours), results-NAME for one table,"
	@echo "                results-flare-paper and the like for a paper at full scale, a run at a time"
	@echo "make test       all tests"
	@echo "make test-fast  those that need neither Ray nor whole studies"
	@echo "make soak       a long run whose processes are killed at random: minutes on a quiet machine, more on a busy one"
	@echo "make check      ruff (lint and format) and mypy"
	@echo "make docs       the documentation, into site/"
	@echo "make format     rewrite the code in the project's format"
	@echo "make clean      remove the virtual environment and the demo's run"

# Sizes: the wheels that pip fetched for constraints.txt (Python 3.11, Linux x86-64), added up.
$(READY): pyproject.toml constraints.txt
	@rm -f $@
	@echo "[1/3] a Python environment in $(VENV): seconds, nothing to download"
	@$(PYTHON) -m venv $(VENV) || $(call failed,1/3)
	@echo "[2/3] pip's current version: seconds, 2 MB"
	@$(PIP_INSTALL) --quiet --upgrade pip || $(call failed,2/3)
	@echo "[3/3] raysim and the 102 packages it is used and tested with: 0.6 GB to download with a CPU build of torch,"
	@echo "      3.2 GB with the CUDA build; after that, unpacking takes a few minutes"
	@bars=off; if [ -t 1 ]; then bars=on; fi; \
	$(PIP_INSTALL) --progress-bar $$bars --constraint constraints.txt --editable '.[dev]' || $(call failed,3/3)
	@touch $@
	@echo "installed in $(VENV): $$(du -sm $(VENV) | cut -f 1) MB"

install: $(READY)

demo: $(READY)
	@rm -rf runs/demo
	$(BIN)/raysim run quickstart --name demo

# Installs nothing: torch for the GPU at hand is often in an environment of its own (make gpu PYTHON=...); else .venv if it is there.
gpu:
	$(if $(and $(filter file,$(origin PYTHON)),$(wildcard $(READY))),$(BIN)/python,$(PYTHON)) -m raysim bench gpu

include docs/results/commands.mk

# Five processes, since what has several nodes waits for them more than it computes; RAY_1: those that share two nodes.
WITH_RAY := "ray or namespaces"
RAY_1 := tests/backends tests/replay tests/tutorials tests/composition tests/studies/scaling tests/studies/rounds
RAY_2 := tests/cluster tests/contract tests/cli $(wildcard tests/studies/test_*.py)
test: $(READY)
	@echo "the tests in five processes: those that start Ray or make namespaces (ray 1: to ray 3:), and all others (rest 1:, rest 2:)"
	@$(MAKE) --no-print-directory --jobs 5 test-ray-1 test-ray-2 test-ray-3 test-rest-1 test-rest-2

test-ray-1:
	@$(BIN)/python -m pytest -m $(WITH_RAY) $(RAY_1) 2>&1 | sed --unbuffered 's/^/ray 1: /'

test-ray-2:
	@$(BIN)/python -m pytest -m $(WITH_RAY) $(RAY_2) 2>&1 | sed --unbuffered 's/^/ray 2: /'

test-ray-3:
	@$(BIN)/python -m pytest -m $(WITH_RAY) tests $(addprefix --ignore ,$(RAY_1) $(RAY_2)) 2>&1 | sed --unbuffered 's/^/ray 3: /'

METHODS := tests/contract tests/defenses tests/attacks tests/cli tests/report tests/matrix
WHOLE_STUDIES := tests/studies tests/presets tests/acceptance tests/tutorials

test-rest-1:
	@$(BIN)/python -m pytest -m "not ray and not namespaces" $(METHODS) tests/studies 2>&1 | sed --unbuffered 's/^/rest 1: /'

test-rest-2:
	@$(BIN)/python -m pytest -m "not ray and not namespaces" $(addprefix --ignore ,$(METHODS) tests/studies) 2>&1 | sed --unbuffered 's/^/rest 2: /'

test-fast: $(READY)
	@echo "the quick tests in two processes: those of methods, matrices, reports and the command line (fast 1:), and all others (fast 2:)"
	@$(MAKE) --no-print-directory --jobs 2 test-fast-1 test-fast-2

test-fast-1:
	@$(BIN)/python -m pytest -m "not ray and not slow" $(METHODS) 2>&1 | sed --unbuffered 's/^/fast 1: /'

test-fast-2:
	@$(BIN)/python -m pytest -m "not ray and not slow" $(addprefix --ignore ,$(METHODS) $(WHOLE_STUDIES)) 2>&1 | sed --unbuffered 's/^/fast 2: /'

soak: $(READY)
	$(BIN)/python -m tests.soak

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
