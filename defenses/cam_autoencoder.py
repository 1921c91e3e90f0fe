"""What GradCAM-AE and LayerCAM-AE share: heat maps, an autoencoder trained on them, and a vote over rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.autoencoder import Deviation, Error, error_threshold, reconstruct, reconstruction_errors
from defenses.heat_maps import HeatMapDefense
from defenses.voting import no_suspicions, vote
from raysim.context import Context, Setting, State
from raysim.defense import Verdict, accepted_mean
from raysim.errors import ConfigError, unknown_name
from raysim.matrix.updates import Updates

ROUNDING = 1e-6
"""Errors closer than this count as equal: the float32 reconstructions of equal maps need not agree to the last bit."""


@dataclass(frozen=True)
class CAMAutoencoder(HeatMapDefense):
    """Flags clients whose heat map an autoencoder, trained on this round's maps, reconstructs badly.

    Fields, besides HeatMapDefense's: see LayerCAMAE. A map is flagged when its error is above mean + beta std
    *plus 1e-6*, which the papers do not have: the float32 reconstructions of equal maps need not agree to the last
    bit, and without the margin that last bit would flag some of several equal clients.
    """

    beta: float = 1.0
    hidden: int = 128
    epochs: int = 200
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    error: Error = "abs"
    std: Deviation = "population"
    interval: int = 1
    votes: int = 1
    permanent: bool = False
    weights: Literal["data", "uniform"] = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value, smallest in (
            ("beta", self.beta, 0.0),
            ("hidden", self.hidden, 1),
            ("epochs", self.epochs, 1),
            ("weight_decay", self.weight_decay, 0.0),
            ("interval", self.interval, 1),
            ("votes", self.votes, 1),
        ):
            if not value >= smallest:
                raise ConfigError(key, f"must be at least {smallest}", value, smallest)
        if not self.learning_rate > 0:
            raise ConfigError("learning_rate", "must be above 0", self.learning_rate)
        if self.votes > self.interval:
            rule = f"must be at most interval = {self.interval}, or nobody is ever voted out"
            raise ConfigError("votes", rule, self.votes, self.interval)
        for key, name, known in (
            ("error", self.error, ("abs", "square")),
            ("std", self.std, ("population", "sample")),
            ("weights", self.weights, ("data", "uniform")),
        ):
            if name not in known:
                raise unknown_name(key, name, known)

    def remarks(self, setting: Setting) -> tuple[str, ...]:
        """That a run is too short for one vote."""
        if self.interval <= setting.rounds:
            return ()
        name, rounds = type(self).__name__, setting.rounds
        return (
            f"{name} votes every {self.interval} rounds, and the run has {rounds}: no vote takes place; suspects"
            f" are judged round by round (interval <= {rounds} would vote)",
        )

    def init(self, ctx: Context) -> State:
        """Nobody suspected, nobody banned."""
        return {**super().init(ctx), **no_suspicions()}

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Maps, autoencoder, threshold, vote, mean of the accepted."""
        maps = self.heat_maps(updates, ctx)
        seed = int(ctx.generator("autoencoder").integers(2**63))
        rebuilt, errors = ctx.run("autoencoder", _judge_maps, maps, self, seed)
        with ctx.stage("vote"):
            threshold = error_threshold(errors, self.beta, self.std) + ROUNDING
            suspects = errors > threshold
            flagged, state = vote(
                state,
                ctx.round + 1,
                updates.client_ids,
                suspects,
                interval=self.interval,
                votes=self.votes,
                permanent=self.permanent,
            )
        aggregate, weights = accepted_mean(updates, flagged, uniform=self.weights == "uniform")
        artifacts = {"heat_maps": maps, "reconstructed_maps": rebuilt, "client_ids": updates.client_ids}
        return Verdict(aggregate, weights, errors, flagged, artifacts, threshold), state


def _judge_maps(maps: np.ndarray, options: CAMAutoencoder, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(reconstructed maps [K, h, w] float32, their errors [K] float64)."""
    flat = maps.reshape(len(maps), -1)
    rebuilt = reconstruct(
        flat,
        hidden=options.hidden,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        seed=seed,
    )
    return rebuilt.reshape(maps.shape), reconstruction_errors(flat, rebuilt, options.error)
