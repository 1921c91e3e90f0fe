"""The pages of results: their tables were written by commands, which `make results-NAME` runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
TABLES = sorted((RESULTS / "tables").glob("*.md"))
PAGES = sorted(RESULTS.glob("*.md"))
INCLUDE = re.compile(r'--8<-- "results/tables/(.+)\.md"')
"""A table on a page."""

STATEMENTS = {"| what breaks | what happens | tests/... |", "| tool | choose it for |"}
"""The first lines of README's tables that say what is so, not what was measured."""


def heads(text: str) -> list[str]:
    """The first line of every table."""
    return re.findall(r"(?<!\|\n)^(\|.*)\n\|[ :|-]+\|$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_results_holds_no_table_of_its_own(page: Path):
    assert not heads(page.read_text(encoding="utf-8"))


def test_every_table_is_on_a_page_and_every_page_has_its_tables():
    included = [name for page in PAGES for name in INCLUDE.findall(page.read_text(encoding="utf-8"))]
    assert sorted(included) == sorted(path.stem for path in TABLES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_what_makes_its_tables(page: Path):
    text = page.read_text(encoding="utf-8")
    for name in INCLUDE.findall(text):
        assert re.search(rf"\bresults-{name}\b(?!-)", text), f"results-{name}"


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_says_what_made_it_and_can_be_made_again(path: Path):
    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert re.match(r"    raysim ", head), "it begins with its command"
    assert re.search(r"commit [0-9a-f]{7}", head)
    commands = (RESULTS / "commands.mk").read_text()
    paper = path.stem.removesuffix("-paper")  # at full scale
    assert re.search(rf"^results-{path.stem}:|^PAPERS := .*\b{paper}\b", commands, re.MULTILINE)


def test_a_page_leads_with_its_figure():
    pytest.importorskip("mkdocs")
    with_tables = runpy.run_path(str(ROOT / "docs" / "generate.py"))["with_tables"]
    title, figure, rest = with_tables((RESULTS / "costs.md").read_text(encoding="utf-8")).split("\n\n", 2)
    assert title == "# What a defense costs"
    assert re.fullmatch(r"!\[.+\]\(tables/defenses-stages\.svg\)", figure)
    assert "```text\nraysim bench defenses --peers" in rest
    assert "| **krum** |" in rest
    assert "defenses-stages.svg" not in rest
    assert "attacks-stages.svg" in rest
    for text in ("# A page\n\nwithout a table\n", "# A page", "no title\n\n```text\n```\n"):
        assert with_tables(text) == text


def test_the_readme_has_the_headlines_of_these_tables():
    headlines = runpy.run_path(str(ROOT / "docs" / "headlines.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert headlines["with_headlines"](readme) == readme, "run: python docs/headlines.py"
    made = headlines["table"]().splitlines()[0]
    assert set(heads(readme)) == STATEMENTS | {made}


def test_a_headline_that_no_table_has_is_an_error():
    headlines = runpy.run_path(str(ROOT / "docs" / "headlines.py"))
    with pytest.raises(KeyError, match=r"defenses\.md has no 'x Gram' of \('nobody',\)"):
        headlines["cell"]("defenses", "x Gram", "nobody")
