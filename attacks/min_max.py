"""Min-max and min-sum: as far along a fixed direction as the benign updates' own spread allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from attacks.rows import gram_with, mean_row, one_row_for_all, std_row
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.matrix.distances import distances_in
from raysim.matrix.updates import Updates
from raysim.options import Positive


@dataclass(frozen=True)
class MinMax(Attack):
    """Submit mu + gamma p, gamma the largest that keeps every distance within the benign updates' largest.

    max_i D(u', u_i) <= max_ij D(u_i, u_j), on updates, not models; mu and sigma per coordinate. All attackers submit the
    same row; its buffers are the mean of the models seen. Where p is zero, `std` is used instead; where that is zero too,
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
        gram = source.reduce_columns("min_max", gram_with, along, mean)
        # p is made up to its length: for `unit` that is ||mu||, the length of the row in the Gram matrix.
        length = float(np.sqrt(gram[-1, -1])) if direction == "unit" else 1.0
        scale = np.append(np.ones(source.num_clients), 1 / length)
        gram = gram * np.outer(scale, scale)
        gamma = 0.0
        if gram[-1, -1] > 0:
            gamma = largest_feasible(self._feasible(gram), self.initial_gamma, self.tolerance)
        crafted = one_row_for_all(source, view.own, "min_max", mean + gamma / length * along)
        return crafted, {"gamma": gamma, "direction": direction}

    def diagnostics(self, state: State) -> Diagnostics:
        """gamma: the length of the step; direction: the direction it was taken in."""
        return dict(state)

    def _feasible(self, gram: np.ndarray) -> Callable[[float], bool]:
        """Whether mu + gamma p is within bounds, from the Gram matrix of the centred rows and p."""
        bound = distances_in(gram[:-1, :-1]).max()
        return lambda gamma: bool(_to_rows(gram, gamma).max() <= bound)


@dataclass(frozen=True)
class MinSum(MinMax):
    """Submit mu + gamma p, gamma the largest that keeps the sum of squared distances within the benign maximum.

    sum_i D^2(u', u_i) <= max_i sum_j D^2(u_i, u_j). Directions, options and source as for min_max.
    """

    def _feasible(self, gram: np.ndarray) -> Callable[[float], bool]:
        bound = distances_in(gram[:-1, :-1]).sum(1).max()
        return lambda gamma: bool(_to_rows(gram, gamma).sum() <= bound)


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


def _to_rows(gram: np.ndarray, gamma: float) -> np.ndarray:
    """D^2(mu + gamma p, u_i) [K]."""
    squares: np.ndarray = np.diag(gram)[:-1] - 2 * gamma * gram[:-1, -1] + gamma**2 * gram[-1, -1]
    return squares
