"""One network in one setup: what a section of the scaling report and its figures show."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from raysim.composition.registry import defense_title
from raysim.studies.scaling.read import COPY, GRAM, MatrixSize, Measured, Setup
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.stages import WHOLE

MAPS, AUTOENCODER = "cam", "autoencoder"
"""The stages of the defenses that train an autoencoder on class-activation maps."""

LIMIT_LABELS = {COPY: "limit: one copy", GRAM: "limit: Gram product"}


@dataclass(frozen=True)
class ScalingView:
    """All measurements of one d in one setup, by (defense, stage, size). slug: ends the names of its figures' files."""

    setup: Setup
    parameters: int
    model: str
    slug: str
    found: dict[tuple[str, str, MatrixSize], Measured]

    @property
    def defenses(self) -> list[str]:
        """In the order they were planned, without the limits."""
        return list(dict.fromkeys(defense for defense, _, _ in self.found if defense != LIMITS))

    @property
    def clients(self) -> list[int]:
        """Every K at which a defense was measured, ascending."""
        return sorted({size.clients for defense, _, size in self.found if defense != LIMITS})

    @property
    def nodes(self) -> list[int]:
        """Every number of nodes on which a defense was measured, ascending."""
        return sorted({size.nodes for defense, _, size in self.found if defense != LIMITS})

    def size(self, clients: int, nodes: int) -> MatrixSize:
        """That many clients and nodes with this d."""
        return MatrixSize(clients, self.parameters, nodes)

    def get(self, defense: str, stage: str, clients: int, nodes: int) -> Measured | None:
        """One entry, or None if it was not measured."""
        return self.found.get((defense, stage, self.size(clients, nodes)))

    def sizes(self, defense: str, stage: str = WHOLE) -> dict[MatrixSize, Measured]:
        """One stage of one defense at every size."""
        return {size: m for (of, name, size), m in self.found.items() if (of, name) == (defense, stage)}

    def stages(self, defense: str, clients: int, nodes: int) -> list[Measured]:
        """A defense's stages in the order of the pipeline, without the whole."""
        here = (defense, self.size(clients, nodes))
        return [m for (of, stage, at), m in self.found.items() if (of, at) == here and stage != WHOLE]

    def largest(self, nodes: int) -> dict[str, Measured]:
        """Each defense's whole `apply` at its largest K on that many nodes."""
        tops = {}
        for defense in self.defenses:
            sizes = [size for size in self.sizes(defense) if size.nodes == nodes]
            if sizes:
                tops[defense] = self.sizes(defense)[max(sizes)]
        return tops

    def label(self, whole: Measured) -> str:
        """The defense's title, with K where that is not the largest one of this view."""
        name, clients = defense_title(whole.defense), whole.size.clients
        return name if clients == self.clients[-1] else f"{name} (K = {clients})"

    def lines(self) -> list[tuple[str, str, str]]:
        """(defense, stage, label) of everything that is timed as a whole: the defenses, then the limits."""
        wholes = [(defense, WHOLE, defense_title(defense)) for defense in self.defenses]
        limits = [
            (LIMITS, stage, label) for stage, label in LIMIT_LABELS.items() if self.sizes(LIMITS, stage)
        ]
        return [*wholes, *limits]

    def with_autoencoder(self) -> list[str]:
        """The defenses that train an autoencoder on maps."""
        stages = {(defense, stage) for defense, stage, _ in self.found}
        return [d for d in self.defenses if (d, MAPS) in stages and (d, AUTOENCODER) in stages]

    def maps_seconds(self, defense: str, clients: int, nodes: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(maps alone [R], maps and autoencoder [R]), the repeats that have both; None if there are none."""
        maps, coder = (self.get(defense, stage, clients, nodes) for stage in (MAPS, AUTOENCODER))
        if maps is None or coder is None:
            return None
        added = dict(zip(coder.runs, coder.wall_s, strict=True))
        both = [(s, s + added[run]) for run, s in zip(maps.runs, maps.wall_s, strict=True) if run in added]
        return (np.array([s for s, _ in both]), np.array([s for _, s in both])) if both else None


def views(measured: Iterable[Measured]) -> list[ScalingView]:
    """One view for each setup and d in which a defense was measured, in that order."""
    grouped: dict[tuple[Setup, int], list[Measured]] = {}
    for entry in measured:
        grouped.setdefault((entry.setup, entry.size.parameters), []).append(entry)
    keys = sorted(key for key, entries in grouped.items() if any(e.defense != LIMITS for e in entries))
    return [
        ScalingView(
            setup,
            parameters,
            grouped[setup, parameters][0].model,
            _slug(keys, (setup, parameters)),
            {(e.defense, e.stage, e.size): e for e in grouped[setup, parameters]},
        )
        for setup, parameters in keys
    ]


def _slug(keys: list[tuple[Setup, int]], key: tuple[Setup, int]) -> str:
    """Of what differs between the views: -raylets-d6603710; empty for a single one."""
    columns = [(*setup, f"d{parameters}") for setup, parameters in keys]
    own = (*key[0], f"d{key[1]}")
    parts = [str(own[i] or "none") for i in range(len(own)) if len({column[i] for column in columns}) > 1]
    return "".join("-" + re.sub(r"[^A-Za-z0-9.]+", "_", part) for part in parts)
