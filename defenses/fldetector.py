"""FLDetector (Zhang, Cao, Jia and Gong, KDD 2022): clients whose updates are not what their past predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses import row_history
from defenses.clustering import gap_clusters, two_means
from defenses.sketch import sketch, sketch_codes
from raysim.context import Context, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.matrix.column_tasks import BLOCK_COLUMNS
from raysim.matrix.new_rows import rows_of_another_width
from raysim.matrix.updates import Updates
from raysim.options import AtLeastTwo, Count, PositiveInt


@dataclass(frozen=True)
class FLDetector(Defense):
    """Removes clients whose updates stray from a prediction by their last one and the global Hessian.

    Prediction: u_i(t - 1) + H (w_t - w_(t - 1)), H the compact L-BFGS matrix of the last `window` changes of the
    global model and of the aggregate. A client's score is the mean over its last `window` rounds of its prediction
    error, as a share of the cohort's errors. From round `burn_in` on: where the gap statistic finds more than one cluster
    of scores, the higher of two clusters is malicious.

    After a permanent removal the detector starts over; the global model is not rolled back, where the paper restarts the
    training. Clients are known by their id: one that was not sampled keeps its last update; a new one is accepted until
    it has a score.

    Memory: 2 window d numbers for the windows, in this process, and each client's last update, in tiles that stay where
    they were made (row_history.py); above `sketch_size` the error is measured in the projection (relative error of a distance
    about 1 / sqrt(2 sketch_size)). O(window d + K d).
    """

    paper = "Zhang et al., KDD 2022"
    on_buffers = "it predicts every update from that of the round before and from consecutive global models"
    window: PositiveInt = 10
    """Rounds that the L-BFGS matrix and a client's score look back."""
    burn_in: Count = 10
    """Round, from the start or the last removal, in which removal begins (published code: 50)."""
    permanent: bool = True
    """Whether who is caught stays out for good (the paper), or is left out for this round only."""
    max_clusters: AtLeastTwo = 7
    """Most clusters that the gap statistic tries."""
    references: PositiveInt = 10
    """Uniform reference sets of the gap statistic."""
    gap: Literal["mean_log", "log_mean"] = "mean_log"
    """Gap statistic: `mean_log` as defined, or `log_mean` (published code)."""
    sketch_size: PositiveInt | None = 2**16
    """Numbers kept of an update, by a random sign projection where d is above; null: whole updates."""

    def init(self, ctx: Context) -> State:
        """No past: windows of no rounds, no clients."""
        dim = ctx.layout.dim
        return {
            "removed": np.zeros(0, np.int64),
            "clients": np.zeros(0, np.int64),
            "layers": [],
            **self._fresh(0, dim),
        }

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Predict, compare, cluster the scores; then remember this round."""
        size = min(updates.dim, self.sketch_size or updates.dim)
        with ctx.stage("sketch_codes"):
            codes = sketch_codes(updates.dim, size, ctx.lasting_generator("sketch"))
        current = updates
        if size < updates.dim:
            published = updates.backend.put(codes)
            current = rows_of_another_width(updates, "sketch", sketch, size, published, size)
        state = self._enrol(state, updates.client_ids)
        layers = row_history.published(state["layers"], updates.backend)
        place = np.searchsorted(state["clients"], updates.client_ids)
        removed = np.isin(updates.client_ids, state["removed"])

        step = None if state["vector"] is None else ctx.global_parameters - state["vector"]
        errors = state["errors"].copy()
        if step is not None:
            with ctx.stage("lbfgs"):
                change = sketch(lbfgs_product(state["steps"], state["changes"], step), codes, size)
            distance = row_history.compared(layers, current, "predict", _error, updates.backend.put(change))
            known = np.isfinite(distance) & ~removed
            total = distance[known].sum()
            share = distance[known] / (total if total > 0 else 1.0)
            errors[place[known]] = np.column_stack([errors[place[known], 1:], share])
        scored = ~np.isnan(errors[place]).all(axis=1) & ~removed
        scores = np.zeros(updates.num_clients)
        scores[scored] = np.nanmean(errors[place[scored]], axis=1)
        scores[removed] = np.inf

        caught = np.zeros(updates.num_clients, bool)
        if state["rounds"] >= self.burn_in and scored.any():
            with ctx.stage("gap_statistic"):
                caught[scored] = self._cluster(scores[scored], ctx)
        flagged = caught | removed
        aggregate, weights = accepted_mean(updates, flagged)

        layers = row_history.with_rows(layers, current)
        state = {**state, "layers": layers, "errors": errors, "rounds": state["rounds"] + 1}
        state = self._remember(state, ctx.global_parameters, step, aggregate)
        if self.permanent and caught.any():
            out = np.union1d(state["removed"], updates.client_ids[caught])
            state = {**state, "removed": out, **self._fresh(len(state["clients"]), updates.dim)}
        return Verdict(aggregate, weights, scores, flagged), state

    def _fresh(self, num_known: int, dim: int) -> State:
        """The part of the state that starts over after a removal; errors are NaN if there is none."""
        return {
            "rounds": 0,
            "vector": None,
            "aggregate": None,
            "steps": np.zeros((0, dim), np.float32),
            "changes": np.zeros((0, dim), np.float32),
            "errors": np.full((num_known, self.window), np.nan),
        }

    def _enrol(self, state: State, client_ids: np.ndarray) -> State:
        """The state with a place for these clients too, in id order."""
        clients = np.union1d(state["clients"], client_ids)
        if len(clients) == len(state["clients"]):
            return state
        place = np.searchsorted(clients, state["clients"])
        errors = np.full((len(clients), self.window), np.nan)
        errors[place] = state["errors"]
        return {**state, "clients": clients, "errors": errors}

    def _remember(
        self, state: State, vector: np.ndarray, step: np.ndarray | None, aggregate: np.ndarray
    ) -> State:
        """Push the last change of the global model and of the aggregate into the windows."""
        new: State = {"vector": np.array(vector), "aggregate": aggregate}
        if step is not None and step.any():
            change = aggregate - state["aggregate"]
            new["steps"] = np.concatenate([state["steps"], step[None]])[-self.window :]
            new["changes"] = np.concatenate([state["changes"], change[None]])[-self.window :]
        return {**state, **new}

    def _cluster(self, scores: np.ndarray, ctx: Context) -> np.ndarray:
        clusters = gap_clusters(
            scores,
            ctx.generator("gap_statistic"),
            max_clusters=self.max_clusters,
            references=self.references,
            log_of_mean=self.gap == "log_mean",
        )
        return two_means(scores[:, None])[0][:, 0] if clusters > 1 else np.zeros(len(scores), bool)


def _error(row: np.ndarray, last: np.ndarray, change: np.ndarray) -> float:
    """How far a row [p] lies from the client's last one plus change [p]."""
    errors = last + change - row
    return float(np.sqrt((errors * errors).sum()))


def lbfgs_product(steps: np.ndarray, changes: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """B v [d] float32 for the compact L-BFGS matrix B (Byrd, Nocedal and Schnabel, 1994, theorem 2.3).

    steps S [n, d] and changes Y [n, d], oldest first: what the parameters moved and what the gradients changed.
    A singular system is solved by least squares; no steps, or a result that is not finite, give zeros.
    With updates (minus gradients) for gradients, B only changes its sign.
    """
    count = len(steps)
    if not count:
        return np.zeros_like(vector)
    gram = np.zeros((2 * count, 2 * count + 1))
    for start in range(0, len(vector), BLOCK_COLUMNS):
        part = slice(start, start + BLOCK_COLUMNS)
        rows = np.concatenate([steps[:, part], changes[:, part], vector[None, part]]).astype(np.float64)
        gram += rows[:-1] @ rows.T
    along, cross, products = gram[:count, :count], gram[:count, count : 2 * count], gram[:, -1]
    scale = cross[-1, -1] / along[-1, -1]
    middle = np.block([[scale * along, np.tril(cross, -1)], [np.tril(cross, -1).T, -np.diag(np.diag(cross))]])
    factor = np.concatenate([np.full(count, scale), np.ones(count)])
    weights = factor * np.linalg.lstsq(middle, factor * products, rcond=None)[0]
    result = scale * vector.astype(np.float64)
    for weight, row in zip(weights, (*steps, *changes), strict=True):
        result -= weight * row
    answer = result.astype(np.float32)
    return answer if np.isfinite(answer).all() else np.zeros_like(vector)
