"""What GradCAM-AE and LayerCAM-AE share: heat maps, an autoencoder trained on them, and a vote over rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.autoencoder import Deviation, Error, error_threshold, reconstruct, reconstruction_errors
from defenses.heat_maps import HeatMapDefense
from defenses.voting import no_suspicions, vote
from raysim.backends.base import ACCELERATED
from raysim.context import Context, Setting, State
from raysim.defense import Verdict, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates
from raysim.options import NotNegative, Positive, PositiveInt
from raysim.requirement import Requirement

ROUNDING = 1e-6
"""Errors closer than this count as equal: the float32 reconstructions of equal maps need not agree to the last bit."""


@dataclass(frozen=True)
class CAMAutoencoder(HeatMapDefense):
    """Flags clients whose heat map an autoencoder, trained on this round's maps, reconstructs badly: see LayerCAMAE.

    A map is flagged when its error is above mean + beta std *plus 1e-6*, which the papers do not have: the float32
    reconstructions of equal maps need not agree to the last bit, and without the margin that last bit would flag some of
    several equal clients.
    """

    needs = HeatMapDefense.needs | {Requirement.AUTOENCODER}
    beta: NotNegative = 1.0
    """Standard deviations above the mean error at which a map is suspect."""
    hidden: PositiveInt = 128
    """Units of the autoencoder's hidden layer."""
    epochs: PositiveInt = 200
    """Full-batch steps of Adam that train the autoencoder in a round."""
    learning_rate: Positive = 1e-3
    """Learning rate of the autoencoder's Adam."""
    weight_decay: NotNegative = 1e-5
    """Weight decay of the autoencoder's Adam."""
    error: Error = "abs"
    """Reconstruction error of a pixel: `abs` (the papers) or `square` (the code)."""
    std: Deviation = "population"
    """Standard deviation of the errors: `population` (the papers) or `sample` (the code)."""
    interval: PositiveInt = 1
    """Rounds from one vote to the next, and rounds that a vote looks back."""
    votes: PositiveInt = 1
    """Suspicions within `interval` rounds that make a client malicious, at most interval."""
    permanent: bool = False
    """Whether a client voted out stays out for good."""
    weights: Literal["data", "uniform"] = "data"
    """Mean of the accepted updates: by `data` (the papers) or `uniform` (the code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.votes > self.interval:
            rule = f"must be at most interval = {self.interval}, or nobody is ever voted out"
            raise ConfigError("votes", rule, self.votes, self.interval)

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
        rebuilt, errors = ctx.run("autoencoder", _judge_maps, maps, self, seed, needs=ACCELERATED)
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
