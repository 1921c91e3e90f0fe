"""The headline figures of README.md, taken from the tables in docs/results/tables: `python docs/headlines.py` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "docs" / "results" / "tables"
BEGIN, END = "<!-- headlines: written by docs/headlines.py -->", "<!-- headlines end -->"

CAUGHT, FALSE_ALARMS = 0.9, 0.1
"""Recall of at least, and false-positive rate of at most, for an attack to count as caught."""


def table() -> str:
    """Question, answer and page, as a Markdown table."""
    noise, flips, rules = caught("noise"), caught("sign_flip"), judging()
    alone, two = (number(cell("nodes", "K =", "layercam_ae", nodes)) for nodes in "12")
    krum_alone, krum_two = (number(cell("nodes", "K =", "krum", nodes)) for nodes in "12")
    lines = [
        (
            "What does a simulated round cost?",
            f"100 small clients: {cell('rounds', 'median', 'simulated / ideal, pair by pair')} of a plain PyTorch loop"
            " divided by two workers",
            "rounds",
        ),
        (
            "What does Krum cost, K = 50, d = 6.6M?",
            f"{cell('defenses', 'x Gram', 'krum')} float64 Gram products; {cell('defenses', 'torch / ours', 'krum')} times"
            " as fast as ByzFL's on torch",
            "costs",
        ),
        (
            "How does LayerCAM-AE grow with K?",
            f"K^{cell('scaling', 'growth', 'layercam_ae').replace(' †', '')} up to {largest('scaling')} clients",
            "scaling",
        ),
        (
            "Does a second node pay?",
            f"on two hosts at 1 Gbit/s LayerCAM-AE takes {two / alone:.1f} of one host's time, Krum"
            f" {krum_two / krum_alone:.1f}",
            "nodes",
        ),
        (
            "What do the defenses catch?",
            f"of {rules} that judge clients, {noise} catch noise (recall {CAUGHT} at a false-positive rate of"
            f" {FALSE_ALARMS}), {flips} flipped signs",
            "detection",
        ),
        ("Do the papers' tables come out?", "some do, some do not, each with the reason", "papers"),
    ]
    rows = [
        f"| {question} | {answer} | [{page}](docs/results/{page}.md) |" for question, answer, page in lines
    ]
    return "\n".join(["| question | answer | page |", "|---|---|---|", *rows])


def cell(name: str, column: str, *first: str) -> str:
    """Of the first table in NAME.md with a column that begins so and a row that begins with these cells; KeyError without one."""
    for head, rows in tables_of(name):
        places = [place for place, title in enumerate(head) if title.startswith(column)]
        for row in rows if places else ():
            if [text.strip("*") for text in row[: len(first)]] == list(first) and row[places[0]]:
                return row[places[0]]
    raise KeyError(f"docs/results/tables/{name}.md has no {column!r} of {first}")


def largest(name: str) -> str:
    """The last K of the first table in NAME.md that has columns by K."""
    by_clients = (found for head, _ in tables_of(name) if (found := re.findall(r"K = (\d+)", " ".join(head))))
    return next(by_clients)[-1]


def caught(attack: str) -> int:
    """How many defenses catch an attack, in the first table of detection.md."""
    head, rows = next(tables_of("detection"))
    at = [head.index(f"{attack}: {rate}") for rate in ("recall", "FPR")]
    rates = [[number(row[place]) for place in at] for row in rows if calibrated(row) and row[at[0]] != "-"]
    return sum(recall >= CAUGHT and fpr <= FALSE_ALARMS for recall, fpr in rates)


def judging() -> int:
    """How many defenses of that table flag clients."""
    head, rows = next(tables_of("detection"))
    return sum(calibrated(row) and row[head.index("noise: recall")] != "-" for row in rows)


def calibrated(row: Sequence[str]) -> bool:
    """Whether it is a defense's row, and not that of a rule that is told the truth."""
    return "calibration" not in row[0]


def number(text: str) -> float:
    """The number that a cell begins with."""
    found = re.match(r"[\d.]+", text)
    return float(found.group()) if found else float("nan")


def tables_of(name: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """(Head, rows) of every table in NAME.md."""
    text = (TABLES / f"{name}.md").read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, _, *rows = ([part.strip() for part in line[1:-1].split("|")] for line in block.splitlines())
        yield head, rows


def with_headlines(readme: str) -> str:
    """README.md with the table of now between its marks."""
    begin, rest = readme.split(BEGIN)
    _, end = rest.split(END)
    return f"{begin}{BEGIN}\n\n{table()}\n\n{END}{end}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_headlines(readme.read_text(encoding="utf-8")), encoding="utf-8")
