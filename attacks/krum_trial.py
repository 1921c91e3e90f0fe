"""Krum's verdict on honest updates and copies of a crafted one, for any length of the crafted step, without the updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raysim.matrix.distances import refined
from raysim.matrix.pair_distances import pair_distances
from raysim.matrix.pairs import Pairs, is_whole
from raysim.matrix.row_products import squared_norms
from raysim.matrix.updates import Updates


def distances_and_squares(rows: Updates) -> tuple[Pairs, np.ndarray]:
    """Squared distances [K, K] between the rows, and their squared norms [K]."""
    if is_whole(rows.num_clients):
        gram = rows.gram("fang_krum")
        return Pairs.whole(refined(rows, gram, "fang_krum"), rows.backend), np.diag(gram)
    return pair_distances(rows, "fang_krum"), squared_norms(rows, "fang_krum")


def trial_of(
    distances: Pairs, honest: np.ndarray, squares: np.ndarray, dots: np.ndarray, sign_square: float
) -> KrumTrial | TiledTrial:
    """Krum's verdict on some of the rows (numbers [n], ascending) and copies of -lambda s."""
    if distances.is_whole:
        among = distances.to_array()[np.ix_(honest, honest)]
        return KrumTrial.of(among, squares[honest], dots[honest], sign_square)
    return TiledTrial(distances, honest, squares[honest], dots[honest], sign_square)


@dataclass(frozen=True)
class KrumTrial:
    """Krum's verdict on n honest updates and some copies of -lambda s, for any lambda, without the updates.

    ordered [n, n - 1]: each honest update's squared distances to the others, ascending; sums [n, n]: their
    prefix sums; squares [n]: squared norms; dots [n]: inner products with s; sign_square: s^T s.
    """

    ordered: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    dots: np.ndarray
    sign_square: float

    @classmethod
    def of(
        cls, distances: np.ndarray, squares: np.ndarray, dots: np.ndarray, sign_square: float
    ) -> KrumTrial:
        """From squared distances [n, n] among the honest updates."""
        count = len(distances)
        others = distances[~np.eye(count, dtype=bool)].reshape(count, max(count - 1, 0))
        ordered = np.sort(others, axis=1)
        sums = np.concatenate([np.zeros((count, 1)), np.cumsum(ordered, axis=1)], axis=1)
        return cls(ordered, sums, squares, dots, float(sign_square))

    def bound(self, neighbours: int, copies: int, dim: int) -> float:
        """lambda_0: no larger lambda can be accepted with this many copies (as the paper bounds it)."""
        nearest = self.sums[:, min(neighbours, self.sums.shape[1] - 1)].min()
        spread = np.sqrt(nearest / ((neighbours - copies + 1) * dim))
        return float(spread + np.sqrt(self.squares.max() / dim))

    def picked(self, steps: list[float], copies: int, neighbours: int, before: np.ndarray) -> Iterator[bool]:
        """`picks_crafted` of one step after the other, as it is asked for."""
        return (self.picks_crafted(step, copies, neighbours, before) for step in steps)

    def picks_crafted(self, step: float, copies: int, neighbours: int, before: np.ndarray) -> bool:
        """Whether Krum on the honest updates and `copies` of -step s picks a copy.

        before [n]: honest updates that win a tie against the copies, being of a lower client index.
        """
        to_crafted = distances_to_crafted(step, self.squares, self.dots, self.sign_square)
        honest = honest_scores(self.ordered, self.sums, to_crafted, copies, neighbours)
        return crafted_wins(to_crafted, honest, copies, neighbours, before)


@dataclass(frozen=True)
class TiledTrial:
    """The same beside the tiles of the distances [K, K] among more rows, of which `honest` [n] are the updates.

    All steps asked for are tried in one pass, in which each row is sorted once, and no row is kept.
    """

    distances: Pairs
    honest: np.ndarray
    squares: np.ndarray
    dots: np.ndarray
    sign_square: float

    def bound(self, neighbours: int, copies: int, dim: int) -> float:
        """As KrumTrial's."""
        nearest = self.distances.map_rows("fang_krum", _nearest_among, self.honest, neighbours).min()
        spread = np.sqrt(nearest / ((neighbours - copies + 1) * dim))
        return float(spread + np.sqrt(self.squares.max() / dim))

    def picked(self, steps: list[float], copies: int, neighbours: int, before: np.ndarray) -> Iterator[bool]:
        """Whether Krum picks a copy at each step, as KrumTrial's."""
        if not steps:
            return iter([])
        to_crafted = np.stack(
            [distances_to_crafted(step, self.squares, self.dots, self.sign_square) for step in steps]
        )
        every = np.zeros((self.distances.count, len(steps)))
        every[self.honest] = to_crafted.T
        shared = (self.honest, every, copies, neighbours)
        scores = self.distances.map_rows("fang_krum", _scores_with_copies, *shared)[self.honest].T
        return (
            crafted_wins(own, honest, copies, neighbours, before)
            for own, honest in zip(to_crafted, scores, strict=True)
        )


def distances_to_crafted(
    step: float, squares: np.ndarray, dots: np.ndarray, sign_square: float
) -> np.ndarray:
    """Squared distances [n] of the honest updates to -step s."""
    distances: np.ndarray = np.maximum(step**2 * sign_square + 2 * step * dots + squares, 0.0)
    return distances


def honest_scores(
    ordered: np.ndarray, sums: np.ndarray, to_crafted: np.ndarray, copies: int, neighbours: int
) -> np.ndarray:
    """Krum scores [t] of honest updates among the others, by ordered distances [t, n - 1] and their prefix sums [t, n].

    The nearest are the honest neighbours nearer than the copies (at distances to_crafted [t]), the copies, then the rest.
    """
    nearer = np.minimum((ordered < to_crafted[:, None]).sum(1), neighbours)
    taken = np.minimum(neighbours - nearer, copies)
    scores: np.ndarray = sums[np.arange(len(nearer)), neighbours - taken] + taken * to_crafted
    return scores


def crafted_wins(
    to_crafted: np.ndarray, honest: np.ndarray, copies: int, neighbours: int, before: np.ndarray
) -> bool:
    """Whether a copy has the least score; before [n]: honest updates that win a tie."""
    crafted = np.sort(to_crafted)[: max(neighbours - (copies - 1), 0)].sum()
    return bool((crafted < honest[before]).all() and (crafted <= honest[~before]).all())


def _ordered(rows: np.ndarray, first: int, honest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of some rows are honest, and their distances to the other honest ones, ascending [t, n - 1]."""
    here = np.flatnonzero(np.isin(first + np.arange(len(rows)), honest))
    among = rows[np.ix_(here, honest)]
    others = among[honest != first + here[:, None]].reshape(len(here), len(honest) - 1)
    return here, np.sort(others, axis=1)


def _nearest_among(rows: np.ndarray, first: int, honest: np.ndarray, neighbours: int) -> np.ndarray:
    """Krum scores [t] among the honest; infinite for others."""
    here, ordered = _ordered(rows, first, honest)
    scores = np.full(len(rows), np.inf)
    scores[here] = ordered[:, :neighbours].sum(axis=1)
    return scores


def _scores_with_copies(
    rows: np.ndarray, first: int, honest: np.ndarray, to_crafted: np.ndarray, copies: int, neighbours: int
) -> np.ndarray:
    """`honest_scores` [t, steps] for to_crafted [K, steps]; zeros for others."""
    here, ordered = _ordered(rows, first, honest)
    sums = np.concatenate([np.zeros((len(here), 1)), np.cumsum(ordered, axis=1)], axis=1)
    scores = np.zeros((len(rows), to_crafted.shape[1]))
    for number in range(to_crafted.shape[1]):
        own = to_crafted[first + here, number]
        scores[here, number] = honest_scores(ordered, sums, own, copies, neighbours)
    return scores
