"""Growth as a power of the size, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95

MIN_POINTS = 3
"""Two sizes fix a line and leave nothing to judge it by."""


@dataclass(frozen=True)
class PowerLaw:
    """seconds = coefficient * size ** exponent, and how far to trust it.

    low, high: the exponent's 95 % confidence interval. largest_deviation: of the points from the line, as a share of
    the line (0.1: one is 10 % off). last_exponent: the slope between the two largest sizes alone; where it differs
    from `exponent`, the curve bends and no single power law describes it (at small sizes a constant overhead often
    hides the growth). points: how many sizes.
    """

    exponent: float
    low: float
    high: float
    coefficient: float
    largest_deviation: float
    last_exponent: float
    points: int
    smallest: int
    largest: int


def power_law(sizes: Sequence[int], seconds: Sequence[np.ndarray]) -> PowerLaw | None:
    """Least squares of log(median seconds) on log(size), one point a size; None for fewer than three sizes.

    sizes: distinct; seconds: the repeats at each. The confidence interval is Student's t with (sizes - 2) degrees of
    freedom, over the medians and not over all repeats. Repeats at one size share the matrix, the tiling and the
    state of the caches: they scatter by a few per cent around a value that itself lies off the line by whatever the
    stage has beside its leading term. Taken as independent evidence, thirty repeats at three sizes would claim 88
    degrees of freedom and an interval far narrower than what another choice of sizes changes. With one point a size
    the residual holds both the noise of the medians and the lack of fit; the price is a wide interval for three
    sizes (t = 12.7), which is what three sizes are worth.

    Sizes whose median is not above 0 (below the clock) are left out: they have no logarithm.
    """
    from scipy import stats

    medians = {int(n): float(np.median(s)) for n, s in zip(sizes, seconds, strict=True) if len(s)}
    known = sorted(n for n, s in medians.items() if s > 0 and math.isfinite(s))
    if len(known) < MIN_POINTS:
        return None
    x, y = np.log(known), np.log([medians[n] for n in known])
    away = x - x.mean()
    square = float(away @ away)
    slope = float(away @ y) / square
    start = float(y.mean() - slope * x.mean())
    rest = y - (start + slope * x)
    degrees = len(known) - 2
    error = math.sqrt(float(rest @ rest) / degrees / square)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    return PowerLaw(
        exponent=slope,
        low=slope - half,
        high=slope + half,
        coefficient=math.exp(start),
        largest_deviation=float(np.abs(np.expm1(rest)).max()),
        last_exponent=float((y[-1] - y[-2]) / (x[-1] - x[-2])),
        points=len(known),
        smallest=known[0],
        largest=known[-1],
    )
