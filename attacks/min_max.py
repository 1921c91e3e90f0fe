"""Min-max and min-sum: as far along a fixed direction as the benign updates' own spread allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from attacks.rows import gram_with, mean_row, one_row_for_all, std_row
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.matrix.distances import distances_in
from raysim.matrix.pair_distances import pair_distances
from raysim.matrix.pairs import Pairs, is_whole
from raysim.matrix.row_products import products_with, squares_about
from raysim.matrix.updates import Updates
from raysim.options import Positive


@dataclass(frozen=True)
class Measures:
    """Of the rows around their mean, and p: squared distances [K, K], |u_i - mu|^2 [K], (u_i - mu) p [K] and |p|^2."""

    distances: Pairs
    squares: np.ndarray
    dots: np.ndarray
    square: float

    def per_length(self, length: float) -> Measures:
        """The same for p / length."""
        return replace(self, dots=self.dots * (1 / length), square=self.square * (1 / length * (1 / length)))

    def to_rows(self, gamma: float) -> np.ndarray:
        """D^2(mu + gamma p, u_i) [K]."""
        squares: np.ndarray = self.squares - 2 * gamma * self.dots + gamma**2 * self.square
        return squares


@dataclass(frozen=True)
class MinMax(Attack):
    """Submit mu + gamma p, gamma the largest that keeps every distance within the benign updates' largest.

    max_i D(u', u_i) <= max_ij D(u_i, u_j), on updates, not models; mu and sigma per coordinate. All attackers submit the
    same row; its buffers are the mean of the models seen. If p is zero, `std` is used instead; if that is zero too,
    u' = mu. With `benign` statistics a round without a benign client leaves w_G.
    The paper's bisection starts at initial_gamma, doubled while that is still feasible (the paper's search ends at
    2 initial_gamma), and returns the last *feasible* gamma, as the paper does; Blades returns the last one tested.

    After one pass over the matrix for inner products a trial of gamma costs O(K).
    Source: Shejwalkar and Houmansadr, NDSS 2021.
    """

    paper = "Shejwalkar and Houmansadr, NDSS 2021"
    direction: Literal["std", "unit", "sign"] = "std"
    """Direction p: `std` (-sigma), `unit` (-mu / ||mu||) or `sign` (-sign(mu))."""
    statistics: Literal["benign", "own"] = "benign"
    """Whose updates bound the distance: all `benign` ones, or the attackers' `own` (update-agnostic)."""
    initial_gamma: Positive = 10.0
    """Factor on p that the bisection starts at (the paper: 10)."""
    tolerance: Positive = 1e-5
    """Interval of gamma at which the bisection ends (the paper: 1e-5)."""

    @property
    def visibility(self) -> Visibility:
        """Every model, or the colluders' only."""
        return Visibility.OMNISCIENT if self.statistics == "benign" else Visibility.COLLUDING

    @property
    def trains(self) -> bool:
        """Only where the attackers' own updates are what is measured."""
        return self.statistics == "own"

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The same row mu + gamma p for every attacker."""
        source = view.own if self.statistics == "own" else view.benign
        if source is None or not source.num_clients:
            return None, {}
        direction, mean = self.direction, mean_row(source, "min_max")
        along = perturbation(direction, source, mean)
        if not along.any():
            direction, along = "std", perturbation("std", source, mean)
        measures = measured(source, mean, along)
        # p is made up to its length: for `unit` that is ||mu||, the length of the row in the Gram matrix.
        length = float(np.sqrt(measures.square)) if direction == "unit" else 1.0
        measures = measures.per_length(length)
        gamma = 0.0
        if measures.square > 0:
            gamma = largest_feasible(self._feasible(measures), self.initial_gamma, self.tolerance)
        crafted = one_row_for_all(source, view.own, "min_max", mean + gamma / length * along)
        return crafted, {"gamma": gamma, "direction": direction}

    def diagnostics(self, state: State) -> Diagnostics:
        """gamma: the length of the step; direction: the direction it was taken in."""
        return dict(state)

    def _feasible(self, measures: Measures) -> Callable[[float], bool]:
        """Whether mu + gamma p is within bounds."""
        bound = measures.distances.largest("min_max").max()
        return lambda gamma: bool(measures.to_rows(gamma).max() <= bound)


@dataclass(frozen=True)
class MinSum(MinMax):
    """Submit mu + gamma p, gamma the largest that keeps the sum of squared distances within the benign maximum.

    sum_i D^2(u', u_i) <= max_i sum_j D^2(u_i, u_j). Directions, options and source as for min_max.
    """

    def _feasible(self, measures: Measures) -> Callable[[float], bool]:
        bound = measures.distances.sums("min_max").max()
        return lambda gamma: bool(measures.to_rows(gamma).sum() <= bound)


def largest_feasible(feasible: Callable[[float], bool], start: float, tolerance: float) -> float:
    """The largest gamma found feasible, to within `tolerance`, where the feasible ones are [0, some bound].

    >>> round(largest_feasible(lambda gamma: gamma <= 3.3, 10.0, 1e-5), 4)
    3.3
    """
    while feasible(start):
        start *= 2
    gamma, step, best = start, start, 0.0
    while abs(best - gamma) > tolerance:
        step /= 2
        if feasible(gamma):
            best, gamma = gamma, gamma + step
        else:
            gamma -= step
    return best


def perturbation(direction: str, rows: Updates, mean: np.ndarray) -> np.ndarray:
    """p up to its length, [d] float64."""
    if direction == "std":
        return -std_row(rows, mean, "min_max")
    return -np.sign(mean) if direction == "sign" else -mean


def measured(rows: Updates, mean: np.ndarray, along: np.ndarray) -> Measures:
    """The measures of rows around their mean [d] float64 and p [d] float64."""
    if is_whole(rows.num_clients):
        gram = rows.reduce_columns("min_max", gram_with, along, mean)
        distances = Pairs.whole(distances_in(gram[:-1, :-1]), rows.backend)
        return Measures(distances, np.diag(gram)[:-1], gram[:-1, -1], float(gram[-1, -1]))
    distances = pair_distances(rows, "min_max", about=mean)
    squares = squares_about(rows, rows.backend.put(mean), "min_max")
    dots = products_with(rows, rows.backend.put(along), "min_max")[:, 0] - mean @ along
    return Measures(distances, squares, dots, float(along @ along))
