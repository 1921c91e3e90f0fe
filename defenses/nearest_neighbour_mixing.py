"""Nearest-neighbour mixing, a pre-aggregation: replace every update by the mean of its neighbourhood.

Allouah et al., "Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity", AISTATS 2023; ByzFL calls it
`NNM`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from defenses.mixing import mix_rows
from raysim.context import Context, Setting, State
from raysim.defense import PreAggregation
from raysim.errors import ConfigError
from raysim.matrix.pair_distances import pair_distances
from raysim.matrix.updates import Updates
from raysim.options import Count
from raysim.requirement import Requirement


@dataclass(frozen=True)
class NearestNeighbourMixing(PreAggregation):
    """Replaces every update by the mean of its K - f nearest, itself included, in front of another defense.

    A round that is left with fewer rows than planned assumes at most floor((K - 1) / 2). Buffers are left as they are.
    """

    paper = "Allouah et al., AISTATS 2023"
    judges_buffers = True
    on_buffers = "it mixes updates with those nearest to them, which are likely to be as stale"
    reads_columns = True
    needs = frozenset({Requirement.GRAM})
    num_byzantine: Count | None = None
    """Assumed number f of malicious clients; each row becomes the mean of its K - f nearest; null: the
    most that K tolerates."""

    keeps_rows = True

    def assumed(self, count: int) -> int | None:
        """f."""
        most = (count - 1) // 2
        return most if self.num_byzantine is None else min(self.num_byzantine, most)

    def check(self, setting: Setting) -> None:
        """2 f < K, and no more than one process holds."""
        setting.require_all_pairs(type(self).__name__)
        if self.num_byzantine is not None and 2 * self.num_byzantine >= setting.cohort:
            raise ConfigError(
                "num_byzantine",
                f"must be less than half of {setting.cohort}, the clients in a round",
                self.num_byzantine,
                (setting.cohort - 1) // 2,
            )

    def transform(
        self, state: State, updates: Updates, ctx: Context
    ) -> tuple[Updates, np.ndarray | None, State]:
        """One unweighted mean per row; of neighbours equally far the first are taken."""
        count = updates.num_clients
        most = (count - 1) // 2
        neighbours = count - (most if self.num_byzantine is None else min(self.num_byzantine, most))
        distances = pair_distances(updates).to_array()
        with ctx.stage("neighbours"):
            nearest = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
            mixing = np.zeros((count, count))
            np.put_along_axis(mixing, nearest, 1.0 / neighbours, axis=1)
        return mix_rows(updates, mixing), None, state
