"""What GradCAM-Krum and LayerCAM-Krum share: Krum's choice of one client, by distances between heat maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from defenses.heat_maps import HeatMapDefense
from defenses.krum import assumed_byzantine, check_cohort
from raysim.backends.base import InProcessBackend
from raysim.context import Context, Setting, State
from raysim.defense import Verdict
from raysim.matrix.distances import krum_scores, squared_distances
from raysim.matrix.updates import Updates
from raysim.options import Count


@dataclass(frozen=True)
class CAMKrum(HeatMapDefense):
    """Takes over the model of the client whose heat map lies closest to its neighbours' maps.

    Fields, besides HeatMapDefense's: see LayerCAMKrum.
    """

    num_byzantine: Count | None = None
    """Assumed number f of malicious clients, K >= 2 f + 3; null: the most that K tolerates."""

    def assumed(self, count: int) -> int | None:
        """f."""
        return assumed_byzantine(self.num_byzantine, count)

    def check(self, setting: Setting) -> None:
        """Besides an image, K >= 2 f + 3, and no more than one process holds."""
        super().check(setting)
        setting.require_all_pairs(type(self).__name__)
        check_cohort(self.num_byzantine, setting.cohort)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """The update of the lowest score; the first one when K <= 2."""
        count = updates.num_clients
        num_byzantine = assumed_byzantine(self.num_byzantine, count)
        maps = self.heat_maps(updates, ctx)
        scores = ctx.run("krum", map_scores, maps, num_byzantine)
        ranking = np.argsort(scores, kind="stable")
        weights, flagged = np.zeros(count), np.zeros(count, bool)
        weights[ranking[0]] = 1.0
        flagged[ranking[count - num_byzantine :]] = True
        artifacts = {"heat_maps": maps, "client_ids": updates.client_ids}
        return Verdict(updates.combine(weights), weights, scores, flagged, artifacts), state


def map_scores(maps: np.ndarray, num_byzantine: int) -> np.ndarray:
    """Krum scores [K] float64 of maps [K, h, w]; equal maps have a distance of exactly 0."""
    flat = Updates.from_array(maps.reshape(len(maps), -1), InProcessBackend())
    return krum_scores(squared_distances(flat), num_byzantine)
