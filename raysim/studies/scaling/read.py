"""The tables of a measurement over sizes, read: one view for each matrix (or case), which its sections and figures show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from cluster.plan import bits_a_second
from raysim.composition.registry import defense_title
from raysim.studies.fit import PowerLaw, power_law
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.stages import AFTER, WHOLE
from raysim.studies.table import Row, Values

COPY, GRAM, PRODUCTS = "copy", "gram", "products"
"""The stages of LIMITS that are limits."""
LIMIT_LABELS = {
    COPY: "limit: one copy",
    GRAM: "limit: Gram product",
    PRODUCTS: "limit: products alone",
}

MAPS, AUTOENCODER = "cam", "autoencoder"
"""The stages of the defenses that train an autoencoder on class-activation maps."""


class MatrixSize(NamedTuple):
    """K clients, d parameters, n nodes."""

    clients: int
    parameters: int
    nodes: int

    @property
    def matrix_bytes(self) -> int:
        """The whole matrix K x d, float32."""
        return 4 * self.clients * self.parameters


@dataclass(frozen=True)
class Measured:
    """One stage of one method at one size, over the repeats that it ran in, in their order. moved_bytes [R]: brought from
    other nodes; returned_bytes [R]: answers to the server from there; to_disk_bytes, from_disk_bytes [R]: spilled, restored. busy [R]: share of the workers' time in it that tasks took. link_s [R]: what the bytes that came to one node take
    on its link, alone; bits_per_s: of each link, inf without a limit. workers: of all nodes together; cores: those that these had. The rest: the largest of all
    repeats.
    """

    defense: str
    stage: str
    size: MatrixSize
    order: int
    repeats: tuple[int, ...]
    wall_s: Values
    moved_bytes: Values
    returned_bytes: Values
    to_disk_bytes: Values
    from_disk_bytes: Values
    busy: Values
    link_s: Values
    bits_per_s: float
    workers: int
    cores: int
    tasks: int
    nodes_used: int
    peak_memory_bytes: int
    spilled_bytes: int
    digests: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Measured:
        """From the rows of a stage, one a repeat."""
        rows = sorted(rows, key=lambda row: int(row["repeat"]))
        first = rows[0]
        workers = first["nodes"] * max(first["cpus_per_node"], 1)
        rate = bits_a_second(first["bandwidth"]) if first["bandwidth"] else math.inf
        most = {
            name: max(row[name] for row in rows)
            for name in ("tasks", "nodes_used", "peak_memory_bytes", "spilled_bytes")
        }
        return cls(
            defense=first["defense"],
            stage=first["stage"],
            size=MatrixSize(*(first[name] for name in MatrixSize._fields)),
            order=min(row["order"] for row in rows),
            repeats=tuple(row["repeat"] for row in rows),
            wall_s=Values.of(row["wall_s"] for row in rows),
            moved_bytes=Values.of(row["bytes_moved"] for row in rows),
            returned_bytes=Values.of(row["bytes_returned"] for row in rows),
            to_disk_bytes=Values.of(row["bytes_spilled"] for row in rows),
            from_disk_bytes=Values.of(row["bytes_restored"] for row in rows),
            busy=Values.of(
                row["busy_s"] / (workers * row["wall_s"]) if row["wall_s"] else np.nan for row in rows
            ),
            link_s=Values.of(8 * row["bytes_to_one_node"] / rate for row in rows),
            bits_per_s=rate,
            workers=workers,
            cores=min(workers, first["machine_cpus"] or workers),
            digests=tuple(row["digest"] for row in rows),
            **most,
        )

    @property
    def busy_s(self) -> float:
        """Seconds of its tasks together, median."""
        return self.busy.median * self.workers * self.wall_s.median

    def over(self, other: Measured | None) -> Values | None:
        """Its seconds over another's, repeat by repeat, since what slows the machine slows both; None if no repeat has both."""
        known = dict(zip(other.repeats, other.wall_s.all, strict=True)) if other else {}
        pairs = zip(self.repeats, self.wall_s.all, strict=True)
        ratios = [spent / known[repeat] for repeat, spent in pairs if known.get(repeat)]
        return Values.of(ratios) if ratios else None


Line = tuple[str, str, str]
"""A method, a stage of it, and the label of both."""


@dataclass(frozen=True)
class OneMatrix:
    """All measurements of one matrix (or case), by (method, stage, size). slug: ends the names of its figures' files; what: what the
    methods are called; planned: they in their order; memory: rows of the table of memory.
    """

    title: str
    slug: str
    what: str
    parameters: int
    found: Mapping[tuple[str, str, MatrixSize], Measured]
    memory: Sequence[Row] = field(default=(), repr=False)

    @cached_property
    def defenses(self) -> list[str]:
        """In the order they were planned, without the limits."""
        return list(dict.fromkeys(defense for defense, _, _ in self.found if defense != LIMITS))

    @cached_property
    def clients(self) -> list[int]:
        """Every K at which a method was measured, ascending."""
        return sorted({size.clients for defense, _, size in self.found if defense != LIMITS})

    @cached_property
    def nodes(self) -> list[int]:
        """Every number of nodes on which a method was measured, ascending."""
        return sorted({size.nodes for defense, _, size in self.found if defense != LIMITS})

    @cached_property
    def laws(self) -> dict[tuple[str, str, MatrixSize], PowerLaw]:
        """Growth in K by method, stage and size, whose K is 0."""
        return laws(self.found.values(), "clients")

    def size(self, clients: int, nodes: int) -> MatrixSize:
        """That many clients and nodes with this d."""
        return MatrixSize(clients, self.parameters, nodes)

    def sizes(self, defense: str, stage: str = WHOLE) -> dict[MatrixSize, Measured]:
        """One stage of one method at every size."""
        return {size: m for (of, name, size), m in self.found.items() if (of, name) == (defense, stage)}

    def stages(self, defense: str, clients: int, nodes: int) -> list[Measured]:
        """A method's stages in the order of the pipeline, without the whole and what counts twice."""
        here = (defense, self.size(clients, nodes))
        return [
            m for (of, stage, at), m in self.found.items() if (of, at) == here and stage not in (WHOLE, AFTER)
        ]

    def largest(self, nodes: int) -> dict[str, Measured]:
        """Each method's whole at its largest K on that many nodes."""
        every = {
            defense: {size: m for size, m in self.sizes(defense).items() if size.nodes == nodes}
            for defense in self.defenses
        }
        return {defense: sizes[max(sizes)] for defense, sizes in every.items() if sizes}

    def limited(self, nodes: int) -> bool:
        """Whether links between that many nodes have a known rate."""
        return any(entry.bits_per_s < math.inf for entry in self.at(nodes))

    def at(self, nodes: int) -> list[Measured]:
        """All that was measured on that many nodes, at the largest K."""
        top = {whole.size for whole in self.largest(nodes).values()}
        return [entry for entry in self.found.values() if entry.size in top]

    def label(self, whole: Measured) -> str:
        """The method's title, with K where that is not the largest one of this view."""
        name, clients = defense_title(whole.defense), whole.size.clients
        return name if clients == self.clients[-1] else f"{name} (K = {clients})"

    def lines(self) -> list[Line]:
        """Everything that is timed as a whole: the methods, then the limits."""
        limits = [
            (LIMITS, stage, label) for stage, label in LIMIT_LABELS.items() if self.sizes(LIMITS, stage)
        ]
        return [*((defense, WHOLE, defense_title(defense)) for defense in self.defenses), *limits]

    def with_autoencoder(self) -> list[str]:
        """The defenses that train an autoencoder on maps."""
        stages = {(defense, stage) for defense, stage, _ in self.found}
        return [d for d in self.defenses if (d, MAPS) in stages and (d, AUTOENCODER) in stages]

    def maps_seconds(self, defense: str, size: MatrixSize) -> tuple[Values, Values] | None:
        """(Maps alone, maps and autoencoder), the repeats that have both; None if there are none."""
        maps, coder = (self.found.get((defense, stage, size)) for stage in (MAPS, AUTOENCODER))
        if maps is None or coder is None:
            return None
        added = dict(zip(coder.repeats, coder.wall_s.all, strict=True))
        pairs = zip(maps.repeats, maps.wall_s.all, strict=True)
        both = [(alone, alone + added[repeat]) for repeat, alone in pairs if repeat in added]
        return (Values(np.array(both)[:, 0]), Values(np.array(both)[:, 1])) if both else None


def views(
    rows: Iterable[Row],
    memory: Sequence[Row],
    planned: Sequence[str],
    group: Callable[[Row], tuple[str, str]],
    what: str = "defense",
) -> list[OneMatrix]:
    """One view for each group of rows in which a method was measured. planned: the methods in their order. group: of a row, the
    end of its figures' names and its title.
    """
    grouped: dict[tuple[str, str], dict[tuple[str, MatrixSize, str], list[Row]]] = {}
    for row in rows:
        size = MatrixSize(*(row[name] for name in MatrixSize._fields))
        of_group = grouped.setdefault(group(row), {})
        of_group.setdefault((row["defense"], size, row["stage"]), []).append(row)
    kept = {key: at for key, at in grouped.items() if any(defense != LIMITS for defense, _, _ in at)}
    found = []
    for (slug, title), at in kept.items():
        names = list(dict.fromkeys([*planned, *(defense for defense, _, _ in at)]))
        entries = sorted(
            (Measured.of(own) for own in at.values()),
            key=lambda m: (names.index(m.defense), m.size, m.order, m.stage),
        )
        held = [row for row in memory if group(row) == (slug, title)]
        by_place = {(m.defense, m.stage, m.size): m for m in entries}
        parameters = entries[0].size.parameters
        found.append(OneMatrix(title, f"-{slug}" if len(kept) > 1 else "", what, parameters, by_place, held))
    return found


def laws(measured: Iterable[Measured], along: str) -> dict[tuple[str, str, MatrixSize], PowerLaw]:
    """The power law of each stage along `clients` (for each d and number of nodes) or `parameters` (for each K); what varies is 0
    in the size.
    """
    lines: dict[tuple[str, str, MatrixSize], list[Measured]] = {}
    for entry in measured:
        fixed = entry.size._replace(**{along: 0})
        lines.setdefault((entry.defense, entry.stage, fixed), []).append(entry)
    found = {
        key: power_law([getattr(e.size, along) for e in entries], [e.wall_s.all for e in entries])
        for key, entries in lines.items()
    }
    return {key: law for key, law in found.items() if law is not None}


class Ratio(NamedTuple):
    """Median seconds over other ones; low, high: the first's lower quartile over the other's upper one, and the reverse."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, first: Values, other: Values) -> Ratio:
        """Of values whose repeats do not belong together."""
        (low, high), (other_low, other_high) = first.quartiles, other.quartiles
        pairs = ((first.median, other.median), (low, other_high), (high, other_low))
        return cls(*(top / bottom if bottom > 0 else np.nan for top, bottom in pairs))


def strong_scaling(whole: Mapping[MatrixSize, Measured]) -> dict[MatrixSize, tuple[int, Ratio]]:
    """Of each K and d on several numbers of nodes: the fewest n, and the speed-up T(n) / T(size) against it."""
    found = {}
    for size, entry in sorted(whole.items()):
        base = min(other for other in whole if other._replace(nodes=0) == size._replace(nodes=0))
        if size != base:
            found[size] = (base.nodes, Ratio.of(whole[base].wall_s, entry.wall_s))
    return found


def weak_scaling(whole: Mapping[MatrixSize, Measured]) -> dict[MatrixSize, Ratio]:
    """Of n > 1 nodes and n K clients where K clients were measured on one node: T(K, 1) / T(n K, n)."""
    found = {}
    for size, entry in sorted(whole.items()):
        alone = MatrixSize(size.clients // size.nodes, size.parameters, 1)
        if size.nodes > 1 and size.clients % size.nodes == 0 and alone in whole:
            found[size] = Ratio.of(whole[alone].wall_s, entry.wall_s)
    return found


def shares(stages: Sequence[Measured]) -> list[float]:
    """The part of each of a method's stages in its seconds: medians over the sum of medians, so they add up to 1."""
    total = sum(stage.wall_s.median for stage in stages)
    return [stage.wall_s.median / total if total > 0 else np.nan for stage in stages]


def digest_mismatches(
    measured: Iterable[Measured],
) -> tuple[dict[tuple[str, MatrixSize], dict[str, list[tuple[int, int]]]], int]:
    """Where one method on one matrix did not always end in the same bytes: (method, size without nodes) -> digest -> its (nodes,
    repeat)s; and how many matrices had at least two results to compare.
    """
    seen: dict[tuple[str, MatrixSize], dict[str, list[tuple[int, int]]]] = {}
    for entry in measured:
        if entry.stage == WHOLE:
            key = (entry.defense, entry.size._replace(nodes=0))
            for repeat, digest in zip(entry.repeats, entry.digests, strict=True):
                if digest:
                    seen.setdefault(key, {}).setdefault(digest, []).append((entry.size.nodes, repeat))
    compared = {key: found for key, found in seen.items() if sum(map(len, found.values())) > 1}
    return {key: found for key, found in compared.items() if len(found) > 1}, len(compared)
