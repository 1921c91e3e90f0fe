"""A preset: one cell of a paper's table, or one curve of a figure, as an experiment at two scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Scale = Literal["paper", "small"]
Config = Mapping[str, object]
Drawn = Literal["scores", "maps", "representations"]
"""What a figure of a paper shows of each client (raysim.studies.papers.drawn)."""


@dataclass(frozen=True)
class Preset:
    """One experiment of a paper.

    name: `paper/table-what-it-varies-defense`. paper, small: the configuration at full scale, and one of the same
    structure that takes seconds. reported: measure -> the paper's number, None if it prints a dash; shares,
    not percent. metrics: the measures to show, reported ones included (see raysim.studies.papers.measures).
    interval: detection rates count in rounds t = 1, 2, ... that it divides. doubts: measure -> why the paper's
    number disagrees with its others. stand_ins: what the small scale puts in place of what. drawn: what is drawn of the
    last round, client by client.
    """

    name: str
    description: str
    paper: Config
    small: Config
    metrics: tuple[str, ...]
    reported: Mapping[str, float | None] = field(default_factory=dict)
    interval: int = 1
    doubts: Mapping[str, str] = field(default_factory=dict)
    stand_ins: str = ""
    drawn: Drawn | None = None

    @property
    def source(self) -> str:
        """The paper: the first part of the name."""
        return self.name.partition("/")[0]

    @property
    def table(self) -> str:
        """The table or figure: `table3`, `fig7`."""
        return self.name.partition("/")[2].partition("-")[0]

    @property
    def cell(self) -> str:
        """What is left of the name: which cell of the table."""
        return self.name.partition("-")[2]

    @property
    def rounds(self) -> int:
        """The rounds of the full setting."""
        rounds = self.paper["rounds"]
        assert isinstance(rounds, int), "every preset says how many"
        return rounds

    def mapping(self, scale: Scale) -> dict[str, object]:
        """The configuration, as a YAML preset holds it: with `description` and `reported`."""
        config = self.paper if scale == "paper" else self.small
        return {"description": self.description, **config, "reported": dict(self.reported)}


def numbers(text: str, percent: bool = False) -> list[float | None]:
    """The numbers of a table's row, separated by blanks or slashes; a dash is None.

    >>> numbers("84.3/5 -", percent=True)
    [0.843, 0.05, None]
    """
    words = text.replace("/", " ").split()
    scale = 100 if percent else 1
    return [None if word == "-" else round(float(word) / scale, 6) for word in words]


def row(measures: Sequence[str], text: str, percent: bool = False) -> dict[str, float | None]:
    """Measure -> number, for one cell of several numbers."""
    return dict(zip(measures, numbers(text, percent), strict=True))
