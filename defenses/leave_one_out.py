"""What a rule aggregates without each client in turn, and how each of these models does on the server's data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from defenses.base_rule import RuleDefense, krum_winner
from defenses.client_models import map_models
from defenses.flags import assumed_malicious, check_some_remain, highest
from defenses.krum import assumed_byzantine
from defenses.order_statistics import ascending_blocks
from raysim.backends import devices
from raysim.context import Context, Setting
from raysim.defense import Verdict
from raysim.matrix.exact_sums import Blocks, constants, pre_rounded, weighted_bounds
from raysim.matrix.updates import Updates
from raysim.options import PositiveInt
from raysim.requirement import Requirement

if TYPE_CHECKING:
    from torch import nn

_WORST = 1e30
"""The loss of a model whose loss is not a number, or infinite."""


@dataclass(frozen=True)
class ImpactDefense(RuleDefense):
    """Base: drops the clients without which the rule's model does best on the server's validation data.

    Client i's impact is the metric (error rate or cross-entropy) of the rule's aggregate of all K updates minus that
    of all but i. The c = num_byzantine largest impacts are dropped (None: (K - 1) // 2), ties in favour of the
    larger impact on the loss, then the lowest id, and the rest is aggregated by the rule (see
    `after_removal`). Cost: K + 1 aggregates, O(K^2 d) for krum and O(d K log K) for the others, and as many evaluations,
    a task each.
    """

    needs = RuleDefense.needs | {Requirement.SERVER_DATA, Requirement.INFERENCE}

    rule: Literal["krum", "trimmed_mean", "median", "fedavg"] = "trimmed_mean"
    """Rule that aggregates, and whose result is tested without each client."""
    union: bool = False
    """Whether who either metric would drop is dropped (Fang et al.'s third variant)."""
    batch_size: PositiveInt = 256
    """Validation samples evaluated at once; affects memory and speed only."""

    def assumed(self, count: int) -> int | None:
        """How many are dropped."""
        return assumed_malicious(self.num_byzantine, count)

    def assuming(self, count: int) -> ImpactDefense:
        """With krum, None stands for two numbers (those dropped, and krum's f) and stays; trim is filled in too."""
        if self.rule == "krum" or self.num_byzantine is not None:
            return self
        trim = self.assumed_trim(count) if self.rule == "trimmed_mean" else self.trim
        return replace(self, num_byzantine=self.assumed(count), trim=trim)

    def check(self, setting: Setting) -> None:
        """The rule's own requirements, and a cohort that is not removed entirely."""
        super().check(setting)
        check_some_remain(self.num_byzantine, setting)

    def judge(self, updates: Updates, ctx: Context, *, by_error: bool) -> Verdict:
        """Drop by impact on the error rate (by_error) or on the loss."""
        count = updates.num_clients
        distances = self.distances(updates)
        errors, losses = self.impacts(updates, ctx, distances)
        number = assumed_malicious(self.num_byzantine, count)
        by_loss = highest(number, losses)
        by_errors = highest(number, errors, losses)
        flagged = by_errors | by_loss if self.union else by_errors if by_error else by_loss
        aggregate, weights = self.reaggregate(updates, flagged, distances)
        return Verdict(aggregate, weights, errors if by_error else losses, flagged)

    def impacts(
        self, updates: Updates, ctx: Context, distances: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every client's impact on the error rate and on the mean cross-entropy, [K] each; zeros for K = 1."""
        count = updates.num_clients
        data = ctx.require_server_data()
        if count == 1:
            return np.zeros(1), np.zeros(1)
        rows, chosen = self.aggregates(updates, distances)
        held = (ctx.put(data.images), ctx.put(data.labels), self.batch_size)
        found = np.array(map_models(row_by_row(rows), "validate", _validate, ctx.model, ctx.published, *held))
        metrics = found[chosen]
        impact = metrics[count] - metrics[:count]
        return impact[:, 0], impact[:, 1]

    def aggregates(self, updates: Updates, distances: np.ndarray | None) -> tuple[Updates, np.ndarray]:
        """(rows, chosen [K + 1]): row chosen[i] is the rule's aggregate of all but client i, chosen[K] of all."""
        count = updates.num_clients
        if distances is not None:
            every = np.arange(count)
            groups = [*(every[every != left_out] for left_out in every), every]
            f = assumed_byzantine(self.num_byzantine, count)
            winners = [krum_winner(distances, group, f) for group in groups]
            different, chosen = np.unique(winners, return_inverse=True)
            return updates.select(different), chosen
        shares = _shares(updates) if self.rule == "fedavg" else np.full(count, 1 / count)
        bounds = Blocks(constants(weighted_bounds(shares, updates.maxima())), updates.dim)
        if self.rule == "fedavg":
            fn = partial(means_without, shares, bounds)
        else:
            trim = (count - 1) // 2 if self.rule == "median" else self.assumed_trim(count)
            fn = partial(trimmed_means_without, trim, bounds)
        ids = np.arange(count + 1)
        return updates.transform("leave_one_out", fn, client_ids=ids), ids


def means_without(shares: np.ndarray, bounds: Blocks, columns: np.ndarray, first_column: int) -> np.ndarray:
    """Weighted means of columns [K, c] without each row in turn, and of all rows: [K + 1, c].

    bounds: `constants` of the sum of all rows; terms rounded to them are added, and taken out again, exactly.
    """
    out = np.empty((len(columns) + 1, columns.shape[1]), np.float32)
    first, found = bounds.of(first_column, columns.shape[1])
    terms = pre_rounded(shares[:, None] * columns.astype(np.float64), found, first)
    total = terms.sum(axis=0)
    out[:-1] = (total - terms) / (1 - shares[:, None])
    out[-1] = total
    return out


def trimmed_means_without(trim: int, bounds: Blocks, columns: np.ndarray, first_column: int) -> np.ndarray:
    """Trimmed means of columns [K, c] without each row in turn, and of all rows: [K + 1, c].

    K - 1 rows are trimmed by at most (K - 2) // 2 on each side; trim = (K - 1) // 2 is the median throughout.
    Without row i, the sum of the middle values loses row i's own value, cut to the range of that middle, whether
    it lies inside or outside: one sort gives all K means. Buffer columns get plain means (bounds: as there).
    """
    count = len(columns)
    if first_column >= bounds.dim:
        return means_without(np.full(count, 1 / count), bounds, columns, first_column)
    fewer = min(trim, (count - 2) // 2)
    kept, middle = count - 1 - 2 * fewer, slice(fewer, count - fewer)
    out = np.empty((count + 1, columns.shape[1]), np.float32)
    for part, ascending in ascending_blocks(columns):
        low, high = np.ascontiguousarray(ascending[:, [fewer, count - 1 - fewer]].T)
        total = ascending[:, middle].sum(axis=1, dtype=np.float64)
        out[:-1, part] = (total - np.clip(columns[:, part], low, high)) / kept
        out[-1, part] = ascending[:, trim : count - trim].mean(axis=1, dtype=np.float64)
    return out


def row_by_row(updates: Updates) -> Updates:
    """The same rows, each a block of its own, for which a stage on rows runs a task."""
    blocks = [
        replace(block, positions=np.array([position]), rows=np.array([row]))
        for block in updates.blocks
        for position, row in zip(block.positions, block.rows, strict=True)
    ]
    return replace(updates, blocks=tuple(blocks))


def _shares(updates: Updates) -> np.ndarray:
    """Data shares; uniform if one client holds everything, so that the others have a mean without it."""
    shares = updates.shares
    return shares if shares.max() < 1 else np.full(len(shares), 1 / len(shares))


def _validate(
    model: nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> tuple[float, float]:
    """(error rate, mean cross-entropy) of one model on the validation data."""
    import torch
    from torch.nn import functional

    wrong, loss = 0, 0.0
    for start in range(0, len(labels), batch_size):
        part, here = slice(start, start + batch_size), devices.here()
        x = torch.from_numpy(np.array(images[part])).to(here)
        y = torch.from_numpy(np.array(labels[part])).to(here)
        logits = model(x)
        wrong += int(((logits.argmax(1) != y) | ~logits.isfinite().all(1)).sum())  # NaN predicts no class
        loss += functional.cross_entropy(logits.double(), y, reduction="sum").item()
    mean = loss / len(labels)
    return wrong / len(labels), min(mean, _WORST) if np.isfinite(mean) else _WORST
