"""Where a round's updates come from: local training, or a seed alone (`updates: synthetic`).

Drawn updates leave everything else of a run as it is: hosts return tiles of rows, attacks craft from them, the
defense judges, the model moves and is evaluated. They are for studies of what a defense costs where training
K clients would take days, and say nothing about what it catches on real updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from raysim import rng
from raysim.attack import Attack
from raysim.engine.synthetic_updates import DrawnPopulation
from raysim.matrix.layout import Layout
from raysim.options import Declared, NotNegative


@dataclass(frozen=True)
class Trained:
    """Every client of the cohort trains on its own data."""


@dataclass(frozen=True)
class Synthetic(Declared):
    """Drawn from the seed around a direction that all clients share; malicious ones lie away from it.

    norm: of an honest update, in units of the parameters; spread: a client's own part beside the shared one; shift:
    how far malicious clients lie away if no attack is named (0 hides them). See `synthetic_updates.DrawnPopulation`.
    A row depends on (seed, round, client) alone. Every client claims one example, and nobody trains: the keys of
    `training` and `data.partition` have no effect, but that defenses which train on the server's data still follow
    `training`. Attacks craft from honest rows; those that act in local training are refused.
    """

    norm: NotNegative = 1.0
    """Norm of an honest update, in units of the parameters."""
    spread: NotNegative = 1.0
    """Size of a client's own part, relative to the part that all share."""
    shift: float = 1.0
    """How far malicious clients lie away if no attack is named, relative to the shared part; 0 hides
    them."""

    def tiles(
        self,
        seed: int,
        round: int,
        clients: np.ndarray,
        planted: np.ndarray,
        layout: Layout,
        bounds: tuple[int, ...],
    ) -> list[np.ndarray]:
        """The tiles of these clients' rows in this round, the buffers' zeros last. planted [k] bool: who lies away."""
        population = DrawnPopulation(
            layout, rng.torch_seed(seed, "updates", round), self.norm, self.spread, self.shift
        )
        return population.rows(clients, planted, bounds)


UPDATES: Mapping[str, type[Trained | Synthetic]] = MappingProxyType(
    {"trained": Trained, "synthetic": Synthetic}
)
"""What `updates.name` can be."""


@dataclass(frozen=True)
class Planted(Attack):
    """What the malicious clients of drawn updates do if no attack is named: their rows are drawn elsewhere."""


def acts_in_training(attack: Attack) -> bool:
    """Whether an attack needs its clients to train: it has a hook on their data or on their training, and uses it."""
    hooks = ((type(attack).train, Attack.train), (type(attack).poison_data, Attack.poison_data))
    return attack.trains and any(own is not honest for own, honest in hooks)
