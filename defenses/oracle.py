"""The oracle: not a defense, but what a perfect detector would leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raysim.context import Context, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class Oracle(Defense):
    """Calibration only: is shown who attacks, removes exactly them, and averages the rest.

    The bound that no detector can pass, and what published GradCAM-AE scripts measure where they overwrite the
    detector's verdict with the attackers' indices. ConfigError if the truth is not shown.
    """

    paper = "none: calibration only"
    judges_buffers = True
    on_buffers = "it is told who attacks"
    calibration: ClassVar[bool] = True

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Flag the true attackers; scores are 1 for them and 0 for the others."""
        if ctx.truth is None:
            raise ConfigError("defense", "the oracle must be shown the true attackers", None)
        flagged = np.isin(updates.client_ids, ctx.truth)
        aggregate, weights = accepted_mean(updates, flagged)
        return Verdict(aggregate, weights, flagged.astype(np.float64), flagged), state
