"""Additive noise on the model's weights, as in the published scripts of the class-activation-map defenses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from attacks.noise_columns import ColumnNoise
from raysim.attack import Attack, ClientContext, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.data.client_data import ClientData
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.new_rows import rows_from
from raysim.matrix.updates import Updates
from raysim.options import NotNegative

NOISED = ("weight", "bias")
"""A tensor is noised when its name contains one of these."""


@dataclass(frozen=True)
class Noise(Attack):
    """Add noise to every weight and bias of a benign (or the attacker's own) model.

    w' = w_base + z, z drawn independently per coordinate. Noised are the tensors whose name contains
    "weight" or "bias", the affine part of BatchNorm included; other tensors and the buffers (running
    statistics) are those of the base. A matrix without tensor names is noised in full. Benign bases are drawn without
    replacement, with it only if the round has fewer benign models than attackers; w_G if it has none.

    Source: scripts of Zheng et al., GradCAM-AE and LayerCAM-AE: base `benign`, U(1, 2) (the defaults);
    FLPoison's Gaussian attack: `replace` with N(0, 1), on every tensor including the running statistics,
    which are left alone here.
    """

    paper = "code of Zheng et al., arXiv 2406.02605, 2024"
    base: Literal["benign", "own"] = "benign"
    """Model that is noised: another `benign` one for each attacker, or the attacker's `own`."""
    distribution: Literal["uniform", "normal"] = "uniform"
    """Law of the noise: `uniform` on [low, high) (Zheng et al.), or `normal`, N(mean, std^2) (FLPoison)."""
    low: float = 1.0
    """Lower end of the uniform noise, in units of the parameters."""
    high: float = 2.0
    """Upper end of the uniform noise, in units of the parameters."""
    mean: float = 0.0
    """Mean of the normal noise, in units of the parameters."""
    std: NotNegative = 1.0
    """Standard deviation of the normal noise, in units of the parameters."""
    replace: bool = False
    """Whether the update itself becomes the noise (FLPoison) instead of gaining it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low <= self.high:
            raise ConfigError("high", f"must be at least low = {self.low}", self.high, self.low)

    @property
    def visibility(self) -> Visibility:
        """Every model if the base is a benign one; else the attacker's own."""
        return Visibility.OMNISCIENT if self.base == "benign" else Visibility.OWN

    @property
    def trains(self) -> bool:
        """Only if the base is the attacker's own model."""
        return self.base == "own"

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The honest update with noise on it (base `own`)."""
        update = np.array(honest_train(data), np.float32)
        noise = ColumnNoise(ctx.seed, ("attack", ctx.round, ctx.client, "noise"))
        dim = ctx.layout.dim
        update[:dim] = self._noised(update[:dim], 0, noise, ctx.layout)
        return update

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """Each attacker's benign base row with noise on it (base `benign`)."""
        if view.benign is None or not view.benign.num_clients:
            return None, {}
        ids = view.own.client_ids
        noises = [ColumnNoise(ctx.seed, (ctx.role, ctx.round, int(client), "noise")) for client in ids]
        bases = draw_bases(ctx.generator("noise", "base"), view.benign.num_clients, len(ids))
        make = partial(_noised_row, self, noises, ctx.layout)
        crafted = rows_from(
            view.benign, bases, "noise", make, client_ids=ids, num_examples=view.own.num_examples
        )
        return crafted, {"bases": view.benign.client_ids[bases].tolist()}

    def diagnostics(self, state: State) -> Diagnostics:
        """bases: the benign clients whose models were used, in the order of the attackers' ids."""
        return {"bases": " ".join(map(str, state["bases"]))} if "bases" in state else {}

    def _noised(self, row: np.ndarray, first: int, noise: ColumnNoise, layout: Layout) -> np.ndarray:
        """The row of columns first .. with noise on the tensors that get it."""
        if self.distribution == "uniform":
            drawn = noise.uniform(first, len(row), self.low, self.high)
        else:
            drawn = noise.normal(first, len(row), self.mean, self.std)
        if not self.replace:
            drawn += row
        return np.where(noised_columns(layout, first, len(row)), drawn, row)


def draw_bases(generator: np.random.Generator, num_benign: int, num_attackers: int) -> np.ndarray:
    """One benign row per attacker [c]: all different if there are enough of them."""
    if num_attackers <= num_benign:
        return generator.permutation(num_benign)[:num_attackers]
    return generator.integers(num_benign, size=num_attackers)


def noised_columns(layout: Layout, first: int, count: int) -> np.ndarray:
    """Which of the columns first .. first + count - 1 belong to a weight or bias: [count] bool."""
    mask = np.zeros(count, bool)
    unnamed = layout == Layout.flat(layout.dim)
    for entry in layout.parameters:
        if unnamed or any(part in entry.name for part in NOISED):
            mask[max(entry.start - first, 0) : max(entry.stop - first, 0)] = True
    return mask


def _noised_row(
    attack: Noise, noises: list[ColumnNoise], layout: Layout, values: np.ndarray, first: int, number: int
) -> np.ndarray:
    """A benign row's columns [c] with one attacker's noise on them."""
    return attack._noised(values, first, noises[number], layout)
