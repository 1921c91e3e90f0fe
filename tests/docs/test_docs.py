"""The documentation says what works: its Python runs, and its commands exist."""

from __future__ import annotations

import contextlib
import itertools
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.main import get_command

from raysim.cli.bench import STUDIES as BENCHES
from raysim.cli.main import app
from raysim.cli.study_command import plan_of
from raysim.composition.compose import prepare
from raysim.config.load import load_config
from raysim.errors import ConfigError, DataError
from raysim.studies.papers.study import Reproduce
from raysim.studies.replays import Replay
from raysim.studies.sweep import Sweep

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(what follows the language, text) of every block."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(rest, text) for kind, rest, text in found if kind == language]


def shown(page: Path) -> Iterator[tuple[str, str]]:
    """(command line, first line that it prints, "" if the page shows none) of every command of a page."""
    for _, text in blocks(page, "console"):
        for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            yield line, printed.partition("\n")[0]


def made() -> Iterator[str]:
    """Every command line of `make results` and its kin."""
    if shutil.which("make"):
        targets = [f"results{which}" for which in ("", "-caught", "-papers", "-of-papers")]
        words = ["make", "--dry-run", "--always-make", *targets]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        for line in done.stdout.replace("\\\n", " ").splitlines():
            if line.startswith(".venv/bin/raysim "):
                yield line.removeprefix(".venv/bin/")


RAYSIM = re.compile(r"(\w+=\S+ )*raysim ")
SHOWN = [(line, said) for page in PAGES for line, said in shown(page) if RAYSIM.match(line)]
REFUSED = [(line, said.removeprefix("error: ")) for line, said in SHOWN if said.startswith("error: ")]
COMMANDS = sorted({*made(), *(line for line, said in SHOWN if not said.startswith("error: "))})
STUDIES = {
    **{("bench", study.name): study for study in BENCHES},
    **{(study.name,): study for study in (Sweep(), Reproduce(), Replay())},
}
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
def test_a_command_of_the_documentation_is_carried_out(line: str, roomy: None) -> None:
    """But for what it would run: its options parse, its configuration or plan is built, and nothing in it is refused."""
    planned(line)


def test_a_refusal_that_the_documentation_shows_is_made(roomy: None) -> None:
    assert REFUSED
    for line, error in REFUSED:
        said = ".*".join(map(re.escape, error.split("...")))
        with pytest.raises(ConfigError, match=f"^{said}$"):
            planned(line)


def planned(line: str) -> None:
    """Refuse what the command refuses before it starts anything; what is the reader's own is no file here."""
    words = shlex.split(line, comments=True)
    words = words[words.index("raysim") + 1 :]
    words = list(itertools.takewhile(lambda word: word not in ("--help", "...", ">"), words))
    command = get_command(app)
    names = []
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"raysim has no command {words[0]}"
        names.append(words.pop(0))
        command = command.commands[names[-1]]
    if not words and tuple(names) not in STUDIES:
        return
    context = command.make_context(names[-1], list(words), resilient_parsing=False)
    request = list(context.params.get("request") or [])
    source = request[0] if request and "=" not in request[0] else None
    if any(re.search(r":|\.(yaml|safetensors|pth)$", text) for text in request):
        return
    with contextlib.suppress(DataError):  # the data set is not here
        if names in (["run"], ["plan"], ["show"]):
            prepare(load_config(source, request if source is None else request[1:], context.params["scale"]))
        elif study := STUDIES.get(tuple(names)):
            plan = plan_of(study, context)
            if hasattr(plan, "peers"):  # packages that need not be installed
                plan = plan.model_copy(update={"peers": False})
            if names != ["replay"]:  # of a run that the reader has
                study.check(plan)
                assert study.cells(plan)


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has the memory and the disk which the pages' own had, and no data set but digits."""
    monkeypatch.delenv("RAYSIM_DATA", raising=False)
    memory, disk = psutil.virtual_memory(), shutil.disk_usage("/")
    much = {"available": 2**40, "total": 2**40}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(**much))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=2**40))
