"""FedGrad: two filters on the last layer's updates, and a memory of whom they cleared.

Nguyen et al., "FedGrad: mitigating backdoor attacks in federated learning through local ultimate gradients
inspection", preprint, 2023. With W, b the last layer's weights and bias, W_G, b_G the global model's, W* and b* the
data-weighted means over the round.

Definition 1 of the paper divides updates by -eta, which would turn grad* around and with it the ranking of the
soft filter; like the published code, this takes grad* = W* - W_G. Where that code departs from the text, the fields
of `FedGrad` below the switches follow the text by default and the code as told there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses import pair_history
from defenses.cosine import cosine_similarities, transitive_similarities
from defenses.features import head_updates
from defenses.krum import assumed_byzantine
from defenses.pair_clusters import two_clusters_of_rows
from raysim.backends.base import Backend
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.central_row import central_row
from raysim.matrix.pair_distances import nearest_scores, pair_distances
from raysim.matrix.pairs import Pairs, is_whole, largest_array
from raysim.matrix.updates import Updates
from raysim.options import Count, Fraction, Positive
from raysim.requirement import Requirement

ROWS_AT_ONCE = 64
"""Clients whose last layers are held in float64 at a time."""

MATRICES = {"weight_similarity": np.float32, "bias_similarity": np.float32, "together": np.int32}
"""The histories of pairs, while they are arrays."""


@dataclass(frozen=True)
class FedGrad(Defense):
    """Flags clients whose last layer lies along the round's mean, or whose cluster lies far from the rest.

    Soft filter: cs_i = cos(W_i - W*, W* - W_G), scaled to [0, 1] over the round, averaged over the rounds of client
    i; flagged above threshold_scale * min(zeta, median). With distinct scores that is about half of every round.
    Hard filter, from round `switch_round` on and for K >= 4: 2-means on each client's cosines with all others, of
    by-class weight gradient sums and of bias gradients, averaged over the rounds a pair shared; flagged is the
    cluster without the client of the least Krum score (K - num_byzantine - 2 neighbours, full models).
    Trust: a flagged client whose earlier verdicts average gamma or more (lambda_malicious, lambda_benign) is
    cleared. A round's verdict is that of the two filters, before trust cleared anybody (section 4.4: the current round
    alone decides). Then the data-weighted mean of the others. Scores: the averaged cs_i; without the soft filter the
    Krum scores, if there are any.

    With `transitive` similarities (section 6.2) a pair's cosine is measured once, and not at all when third clients that
    both have met allow an estimate. The published code: weight_reference `mean`, bias_features `raw`,
    scale_similarities, initial_trust 0.5, trust_round = switch_round, trust_fallback, trust off by default, k-means
    without a seed. trust_verdict `final` is another reading, by which a client that was unflagged in its first round
    stays trusted for ever, whatever the filters say of it later.

    State, for the n clients seen so far in id order: clients [n] int64; score [n], rounds [n]; trust_sum [n],
    trust_count [n]; with the hard filter weight_similarity, bias_similarity [n, n] float32 and together [n, n] int32,
    the number of measurements: 12 n^2 bytes. From n = 1,449 on these are `pairs`, in tiles that lie where they are updated:
    9 to 13 bytes for every pair that met (pair_history.py); scale_similarities, which is not symmetric, keeps the arrays.
    From K = 1,449 on, the 2-means is made from tiles by Lloyd steps (pair_clusters.py), no K x K is an artifact,
    and, where scores are the soft filter's, the client of the least Krum score is found mostly in float32 (central_row.py).
    """

    paper = "Nguyen et al., preprint 2023"
    on_buffers = (
        "it follows how alike clients of one round were, round after round, which holds for updates of one "
        "model"
    )
    reads_columns = True
    needs = frozenset({Requirement.GRAM, Requirement.LAST_LAYER})
    num_byzantine: Count | None = None
    """Assumed number f of malicious clients (the paper: floor(ratio K)); null: floor((K - 3) / 2)."""
    zeta: Fraction = 0.5
    """Upper limit of the soft filter's threshold, a scaled cosine."""
    gamma: Fraction = 0.75
    """Average of earlier verdicts from which a flagged client is trusted."""
    lambda_malicious: Fraction = 0.25
    """What a malicious verdict adds to a client's trust."""
    lambda_benign: Fraction = 1.0
    """What a benign verdict adds to a client's trust."""
    switch_round: Count = 50
    """Round, from 0, in which the hard filter begins."""
    threshold_scale: Positive = 1.0
    """Factor on the soft filter's threshold (the paper: 0.35 for 70 % attackers)."""
    soft: bool = True
    """Whether the soft filter judges (the paper's table 4 switches parts off)."""
    hard: bool = True
    """Whether the hard filter judges."""
    trust: bool = True
    """Whether trusted clients are cleared; the published code has it off."""
    similarity: Literal["pair", "batch", "matrix", "transitive"] = "matrix"
    """Cosines by `pair`, `batch` or `matrix` product, or estimated through third clients, `transitive`
    (section 6.2)."""
    weight_reference: Literal["global", "mean"] = "global"
    """What W_i is measured from in the hard filter: the `global` layer, or the round's `mean`
    (published code)."""
    bias_features: Literal["gradient", "raw"] = "gradient"
    """Biases in the hard filter: as `gradient`, b_i - b_G, or `raw`, b_i (published code)."""
    scale_similarities: bool = False
    """Whether each column of a round's similarities is scaled to [0, 1] (published code)."""
    initial_trust: Fraction | None = None
    """A first entry in every client's list of verdicts (published code: 0.5); null: none."""
    trust_round: Count = 0
    """Round, from 0, before which trust is ignored (published code: switch_round)."""
    trust_fallback: bool = False
    """Whether the soft filter's verdict stands when trust clears everybody (published code)."""
    trust_verdict: Literal["filters", "final"] = "filters"
    """What trust remembers of a round: the verdict of the `filters` (section 4.4), or the `final` one after clearing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.soft or self.hard):
            raise ConfigError(
                "soft", "must be on when hard is off: without a filter nothing is defended", False, True
            )
        if self.scale_similarities and self.similarity == "transitive":
            rule = "needs all similarities of a round; transitive does not measure them"
            raise ConfigError("scale_similarities", rule, True, False)

    def needed(self) -> frozenset[Requirement]:
        """Inner products only for the hard filter."""
        return self.needs if self.hard else self.needs - {Requirement.GRAM}

    def assumed(self, count: int) -> int | None:
        """f."""
        return assumed_byzantine(self.num_byzantine, count)

    def check(self, setting: Setting) -> None:
        """The hard filter needs K - f - 2 >= 1 neighbours."""
        most = max(setting.cohort - 3, 0)
        if self.hard and self.num_byzantine is not None and self.num_byzantine > most:
            rule = f"must leave num_byzantine + 3 <= {setting.cohort}, the clients in a round"
            raise ConfigError("num_byzantine", rule, self.num_byzantine, most)
        if self.scale_similarities and setting.population > largest_array():
            rule = f"must be off for more than {largest_array():,} clients: its histories are held in one process"
            raise ConfigError("scale_similarities", rule, True, False)

    def init(self, ctx: Context) -> State:
        """Nobody has been seen."""
        vectors = {"score": np.float64, "rounds": np.int64, "trust_sum": np.float64, "trust_count": np.int64}
        state: State = {"clients": np.zeros(0, np.int64)}
        state |= {name: np.zeros(0, kind) for name, kind in vectors.items()}
        if self.hard:
            state |= {name: np.zeros((0, 0), kind) for name, kind in MATRICES.items()}
        return state

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Both filters, what trust clears, and the mean of the rest."""
        count = updates.num_clients
        layer = head_updates(updates, ctx)
        classes = ctx.layout.entry(f"{ctx.model.head}.bias").shape[0]
        state = self._admit(state, updates.client_ids, ctx.backend)
        here = np.searchsorted(state["clients"], updates.client_ids)
        flagged, scores, threshold, artifacts = np.zeros(count, bool), None, None, {}
        by_soft = flagged
        if self.soft:
            with ctx.stage("soft"):
                scores = self._soft_scores(state, here, layer[:, :-classes], updates.shares)
                threshold = self.threshold_scale * min(self.zeta, float(np.median(scores)))
                flagged = by_soft = scores > threshold
        if self.hard:
            with ctx.stage("gradients"):
                gradients = self._gradients(layer, classes, updates.shares, ctx)
            features = self._similarities(state, here, gradients, updates, ctx)
            if is_whole(count):
                named = zip(pair_history.SIMILARITIES, features.to_array(), strict=True)
                artifacts = dict(named)
            judging = count >= 4 and ctx.round >= self.switch_round
            second = self._clusters(features, ctx) if judging else None
            del features  # they are let go before distances are made, which take as much memory
            if second is not None:
                assumed = assumed_byzantine(self.num_byzantine, count)
                if scores is None:
                    scores = nearest_scores(pair_distances(updates), "closeness", assumed)
                    honest = int(np.argmin(scores))
                else:
                    honest = central_row(updates, assumed)
                flagged = flagged | (second != second[honest])
        if self.trust:
            judged = flagged
            cleared = self._trusted(state, here) & (ctx.round >= self.trust_round)
            flagged = flagged & ~cleared
            if self.trust_fallback and not flagged.any():
                flagged = by_soft
            judged = flagged if self.trust_verdict == "final" else judged
            state["trust_sum"][here] += np.where(judged, self.lambda_malicious, self.lambda_benign)
            state["trust_count"][here] += 1
        aggregate, weights = accepted_mean(updates, flagged)
        return Verdict(aggregate, weights, scores, flagged, artifacts, threshold), state

    def _admit(self, state: State, clients: np.ndarray, backend: Backend) -> State:
        """A copy of the state that has a place for these clients."""
        known = state["clients"]
        every = np.union1d(known, clients)
        if self.hard and "pairs" not in state and self._in_tiles(len(every)):
            pairs = pair_history.from_arrays(state, int(every[-1]), backend)
            state = {name: values for name, values in state.items() if name not in MATRICES} | {
                "pairs": pairs
            }
        old = np.searchsorted(every, known)
        grown: State = {"clients": every}
        for name, values in state.items():
            if name == "pairs":
                grown[name] = values
            elif name != "clients":
                grown[name] = np.zeros((len(every),) * values.ndim, values.dtype)
                grown[name][np.ix_(*[old] * values.ndim)] = values
        if self.initial_trust is not None:
            new = ~np.isin(every, known)
            grown["trust_sum"][new], grown["trust_count"][new] = self.initial_trust, 1
        return grown

    def _soft_scores(
        self, state: State, here: np.ndarray, weights: np.ndarray, shares: np.ndarray
    ) -> np.ndarray:
        """This round's compromising scores, averaged into the state: [K]."""
        mean = weighted_mean(weights, shares)
        now = scaled_to_unit(compromising_scores(weights, mean, mean))
        state["rounds"][here] += 1
        state["score"][here] += (now - state["score"][here]) / state["rounds"][here]
        scores: np.ndarray = state["score"][here]
        return scores

    def _gradients(
        self, layer: np.ndarray, classes: int, shares: np.ndarray, ctx: Context
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the hard filter compares: by-class weight gradient sums and bias vectors, both [K, C] float64."""
        sums = by_class_sums(layer[:, :-classes], classes)
        if self.weight_reference == "mean":
            sums = sums - shares @ sums
        bias = layer[:, -classes:].astype(np.float64)
        if self.bias_features == "raw":
            bias = bias + ctx.layout.view(ctx.global_parameters, f"{ctx.model.head}.bias")
        return sums, bias

    def _similarities(
        self,
        state: State,
        here: np.ndarray,
        gradients: tuple[np.ndarray, np.ndarray],
        updates: Updates,
        ctx: Context,
    ) -> Pairs:
        """[2, K, K] float32: every client's averaged similarities with the round's clients; updates the histories."""
        if "pairs" in state:
            clients = updates.client_ids
            features, state["pairs"] = pair_history.met(
                state["pairs"], clients, gradients, self.similarity, ctx.backend
            )
            return features
        with ctx.stage("similarity"):
            return Pairs.whole(self._in_arrays(state, here, *gradients), ctx.backend)

    def _in_tiles(self, known: int) -> bool:
        """Whether the histories of `known` clients lie in tiles; with scaled columns they are not symmetric, as tiles are."""
        return not (is_whole(known) or self.scale_similarities)

    def _in_arrays(self, state: State, here: np.ndarray, sums: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """The same for histories that are arrays [n, n]."""
        pairs = np.ix_(here, here)
        together = state["together"]
        measured, known = np.ones((len(here),) * 2, bool), together[here] > 0
        if self.similarity == "transitive":
            known[np.arange(len(here)), here] = False  # a client links others, not itself
            links = known.astype(np.float32)
            measured = ~known[:, here] & (links @ links.T == 0)
            np.fill_diagonal(measured, together[here, here] == 0)
        counts = together[pairs] + measured
        parts = []
        for name, vectors in (("weight_similarity", sums), ("bias_similarity", bias)):
            history = state[name]
            now = self._round_similarities(vectors, measured)
            mean = history[pairs] + np.where(measured, now - history[pairs], 0.0) / np.maximum(counts, 1)
            estimate = mean
            if self.similarity == "transitive" and not counts.all():
                estimate = np.where(counts > 0, mean, transitive_similarities(history[here], known)[0])
            history[pairs] = mean
            parts.append(estimate)
        together[pairs] = counts
        return np.stack(parts).astype(np.float32)

    def _round_similarities(self, vectors: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """This round's cosines [K, K]; with `transitive` only between clients that have one to measure."""
        if self.similarity == "transitive":
            rows = np.flatnonzero(measured.any(axis=1))
            now = np.zeros(measured.shape)
            now[np.ix_(rows, rows)] = cosine_similarities(vectors[rows])
            return now
        now = cosine_similarities(vectors, self.similarity)
        return scaled_to_unit(now) if self.scale_similarities else now

    def _clusters(self, features: Pairs, ctx: Context) -> np.ndarray:
        """Labels [K], 0 or 1: which of two clusters each client is in."""
        seed = int(ctx.generator("k-means").integers(2**31))
        if is_whole(features.count):
            rows = np.concatenate(features.to_array(), axis=1)
            return ctx.run("cluster", two_clusters, rows, seed)
        return two_clusters_of_rows(features, "cluster", seed)

    def _trusted(self, state: State, here: np.ndarray) -> np.ndarray:
        """Whose earlier verdicts average gamma or more; nobody without one."""
        counts = state["trust_count"][here]
        trusted: np.ndarray = (counts > 0) & (state["trust_sum"][here] >= self.gamma * counts)
        return trusted


def weighted_mean(rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """sum_i p_i rows_i [p] float64 of rows [K, p] float32."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        total += shares[part] @ rows[part].astype(np.float64)
    return total


def compromising_scores(rows: np.ndarray, mean: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """cos(W_i - W*, grad*) [K] for last-layer weights rows [K, p], their mean W* [p] and grad* [p].

    0 where either vector is zero, up to the rounding of equal rows. Any common offset of rows and mean, such as
    W_G, makes no difference.
    """
    scores = np.zeros(len(rows))
    length = np.linalg.norm(gradient)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        away = rows[part].astype(np.float64) - mean
        lengths = np.linalg.norm(away, axis=1)
        usable = (lengths > 1e-12 * np.linalg.norm(mean)) & (length > 0)
        scores[part][usable] = (away[usable] @ gradient) / (lengths[usable] * length)
    return scores


def by_class_sums(rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Row sums [K, C] float64 of last-layer weight updates [K, C h] (definition 2)."""
    sums: np.ndarray = rows.reshape(len(rows), num_classes, -1).sum(axis=2, dtype=np.float64)
    return sums


def scaled_to_unit(values: np.ndarray) -> np.ndarray:
    """Each column of values [K] or [K, m] shifted and scaled to [0, 1]; a constant one gives 0."""
    low = values.min(axis=0)
    spread = values.max(axis=0) - low
    scaled: np.ndarray = (values - low) / np.where(spread > 0, spread, 1.0)
    return scaled


def two_clusters(features: np.ndarray, seed: int) -> np.ndarray:
    """Labels [K], 0 or 1, of 2-means (L2, the best of ten starts) on features [K, p]; all 0 when rows are equal."""
    from sklearn.cluster import KMeans

    if np.ptp(features, axis=0).max() == 0:
        return np.zeros(len(features), np.int32)
    labels: np.ndarray = KMeans(n_clusters=2, n_init=10, random_state=seed).fit(features).labels_
    return labels
