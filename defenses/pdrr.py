"""PDRR (Lu, Li, Chen and Ma): pre-aggregation, detection, removal, re-aggregation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from defenses.base_rule import RuleDefense, krum_winner
from defenses.krum import assumed_byzantine
from defenses.order_statistics import ascending_blocks
from raysim.context import Context, State
from raysim.defense import Verdict, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates
from raysim.options import Fraction, NotNegative


@dataclass(frozen=True)
class PDRR(RuleDefense):
    """Aggregates by a rule, removes clients that the rule's own workings give away, and aggregates the rest.

    Against local model poisoning (Fang et al., 2020), section 4 of the paper; s is the sign, per parameter, of the
    pre-aggregated update, 0 within `tol`. `rule`:

    - `krum`: rho_i is Pearson's correlation of s with the signs of update i (0 where either is constant); client
      i is malicious when rho_i >= q max rho. The winner has rho = 1: at least one client is removed in every round,
      attacked or not. No removal where max rho <= 0.
    - `trimmed_mean`: n_i is in how many parameters client i is trimmed; malicious when n_i >= q max n. The paper
      asks for trim >= the number of attackers (its experiments use 2 trim = 20 for 20).
    - `median`: n_i is in how many parameters client i is the median (either middle one where K is even; the paper
      says d, meaning K); malicious when n_i <= (1 - q) max n.

    Counts leave out parameters with s = 0 (but see `count_unmoved`). The rest is aggregated by the same rule. The paper leaves open what it then
    assumes (`after_removal`), and ties: equal values of a parameter have `shared` what their places count for (the
    default), or the earlier clients have the lower places (`first`, what a stable sort of the clients gives).
    q = 0.5 by default; the paper's usable range, krum: 0.1 to 0.99. Scores: rho_i, n_i / max n, 1 - n_i / max n.
    Cost O(K^2 d) for krum, O(d K log K) for the others.
    """

    paper = "Lu et al., Front. Comput. Sci. 2022"
    judges_buffers = True
    on_buffers = (
        "it looks at which updates the rule itself uses; stale honest ones are used less, and suspected for "
        "it"
    )
    reads_columns = True
    rule: Literal["krum", "trimmed_mean", "median"] = "krum"
    """Rule that aggregates, and whose workings are judged."""
    q: Fraction = 0.5
    """Share of the largest count, or correlation, at which a client is malicious (the paper for krum:
    0.1 to 0.99)."""
    tol: NotNegative = 0.0
    """Size up to which a parameter's change counts as zero, in units of the parameters."""
    ties: Literal["shared", "first"] = "shared"
    """Equal values of a parameter have `shared` what their places count for, or the `first` clients the
    lower places."""
    count_unmoved: bool = False
    """Whether trimmed_mean and median count in parameters with s = 0, too: the paper's figure 5, which shows why not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count_unmoved and self.rule == "krum":
            raise ConfigError(
                "count_unmoved", "must be false for rule krum, which counts nothing", True, False
            )

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Pre-aggregate and count in one pass over the columns, remove, aggregate what is left."""
        count, first = updates.num_clients, self.ties == "first"
        least = -1.0 if self.count_unmoved else self.tol
        if count == 1:
            nobody = np.zeros(1, bool)
            return Verdict(*accepted_mean(updates, nobody), np.zeros(1), nobody), state
        distances = self.distances(updates)
        if distances is not None:
            winner = krum_winner(distances, np.arange(count), assumed_byzantine(self.num_byzantine, count))
            sums = updates.reduce_columns("signs", partial(sign_sums, winner=winner, tol=self.tol))
            scores = correlations(sums, winner)
            suspicious = scores >= self.q * scores.max()
        elif self.rule == "trimmed_mean":
            trim = self.assumed_trim(count)
            scores = updates.reduce_columns(
                "counts", partial(trimmed_counts, trim=trim, tol=least, first=first)
            )
            suspicious = scores >= self.q * scores.max()
        else:
            counts = updates.reduce_columns("counts", partial(median_counts, tol=least, first=first))
            suspicious = counts <= (1 - self.q) * counts.max()
            scores = counts
        highest = scores.max()
        flagged = suspicious & (highest > 0)
        if self.rule != "krum":
            scores = scores / max(highest, 1.0)
        if self.rule == "median":
            scores = 1 - scores
        return Verdict(*self.reaggregate(updates, flagged, distances), scores, flagged), state


def sign_sums(columns: np.ndarray, *, winner: int, tol: float) -> np.ndarray:
    """Of the signs s_i of columns [K, c], c < 2^24, 0 within tol: sums [K, 4] of s_i s_winner, s_i, s_i^2 and 1."""
    signs = (columns > tol).astype(np.float32)
    signs -= columns < -tol
    total = np.empty((len(columns), 4))
    # Whole numbers below 2^24: exact in float32.
    total[:, :2] = signs @ np.stack([signs[winner], np.ones_like(signs[winner])], axis=1)
    total[:, 2] = np.einsum("kc,kc->k", signs, signs)
    total[:, 3] = columns.shape[1]
    return total


def correlations(sums: np.ndarray, winner: int) -> np.ndarray:
    """Pearson's correlation [K] of each client's signs with the winner's, from `sign_sums`; 0 for constant signs."""
    product, plain, square, number = sums.T
    covariance = number * product - plain * plain[winner]
    variance = number * square - plain**2
    scale = np.sqrt(variance * variance[winner])
    return np.where(scale > 0, covariance / np.where(scale > 0, scale, 1.0), 0.0)


def trimmed_counts(columns: np.ndarray, *, trim: int, tol: float, first: bool = False) -> np.ndarray:
    """In how many columns of [K, c] each row is among the `trim` lowest or highest: [K] float64.

    Columns whose trimmed mean is within tol of 0 are left out, none where tol is below 0. Rows that tie for the last trimmed place share
    what is left to trim; with `first`, the upper rows have the lower places.
    """
    count = len(columns)
    total = np.zeros(count)
    if not trim:
        return total
    kept = count - 2 * trim
    edges = [trim - 1, trim, count - trim - 1, count - trim]
    for part, ascending in ascending_blocks(columns):
        block = columns[:, part]
        low, inner_low, inner_high, high = np.ascontiguousarray(ascending[:, edges].T)
        inner = ascending[:, trim : trim + kept].astype(np.float64) @ np.ones(kept)
        moved = np.abs(inner) > tol * kept
        tied = (low == inner_low) | (high == inner_high)
        total += _count((block <= low) | (block >= high), moved & ~tied)
        tied &= moved
        if first:
            total += _in_row_order(block[:, tied], [*range(trim), *range(count - trim, count)])
        elif tied.any():
            rows = block[:, tied]
            for beyond, limit in ((np.less, low[tied]), (np.greater, high[tied])):
                outside, level = beyond(rows, limit), rows == limit
                share = (trim - outside.sum(axis=0)) / level.sum(axis=0)
                total += outside.sum(axis=1) + level @ share
    return total


def median_counts(columns: np.ndarray, *, tol: float, first: bool = False) -> np.ndarray:
    """In how many columns of [K, c] each row is the median, or one of the middle two: [K] float64.

    Columns whose median is within tol of 0 are left out, none where tol is below 0. Rows with the same value share its places; with `first`,
    the upper rows have the lower ones.
    """
    count = len(columns)
    places = sorted({(count - 1) // 2, count // 2})
    low, high = max(places[0] - 1, 0), min(places[-1] + 2, count)
    total = np.zeros(count)
    for part, ascending in ascending_blocks(columns):
        block = columns[:, part]
        window = np.ascontiguousarray(ascending[:, low:high].T)
        middle = [window[place - low] for place in places]
        moved = np.abs(middle[0].astype(np.float64) + middle[-1]) > 2 * tol
        tied = (window[1:] == window[:-1]).any(axis=0)
        total += _count((block >= middle[0]) & (block <= middle[-1]), moved & ~tied)
        tied &= moved
        if first:
            total += _in_row_order(block[:, tied], places)
        elif tied.any():
            for value in middle:
                level = block[:, tied] == value[tied]
                total += level @ (1 / level.sum(axis=0))
    return total


def _in_row_order(rows: np.ndarray, places: list[int]) -> np.ndarray:
    """In how many columns of [K, c], each sorted stably, every row has one of the places: [K]."""
    return np.bincount(np.argsort(rows, axis=0, kind="stable")[places].ravel(), minlength=len(rows))


def _count(marks: np.ndarray, where: np.ndarray) -> np.ndarray:
    """How many of the columns `where` [c] are marked in each row of [K, c]; writes over the marks."""
    if not where.all():
        marks &= where
    counts: np.ndarray = np.bitwise_count(np.packbits(marks, axis=1)).sum(axis=1, dtype=np.float64)
    return counts
