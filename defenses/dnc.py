"""DnC: drop the updates that stand out along the direction in which the updates differ most.

Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and defenses for federated
learning", NDSS 2021 (divide and conquer). Ports differ: Blades repeats 5 times (option `repeats`), FLPoison too, on
a fifth of the parameters (option `dimensions`); SignGuard's authors draw 1,000 parameters once, and drop a share (K - 1) / K
of num_byzantine (option `filter_fraction`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.backends.base import ACCELERATED
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.column_tasks import Columns
from raysim.matrix.updates import Updates
from raysim.options import Count, Positive, PositiveInt
from raysim.requirement import Requirement


@dataclass(frozen=True)
class DnC(Defense):
    """Mean of the updates that no repetition drops: each drops the largest projections on the leading direction.

    A repetition draws `dimensions` parameters, centres the updates there, and projects them on the top right singular
    vector v: s_i = <u_i - mean, v>^2. The filter_fraction * num_byzantine largest are dropped (rounded down), and flagged.
    Scores: s_i as a share of sum s, meaned over the repetitions. The mean is uniform, as in these ports. If nobody is
    left, the global model stays.

    A round left with fewer rows than planned assumes at most what those tolerate. Only inner products [K, K] leave the tasks: with the centred columns X the projections are X v = sigma u, and u is an
    eigenvector of X X^T.
    """

    paper = "Shejwalkar and Houmansadr, NDSS 2021"
    judges_buffers = True
    on_buffers = (
        "it looks for the direction in which updates differ most; where that is staleness, the stalest are "
        "suspected"
    )
    reads_columns = True
    needs = frozenset({Requirement.GRAM})
    num_byzantine: Count | None = None
    """Assumed number m of malicious clients, 2 m < K; null: floor((K - 1) / 2), the most that K tolerates."""
    repeats: PositiveInt = 1
    """Draws of parameters, of which each drops updates (SignGuard's authors: 1; Blades, FLPoison: 5)."""
    filter_fraction: Positive = 1.0
    """Updates that a repetition drops, in multiples of num_byzantine (Blades, FLPoison: 1)."""
    dimensions: PositiveInt = 10_000
    """Parameters drawn in a repetition, at most all of them (Blades: 10,000; SignGuard's authors: 1,000; FLPoison: a
    fifth of all)."""

    def assumed(self, count: int) -> int | None:
        """m."""
        return minority(self.num_byzantine, count)

    def check(self, setting: Setting) -> None:
        """2 m < K, and somebody must be left."""
        check_minority(self.num_byzantine, setting.cohort)
        drops = int(self.filter_fraction * minority(self.num_byzantine, setting.cohort))
        if drops >= setting.cohort:
            rule = f"must leave one of {setting.cohort} clients; {drops} would be dropped"
            raise ConfigError("filter_fraction", rule, self.filter_fraction, 1.0)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """One pass over the drawn columns for all repetitions, small eigenproblems, one mean."""
        count, size = updates.num_clients, min(self.dimensions, updates.dim)
        drops = min(int(self.filter_fraction * minority(self.num_byzantine, count)), count - 1)
        drawn = np.zeros((self.repeats, updates.dim), bool)
        with ctx.stage("draw"):
            for number, row in enumerate(drawn):
                draw = ctx.generator("dimensions", number)
                row[draw.choice(updates.dim, size, replace=False, shuffle=False)] = True
        grams = updates.reduce_columns("gram", centred_grams, drawn, dtype=np.float64, needs=ACCELERATED)
        with ctx.stage("spectrum"):
            shares = np.stack([leading_shares(gram) for gram in grams])
            flagged = np.zeros(count, bool)
            for share in shares:
                flagged[np.argsort(share, kind="stable")[count - drops :]] = True
        aggregate, weights = accepted_mean(updates, flagged, uniform=True)
        return Verdict(aggregate, weights, shares.mean(axis=0), flagged), state


def centred_grams(columns: Columns, drawn: Columns) -> Columns:
    """For each row of drawn [m, c]: the inner products [K, K] of the columns [K, c] where it is not 0, centred. [m, K, K]."""
    centred = columns - columns.mean(0)
    if not isinstance(columns, np.ndarray):
        import torch

        return torch.stack(
            [(centred * mask) @ centred.T for mask in drawn]
        )  # picking columns would wait for the device
    kept = [centred[:, mask > 0] for mask in drawn]
    return np.stack([part @ part.T for part in kept])


def leading_shares(gram: np.ndarray) -> np.ndarray:
    """Squared projections [K] of the rows of a Gram matrix [K, K] on their leading direction, as shares of their sum.

    Zeros where all rows are equal.
    """
    values, vectors = np.linalg.eigh(gram)
    shares: np.ndarray = vectors[:, -1] ** 2 if values[-1] > 0 else np.zeros(len(gram))
    return shares


def minority(num_byzantine: int | None, count: int) -> int:
    """The f < K / 2 that a round of K rows assumes: None is the most, and the limit."""
    most = max((count - 1) // 2, 0)
    return most if num_byzantine is None else min(num_byzantine, most)


def check_minority(num_byzantine: int | None, cohort: int) -> None:
    """ConfigError unless 2 f < K."""
    most = minority(None, cohort)
    if num_byzantine is not None and num_byzantine > most:
        rule = f"must be less than half of {cohort}, the clients in a round"
        raise ConfigError("num_byzantine", rule, num_byzantine, most)
