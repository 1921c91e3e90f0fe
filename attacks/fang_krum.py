"""The local-model-poisoning attack that makes Krum choose a crafted model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from attacks.krum_trial import KrumTrial, TiledTrial, distances_and_squares, trial_of
from attacks.noise_columns import BLOCK, ColumnNoise
from attacks.rows import everyone, mean_row
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, Setting, State
from raysim.errors import ConfigError
from raysim.matrix.new_rows import rows_from
from raysim.matrix.pair_distances import nearest_scores
from raysim.matrix.row_products import products_with
from raysim.matrix.updates import Updates
from raysim.options import Count, NotNegative, Positive

NORM_COLUMNS = 2**20
"""Columns whose noise one task adds up."""


@dataclass(frozen=True)
class FangKrum(Attack):
    """Push the model Krum selects against its direction: w' = w_G - lambda s, the largest lambda Krum accepts.

    s is the sign of the change without an attack; a coordinate with s_j = 0 stays at w_G (Lu et al.). The
    search starts at lambda_0 and halves until a trial Krum picks a crafted model or lambda < lambda_min;
    then the attack has failed for the round, the honest models are submitted and the diagnostics say so.
    The first attacker submits w', the others w' + epsilon rho xi / ||xi||, xi ~ U(-.5, .5)^d,
    rho ~ U(0, 1). Buffers are the attackers' own.

    `full` knowledge: s from the model Krum would select among all K honest models; the trial is Krum on
    c copies of w' and the benign models, with neighbours K - f - 2. lambda_0 is the paper's bound,
    sqrt(min_i sum_{l in nearest K-f-2} D^2(w_l, w_i) / ((K-f-c-1) d)) + max_i D(w_i, w_G) / sqrt(d) over
    benign i. Needs K >= f + c + 2. `partial`: s from the mean of the attackers' own c honest models; the
    trial is Krum on those and r copies of w' with f = r, for r = 1, then 2, ... up to c. lambda_0 is the same
    bound over the c models with one copy, for every r: with r >= c - 1 every lambda is accepted, and no bound
    would follow. Needs c >= 3.

    Inner products are computed once, so that a trial costs O(K) after sorting the distances once.
    Source: Fang et al., USENIX Security 2020; PDRR section 3.1 (Lu et al., `partial`). Published code differs: FLDetector
    works on gradients, starts at lambda = 1 and (partial) adds no randomness; FLPoison tests r < c only, with
    unsquared distances and K - f - 1 neighbours, and submits lambda = 1e-5 when its search failed.
    """

    paper = "Fang et al., USENIX Security 2020"
    knowledge: Literal["full", "partial"] = "full"
    """What the attackers see: `full`, all honest models, or `partial`, their own honest ones."""
    num_byzantine: Count | None = None
    """Number f that the attackers expect the server's Krum to assume (`full`); null: the attackers in the round."""
    lambda_min: Positive = 1e-5
    """Smallest lambda tried, in units of the parameters (Fang et al.: 1e-5; Lu et al.: 1e-9)."""
    epsilon: NotNegative = 0.01
    """Radius in which the other attackers' models scatter (Fang et al.: 0.01; Lu et al.: 1e-7)."""
    refinements: Count = 0
    """Bisections between the accepted lambda and the failed one above it; 0: none."""

    @property
    def visibility(self) -> Visibility:
        """Every model with full knowledge, the colluders' with partial."""
        return Visibility.OMNISCIENT if self.knowledge == "full" else Visibility.COLLUDING

    def check(self, setting: Setting) -> None:
        """Refuse a setting in which no round can succeed."""
        if not setting.num_malicious:
            return
        most = min(setting.num_malicious, setting.cohort)
        if self.knowledge == "partial" and most < 3:
            raise ConfigError(
                "knowledge", "`partial` needs at least 3 attackers in a cohort", "partial", "full"
            )
        fewest = max(setting.cohort - (setting.population - setting.num_malicious), 1)
        needed = (fewest if self.num_byzantine is None else self.num_byzantine) + fewest + 2
        if self.knowledge == "full" and setting.cohort < needed:
            rule = f"`full` needs a cohort of num_byzantine + attackers + 2, at least {needed} clients"
            raise ConfigError("num_byzantine", f"{rule}; the cohort is {setting.cohort}", self.num_byzantine)

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The crafted rows; None if the search failed."""
        sign, search = self._full(view) if self.knowledge == "full" else self._partial(view)
        if search["failed"]:
            return None, search
        ids = view.own.client_ids
        noises = [
            ColumnNoise(ctx.seed, (ctx.role, ctx.round, int(client), "fang_krum")) for client in ids[1:]
        ]
        lengths = self.epsilon * ctx.generator("fang_krum", "lengths").random(len(noises))
        scales = lengths / np.maximum(_noise_norms(noises, ctx), np.finfo(np.float32).tiny)
        make = partial(_crafted_row, search["lambda"], noises, scales, ctx.layout.dim)
        crafted = rows_from(
            view.own, np.arange(len(ids)), "fang_krum", make, ctx.put(sign),
            client_ids=ids, num_examples=view.own.num_examples,
        )  # fmt: skip
        return crafted, search

    def diagnostics(self, state: State) -> Diagnostics:
        """lambda, lambda_0, trials, copies (r of a partial search), failed, and the reason if it did."""
        return dict(state)

    def _full(self, view: View) -> tuple[np.ndarray, State]:
        """(s [d] float32, what the search found)."""
        rows = everyone(view)
        copies = view.own.num_clients
        assumed = copies if self.num_byzantine is None else self.num_byzantine
        neighbours = rows.num_clients - assumed - 2
        if neighbours < copies:
            rule = f"a cohort of {rows.num_clients} is smaller than num_byzantine + attackers + 2"
            return np.zeros(0), failure(rule)
        is_own = np.isin(rows.client_ids, view.own.client_ids)
        distances, squares = distances_and_squares(rows)
        scores = nearest_scores(distances, "fang_krum", assumed, neighbours=neighbours)
        winner = int(np.argmin(scores))
        sign = np.sign(rows.combine(np.eye(rows.num_clients)[winner], "fang_krum"))
        dots = products_with(rows, rows.backend.put(sign), "fang_krum")[:, 0]
        benign = np.flatnonzero(~is_own)
        trial = trial_of(distances, benign, squares, dots, float(np.count_nonzero(sign)))
        before = rows.client_ids[benign] < view.own.client_ids[0]
        return sign, self._search(trial, neighbours, [copies], rows.dim, before)

    def _partial(self, view: View) -> tuple[np.ndarray, State]:
        """The same from the attackers' own models only."""
        count = view.own.num_clients
        if count < 3:
            return np.zeros(0), failure("fewer than 3 attackers in the cohort")
        distances, squares = distances_and_squares(view.own)
        sign = np.sign(mean_row(view.own, "fang_krum")).astype(np.float32)
        dots = products_with(view.own, view.own.backend.put(sign), "fang_krum")[:, 0]
        trial = trial_of(distances, np.arange(count), squares, dots, float(np.count_nonzero(sign)))
        before = np.zeros(count, bool)
        return sign, self._search(trial, count - 2, list(range(1, count + 1)), view.own.dim, before)

    def _search(
        self, trial: KrumTrial | TiledTrial, neighbours: int, copies: list[int], dim: int, before: np.ndarray
    ) -> State:
        """Halve lambda from lambda_0 for each number of copies until a trial Krum picks a crafted model."""
        bound = trial.bound(neighbours, copies[0], dim)
        trials = 0
        for count in copies:
            steps = halvings(bound, self.lambda_min)
            for step, picked in zip(steps, trial.picked(steps, count, neighbours, before), strict=True):
                trials += 1
                if picked:
                    failed_above = 2 * step
                    for _ in range(self.refinements if step < bound else 0):
                        trials += 1
                        middle = (step + failed_above) / 2
                        if next(iter(trial.picked([middle], count, neighbours, before))):
                            step = middle
                        else:
                            failed_above = middle
                    found = {"lambda": step, "lambda_0": bound, "trials": trials, "copies": count}
                    return {**found, "failed": False}
        return {"lambda_0": bound, "trials": trials, **failure("no lambda was accepted")}


def halvings(bound: float, least: float) -> list[float]:
    """bound, bound / 2, bound / 4, ..., as long as they are not below `least`.

    >>> halvings(1.0, 0.2)
    [1.0, 0.5, 0.25]
    """
    steps = []
    while bound >= least:
        steps.append(bound)
        bound /= 2
    return steps


def failure(reason: str) -> State:
    """What the state says of a search that found nothing."""
    return {"failed": True, "reason": reason}


def _noise_norms(noises: list[ColumnNoise], ctx: Context) -> np.ndarray:
    """||xi|| of each noise over all d columns."""
    ranges = [
        (first, min(NORM_COLUMNS, ctx.layout.dim - first)) for first in range(0, ctx.layout.dim, NORM_COLUMNS)
    ]
    squares = np.zeros(len(noises))
    for part in ctx.map("fang_krum", _noise_squares, ranges, noises) if noises else []:
        squares += part
    return np.sqrt(squares)


def _noise_squares(columns: tuple[int, int], noises: list[ColumnNoise]) -> np.ndarray:
    """Sums of squares [noises] of the noise in columns (first, count)."""
    first, count = columns
    total = np.zeros(len(noises))
    for start in range(first, first + count, BLOCK):
        for number, noise in enumerate(noises):
            drawn = noise.uniform(start, min(BLOCK, first + count - start), -0.5, 0.5)
            total[number] += drawn @ drawn
    return total


def _crafted_row(
    step: float,
    noises: list[ColumnNoise],
    scales: np.ndarray,
    dim: int,
    values: np.ndarray,
    first: int,
    number: int,
    sign: np.ndarray,
) -> np.ndarray:
    """-step s for the first attacker, with its noise for another; buffers are its own."""
    if first >= dim:
        return values
    row = (-step * sign).astype(np.float32)
    if number:
        scale = scales[number - 1]
        row += noises[number - 1].uniform(first, len(row), -0.5 * scale, 0.5 * scale)
    return row
