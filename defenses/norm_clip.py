"""Norm clipping and weak differential privacy: bound every update's norm, average, add noise.

Sun et al., "Can you really backdoor federated learning?", arXiv 1911.07963, 2019. The scripts of Wang et al. bound
the norm by 2 (CIFAR-10) and 1.5 (EMNIST) and use a noise of standard deviation 0.025. Published code that differs:
FLPoison adds the noise to each client's clipped update instead (option `noise_on`), with 0.002, and averages
uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.clip_norm import clip_factors
from raysim.context import Context, State
from raysim.defense import Defense, Verdict
from raysim.matrix.row_products import squared_norms
from raysim.matrix.updates import Updates
from raysim.options import NotNegative, Positive


@dataclass(frozen=True)
class NormClip(Defense):
    """Data-weighted mean of updates clipped to a norm, plus Gaussian noise if asked; rejects nobody.

    Only the mean of noised clients is used, so their noise is drawn at once: independent noises of deviation s, averaged
    with shares p_i, are N(0, s^2 sum_i p_i^2). `weights` are the data shares, before clipping; `scores` the norms.
    """

    paper = "Sun et al., arXiv 1911.07963, 2019"
    judges_buffers = True
    on_buffers = "it clips every update alone, whatever model it began from"
    bound: Positive | None = 2.0
    """Largest Euclidean norm M of an update; null: the mean norm of the round."""
    noise_std: NotNegative = 0.0
    """Standard deviation of the noise on every parameter, in units of the parameters."""
    noise_on: Literal["aggregate", "clients"] = "aggregate"
    """What the noise is added to: the `aggregate`, or each of the `clients`' updates."""

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """sum_i p_i u_i min(1, M / |u_i|) + noise."""
        shares = updates.shares
        norms = np.sqrt(squared_norms(updates))
        aggregate = updates.combine(shares * clip_factors(norms, self.bound))
        if self.noise_std > 0:
            with ctx.stage("noise"):
                spread = np.sqrt(shares @ shares) if self.noise_on == "clients" else 1.0
                noise = ctx.generator("noise").standard_normal(updates.dim, dtype=np.float32)
                aggregate = aggregate + np.float32(self.noise_std * spread) * noise
        return Verdict(aggregate, shares, norms), state
