"""How a study is written down: tables, the lines that say where and how it was measured, the whole page."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from raysim.studies.study import About, Page
from raysim.studies.table import Values

WIDTH = 108


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    marks = "|".join([":---", *["---:"] * (len(head) - 1)])
    first, *rest = (f"| {' | '.join(_cell(text) for text in line)} |" for line in (head, *rows))
    return "\n".join([first, f"|{marks}|", *rest])


def extent(values: Iterable[float]) -> list[str]:
    """Minimum, median and maximum, for three columns."""
    known = Values.of(float("nan") if value is None else value for value in values)
    return [f"{value:.3f}" for value in (known.known.min(), known.median, known.known.max())]


def document(title: str, about: About, page: Page, files: Mapping[str, str]) -> str:
    """The page: its title (none: ""), where and how, the leading figure, the sections.

    files: name of a figure -> its file, as the page refers to it.
    """
    body = "\n\n".join(section.strip("\n") for section in page.sections if section.strip())
    first = next(iter(page.figures), "")
    body = re.sub(rf"!\[[^\]]*\]\(\{{{re.escape(first)}\}}\)\n*", "", body) if first else body
    lead = [
        f"![{caption}]({files[name]})"
        for name, (caption, _) in page.figures.items()
        if f"({{{name}}})" not in body
    ]
    body = re.sub(r"\]\(\{([\w.-]+)\}\)", lambda found: f"]({files[found.group(1)]})", body)
    head = [f"# {title}"] if title else []
    machine = "\n".join(f"    {line}" for line in about_lines(about))
    return "\n\n".join([*head, machine, *lead, body]) + "\n"


def about_lines(about: About) -> list[str]:
    """Command, machine, versions, commit, dates and the plan, from what plan.json says; wrapped."""
    machine = about["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    dates = list(dict.fromkeys((about["dates"][0], about["dates"][-1])))
    texts = [
        shlex.join(machine["command"]),
        f"{machine['processor']}, {machine['cpus']} CPUs, Python {machine['python']}; {versions}",
        f"{' to '.join(dates)}, commit {_commit(machine['commit'])}",
        ", ".join(
            f"{key} {_word(value)}" for key, value in about["plan"].items() if value not in (None, [], "")
        ),
    ]
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _commit(name: str | None) -> str:
    """Its first twelve letters, and the "+" of a changed checkout."""
    return "none" if name is None else name[:12] + "+" * name.endswith("+")


def _word(value: object) -> str:
    if not isinstance(value, list | tuple):
        return str(value)
    return " ".join("x".join(map(str, one)) if isinstance(one, list | tuple) else str(one) for one in value)


def _cell(text: str) -> str:
    return text.replace("\\|", "|").replace("|", "\\|")
