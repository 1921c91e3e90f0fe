"""What a scaling measurement says: growth exponents, speed-up over nodes, ratios to the limits, equal digests."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from raysim.studies.fit import PowerLaw, power_law
from raysim.studies.scaling.read import MatrixSize, Measured, Setup, Subject
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.stages import WHOLE

Along = Literal["clients", "parameters"]


@dataclass(frozen=True)
class Growth:
    """How one stage grows along K or d, the other and the number of nodes held fixed (0 where it is what varies)."""

    subject: Subject
    along: Along
    clients: int
    parameters: int
    nodes: int
    order: int
    law: PowerLaw

    def row(self) -> dict[str, object]:
        """As a row of growth.parquet."""
        fixed = {"along": self.along, "clients": self.clients, "parameters": self.parameters}
        stage = {"defense": self.subject.defense, "stage": self.subject.stage, "order": self.order}
        return {**self.subject.setup._asdict(), **stage, **fixed, "nodes": self.nodes, **asdict(self.law)}


@dataclass(frozen=True)
class Ratio:
    """Seconds over other seconds, and how far the repeats let it vary: see seconds_ratio and limit_ratio."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Strong:
    """The same matrix on `base` and on size.nodes nodes: speed-up T(base) / T(n); efficiency, the speed-up base / n."""

    size: MatrixSize
    base: int
    speed_up: Ratio

    @property
    def efficiency(self) -> float:
        """1 where n nodes take 1/n of the time of one."""
        return self.speed_up.value * self.base / self.size.nodes


@dataclass(frozen=True)
class Weak:
    """K clients on one node against n K clients on n: efficiency T(K, 1) / T(n K, n)."""

    size: MatrixSize
    efficiency: Ratio


@dataclass(frozen=True)
class DigestMismatch:
    """A defense on one matrix (one seed) that did not always end in the same bytes: digest -> (nodes, repeat)s."""

    setup: Setup
    defense: str
    clients: int
    parameters: int
    seed: int
    found: dict[str, tuple[tuple[int, int], ...]]


def growth(measured: Iterable[Measured], along: Along) -> list[Growth]:
    """The power law of each stage along K (for each d and number of nodes) or along d (for each K)."""
    lines: dict[tuple[Subject, MatrixSize], list[Measured]] = defaultdict(list)
    for entry in measured:
        lines[entry.subject, entry.size._replace(**{along: 0})].append(entry)
    found = []
    for (subject, fixed), entries in lines.items():
        law = power_law([getattr(e.size, along) for e in entries], [e.wall_s for e in entries])
        if law is not None:
            order = min(entry.order for entry in entries)
            found.append(Growth(subject, along, *fixed, order, law))
    return found


def strong_scaling(whole: dict[MatrixSize, Measured]) -> list[Strong]:
    """For each K and d measured on several numbers of nodes: the speed-up against the fewest."""
    found = []
    for size, entry in sorted(whole.items()):
        same = [s for s in whole if s._replace(nodes=0) == size._replace(nodes=0)]
        base = min(same)
        if size != base:
            found.append(Strong(size, base.nodes, seconds_ratio(whole[base], entry)))
    return found


def weak_scaling(whole: dict[MatrixSize, Measured]) -> list[Weak]:
    """For each n > 1 nodes and n K clients where K clients were measured on one node."""
    found = []
    for size, entry in sorted(whole.items()):
        alone = MatrixSize(size.clients // size.nodes, size.parameters, 1)
        if size.nodes > 1 and size.clients % size.nodes == 0 and alone in whole:
            found.append(Weak(size, seconds_ratio(whole[alone], entry)))
    return found


def seconds_ratio(first: Measured, other: Measured) -> Ratio:
    """Median seconds of the first over the other's, where no repeat of one belongs to a repeat of the other.

    low: the first's lower quartile over the other's upper one; high: the reverse.
    """
    (low, high), (other_low, other_high) = first.quartiles_s, other.quartiles_s
    return Ratio(
        _divided(first.median_s, other.median_s), _divided(low, other_high), _divided(high, other_low)
    )


def limit_ratio(entry: Measured, limit: Measured | None) -> Ratio | None:
    """Seconds over a limit's, repeat by repeat: median and quartiles; None if no repeat has both.

    The limit is measured in the same repeat on the same matrix, so that what slows the machine slows both.
    """
    if limit is None:
        return None
    limits: dict[tuple[int, int], list[float]] = defaultdict(list)
    for run, seconds in zip(limit.runs, limit.wall_s, strict=True):
        limits[run].append(float(seconds))
    ratios = [
        _divided(float(seconds), float(np.median(limits[run])))
        for run, seconds in zip(entry.runs, entry.wall_s, strict=True)
        if run in limits
    ]
    if not ratios:
        return None
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return Ratio(float(middle), float(low), float(high))


def shares(stages: Sequence[Measured]) -> list[float]:
    """The part of each of a defense's stages in its seconds: medians over the sum of medians, so they add up to 1."""
    total = sum(stage.median_s for stage in stages)
    return [_divided(stage.median_s, total) for stage in stages]


def digest_mismatches(measured: Iterable[Measured]) -> tuple[list[DigestMismatch], int]:
    """Where digests differ between node counts or repeats, and how many matrices had at least two to compare."""
    seen: dict[tuple[Setup, str, int, int, int], dict[str, list[tuple[int, int]]]] = {}
    for entry in measured:
        if entry.stage != WHOLE or entry.defense == LIMITS:
            continue
        for (seed, repeat), digest in zip(entry.runs, entry.digests, strict=True):
            if digest:
                key = (entry.setup, entry.defense, entry.size.clients, entry.size.parameters, seed)
                runs = seen.setdefault(key, {}).setdefault(digest, [])
                runs.append((entry.size.nodes, repeat))
    compared = [key for key, digests in seen.items() if sum(map(len, digests.values())) > 1]
    different = [
        DigestMismatch(*key, {digest: tuple(runs) for digest, runs in seen[key].items()})
        for key in compared
        if len(seen[key]) > 1
    ]
    return different, len(compared)


def _divided(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else math.nan
