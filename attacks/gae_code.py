"""Graph-autoencoder model poisoning as its published code has it: the overheard mean times random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from attacks.gae import distance_report, overheard
from attacks.noise_columns import ColumnNoise
from attacks.rows import mean_buffers, mean_row
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.errors import ConfigError
from raysim.matrix.new_rows import rows_from
from raysim.matrix.row_products import squares_about
from raysim.matrix.updates import Updates
from raysim.options import PositiveInt


@dataclass(frozen=True)
class GAECode(Attack):
    """Submit the mean of overheard models with every coordinate multiplied by a random number.

    w' = xi mean(W), W the J overheard models, xi drawn per coordinate and attacker. The published code
    computes xi (1/J) 1^T U^ U^T W, U and U^ the eigenvectors of the Laplacians of a graph on the J models
    and of a redrawn one. Neither graph has an effect, nor what is trained on the way: the edges of both
    are positive, so the constant vector is the last column of U and of U^, and 1^T U^ U^T = 1^T (-1^T where
    the decomposition happens to give the two columns opposite signs). There is no ascent and no bound; the
    distance to the overheard mean, and how it compares with `gae`'s bound, are in the diagnostics. Buffers
    are the overheard mean. A round without a benign client leaves w_G.

    Source: code published with Li et al., TIFS 2024, there for a linear classifier. `gae` is the paper's method.
    """

    paper = "code of Li et al., IEEE TIFS 2024"
    visibility: ClassVar[Visibility] = Visibility.OMNISCIENT
    """Overhears benign models."""
    trains: ClassVar[bool] = False
    """No: the attackers need no data."""
    num_overheard: PositiveInt | None = 5
    """Number J of benign models overheard, drawn each round; null, or more than there are: all of the
    round."""
    distribution: Literal["uniform", "normal"] = "uniform"
    """Law of the factors: `uniform` on [low, high) (the code on MNIST), or `normal`, N(0, 1) (on
    CIFAR-10)."""
    low: float = -1.0
    """Lower end of the uniform factors (the code: -1; its VGAE successor: -3)."""
    high: float = 1.0
    """Upper end of the uniform factors (the code: 1; its VGAE successor: 0.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low <= self.high:
            raise ConfigError("high", f"must be at least low = {self.low}", self.high, self.low)

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """One row per attacker."""
        heard = overheard(view, self.num_overheard, ctx)
        if heard is None or not heard.num_clients:
            return None, {}
        ids = view.own.client_ids
        noises = [ColumnNoise(ctx.seed, (ctx.role, ctx.round, int(client), "gae_code")) for client in ids]
        mean = ctx.put(mean_row(heard, "gae_code"))
        make = partial(_crafted_row, self, noises, ctx.layout.dim, mean_buffers(heard, "gae_code"))
        crafted = rows_from(
            view.own, np.arange(len(ids)), "gae_code", make, mean, ctx.published,
            client_ids=ids, num_examples=view.own.num_examples,
        )  # fmt: skip
        reach, bound = (np.sqrt(squares_about(rows, mean, "gae_measure").max()) for rows in (crafted, heard))
        return crafted, distance_report(float(reach), float(bound))

    def diagnostics(self, state: State) -> Diagnostics:
        """distance (the attackers' largest, to the overheard mean), bound (the overheard's own largest), within_bound."""
        return dict(state)

    def factors(self, noise: ColumnNoise, first: int, count: int) -> np.ndarray:
        """xi for columns first .. first + count - 1: [count] float32."""
        if self.distribution == "normal":
            return noise.normal(first, count)
        return noise.uniform(first, count, self.low, self.high)


def _crafted_row(
    attack: GAECode,
    noises: list[ColumnNoise],
    dim: int,
    buffers: np.ndarray,
    values: np.ndarray,
    first: int,
    number: int,
    mean: np.ndarray,
    global_columns: np.ndarray,
) -> np.ndarray:
    """xi (w_G + mean update) - w_G; the buffers [b] given."""
    if first >= dim:
        return buffers[first - dim : first - dim + len(values)]
    model = (mean + global_columns).astype(np.float32)
    row: np.ndarray = attack.factors(noises[number], first, len(model)) * model - global_columns
    return row
