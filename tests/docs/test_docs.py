"""The documentation says what works: its Python runs, and its commands exist."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from raysim.cli.main import app
from raysim.config.load import load_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(what follows the language, text) of every block."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(rest, text) for kind, rest, text in found if kind == language]


def commands(page: Path) -> Iterator[str]:
    """Every command line that a page shows, without its comment and without settings before it."""
    for _, text in blocks(page, "console"):
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ")


def made() -> Iterator[str]:
    """Every command line of `make results` and its kin."""
    if shutil.which("make"):
        words = ["make", "--dry-run", "--always-make", "results", "results-caught", "results-papers"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        for line in done.stdout.replace("\\\n", " ").splitlines():
            if line.startswith(".venv/bin/raysim "):
                yield line.removeprefix(".venv/bin/")


COMMANDS = sorted(
    {
        line
        for line in (*(line for page in PAGES for line in commands(page)), *made())
        if re.match(r"(\w+=\S+ )*raysim ", line)
    }
)
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order; a block with a title is a file, which the blocks after it import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    for number, (rest, text) in enumerate(blocks(page, "python")):
        title = re.search(r'title="([^"]+)"', rest)
        file = tmp_path / (title.group(1) if title else f"block_{number}.py")
        file.write_text(text, encoding="utf-8")
        runpy.run_path(str(file))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_documentation_exists(line: str) -> None:
    """Its options parse, and its configuration is one: nothing is run."""
    words = shlex.split(line, comments=True)
    words = words[words.index("raysim") + 1 :]
    words = list(itertools.takewhile(lambda word: word not in ("--help", "...", ">"), words))
    command = get_command(app)
    names = []
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"raysim has no command {words[0]}"
        names.append(words.pop(0))
        command = command.commands[names[-1]]
    if not words:
        return
    context = command.make_context(names[-1], list(words), resilient_parsing=False)
    if names in (["run"], ["plan"], ["show"]):
        request = context.params.get("request") or []
        source = request[0] if request and "=" not in request[0] else None
        overrides = request if source is None else request[1:]
        own = any(":" in text for text in overrides) or str(source).endswith(".yaml")
        if not own:  # what is the reader's own is no file here
            load_config(source, overrides)
