"""The local-model-poisoning attack on trimmed mean: every coordinate just beyond the benign extremes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt

from attacks.noise_columns import ColumnNoise
from attacks.rows import everyone, mean_row, std_row
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.matrix.new_rows import rows_from
from raysim.matrix.updates import Updates
from raysim.options import Count

STAGE = "fang_coordinates"


@dataclass(frozen=True)
class FangTrimmedMean(Attack):
    """Put each coordinate beyond the benign models' extreme, on the side away from where the trimmed mean moves.

    s is the sign of the change without an attack. A coordinate with s_j = 0 stays at w_G (Lu et al.); the
    others are drawn for each attacker separately. Buffers are the attackers' own.

    `full` knowledge: s from the trimmed mean of all K honest models; extremes over the benign models only,
    as weights (not updates), with b = stretch: s_j = -1 draws from [max, b max] if max > 0 else [max, max / b];
    s_j = +1 from [min / b, min] if min > 0 else [b min, min]. An extreme of exactly 0 is submitted as it is.
    A round without a benign client fails: honest models are submitted and the diagnostics say so.
    `partial`: mu, sigma (population) and s = sign(mu - w_G) over the attackers' own honest models;
    s_j = -1 draws from [mu + 3 sigma, mu + 4 sigma], +1 from [mu - 4 sigma, mu - 3 sigma]. One attacker
    alone has sigma = 0 and submits its honest model, but for coordinates that did not change.

    Source: Fang et al., USENIX Security 2020; PDRR section 3.2 (Lu et al.). Published code (FLDetector) works on
    gradients with b = 2, a fixed mu +- 3.5 sigma, and extremes over all clients.
    """

    paper = "Fang et al., USENIX Security 2020"
    knowledge: Literal["full", "partial"] = "full"
    """What the attackers see: `full`, all honest models, or `partial`, their own honest ones."""
    stretch: Annotated[float, Gt(1)] = 2.0
    """Factor b beyond the extremes (Fang et al.: 2; Lu et al.: 1.05)."""
    num_byzantine: Count | None = None
    """Values per side the server is expected to trim (`full`), at most (K - 1) // 2; null: the attackers in the round."""

    @property
    def visibility(self) -> Visibility:
        """Every model with full knowledge, the colluders' with partial."""
        return Visibility.OMNISCIENT if self.knowledge == "full" else Visibility.COLLUDING

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """One row per attacker; None if full knowledge finds no benign model."""
        ids = view.own.client_ids
        noises = [ColumnNoise(ctx.seed, (ctx.role, ctx.round, int(client), STAGE)) for client in ids]
        if self.knowledge == "partial":
            return self._beyond_own(view.own, noises, ctx), {"failed": False}
        if view.benign is None or not view.benign.num_clients:
            return None, {"failed": True}
        rows = everyone(view)
        own = np.searchsorted(rows.client_ids, ids)
        trimmed = self.trimmed(rows.num_clients, len(ids))
        make = partial(_beyond_benign, noises, ctx.layout.dim, own, trimmed, self.stretch)
        crafted = rows.transform(
            STAGE, make, ctx.published, client_ids=ids, num_examples=view.own.num_examples
        )
        return crafted, {"failed": False}

    def _beyond_own(self, own: Updates, noises: list[ColumnNoise], ctx: Context) -> Updates:
        """Rows 3 to 4 standard deviations from the mean of the attackers' own, each with its own buffers."""
        mean = mean_row(own, STAGE)
        step = -np.sign(mean) * std_row(own, mean, STAGE)  # 0 in coordinates whose mean has not moved
        ends = (ctx.put((mean + 3 * step).astype(np.float32)), ctx.put(step.astype(np.float32)))
        make = partial(_drawn_row, noises, own.dim)
        return rows_from(
            own, np.arange(len(noises)), STAGE, make, *ends,
            client_ids=own.client_ids, num_examples=own.num_examples,
        )  # fmt: skip

    def diagnostics(self, state: State) -> Diagnostics:
        """failed: whether there was nothing to craft from."""
        return dict(state)

    def trimmed(self, num_clients: int, num_attackers: int) -> int:
        """Values per side that the server is expected to leave out of K."""
        assumed = num_attackers if self.num_byzantine is None else self.num_byzantine
        return min(assumed, (num_clients - 1) // 2)


def trimmed_mean(columns: np.ndarray, trimmed: int) -> np.ndarray:
    """Mean over rows of [K, c] without the `trimmed` lowest and highest values per column: [c] float64."""
    ordered = np.sort(np.ascontiguousarray(columns.T), axis=1)[:, trimmed : len(columns) - trimmed]
    means: np.ndarray = ordered.astype(np.float64).sum(axis=1) / ordered.shape[1]
    return means


def _beyond_benign(
    noises: list[ColumnNoise],
    dim: int,
    own: np.ndarray,
    trimmed: int,
    stretch: float,
    columns: np.ndarray,
    first: int,
    global_columns: np.ndarray,
) -> np.ndarray:
    """[K, c] -> [attackers, c]: beyond the rows that are not `own`; own rows' buffers."""
    if first >= dim:
        rows: np.ndarray = columns[own]
        return rows
    is_benign = np.ones(len(columns), bool)
    is_benign[own] = False
    benign, sign = columns[is_benign], np.sign(trimmed_mean(columns, trimmed))
    extreme = np.where(sign < 0, benign.max(0), benign.min(0))
    weight = extreme.astype(np.float64) + global_columns
    # b |weight| away from zero, 1/b of it towards zero: always on the side away from the benign.
    outward = np.where(-sign * weight > 0, stretch - 1, 1 - 1 / stretch)
    edge = np.where(sign == 0, 0, extreme).astype(np.float32)
    reach = (-sign * outward * np.abs(weight)).astype(np.float32)
    return _draw_between(noises, first, edge, reach)


def _drawn_row(
    noises: list[ColumnNoise],
    dim: int,
    values: np.ndarray,
    first: int,
    number: int,
    edge: np.ndarray,
    reach: np.ndarray,
) -> np.ndarray:
    """edge + t reach for one attacker; its buffers as they are."""
    return values if first >= dim else _draw_between([noises[number]], first, edge, reach)[0]


def _draw_between(noises: list[ColumnNoise], first: int, edge: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """edge + t reach, t ~ U(0, 1) for each attacker and column: [attackers, c]."""
    out = np.empty((len(noises), len(edge)), np.float32)
    for row, noise in zip(out, noises, strict=True):
        np.multiply(noise.uniform(first, len(edge)), reach, out=row)
        row += edge
    return out
