"""Spectral anomaly detection with a variational autoencoder (Li et al., arXiv 2002.00211)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from defenses.flags import assumed_malicious, highest
from defenses.snapshots import SnapshotDetector
from raysim.backends import devices
from raysim.backends.base import ACCELERATED
from raysim.context import Context, State
from raysim.defense import Verdict, accepted_mean
from raysim.matrix.updates import Updates
from raysim.options import Positive, PositiveInt
from raysim.rng import torch_randomness


@dataclass(frozen=True)
class VAEDetector(SnapshotDetector):
    """Drops models that a variational autoencoder, trained on the server's own model snapshots, reconstructs badly.

    Before the first round the server trains the global model on its data for `num_snapshots` steps and fits the
    VAE to the surrogates after each (snapshots.py): two layers of `hidden` units, `latent` dimensions, a mirrored
    decoder with a learned variance per number. It is not trained again.

    The probability is the mean over `draws` Monte Carlo draws of the latent vector. PDRR writes that a *high* one means
    malicious; anomalies have a low one, so the sign is ours.
    num_byzantine: drop that many highest scores, as PDRR does; None: all scores above the round's mean, as Li et al.
    """

    paper = "Li et al., arXiv 2002.00211, 2020"
    on_buffers = (
        "it judges the clients' models, and the newest global model plus an update is none that a client had"
    )
    score: Literal["error", "probability"] = "error"
    """Squared reconstruction `error` (Li et al.), or minus the log-`probability` (An and Cho, as PDRR
    compares with)."""
    hidden: PositiveInt = 500
    """Units of each hidden layer (PDRR's description: 500)."""
    latent: PositiveInt = 100
    """Numbers in a model's code (PDRR's description: 100)."""
    draws: PositiveInt = 10
    """Monte Carlo draws of the code for `probability`."""
    epochs: PositiveInt = 50
    """Full-batch steps of training."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam."""

    def init(self, ctx: Context) -> State:
        """The statistics of the snapshots [size] and the trained VAE's weights, flat."""
        state, points = self.learn(ctx)
        seed = int(ctx.generator("vae").integers(2**31))
        return {**state, "weights": ctx.run("fit_vae", _fit, self, points, seed, needs=ACCELERATED)}

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Reconstruct every model; drop by score."""
        noise = ctx.generator("draws").standard_normal((self.draws, self.latent), dtype=np.float32)
        points = self.points(state, updates, ctx)
        scores = ctx.run("reconstruct", _score, self, state["weights"], points, noise, needs=ACCELERATED)
        threshold = None
        if self.num_byzantine is None:
            threshold = float(scores.mean())
            flagged = (scores > scores.mean()) & (np.ptp(scores) > 0)
        else:
            flagged = highest(assumed_malicious(self.num_byzantine, len(scores)), scores)
        aggregate, weights = accepted_mean(updates, flagged)
        return Verdict(aggregate, weights, scores, flagged, threshold=threshold), state


class _VAE(nn.Module):
    def __init__(self, size: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, size),
        )
        self.log_variance = nn.Parameter(torch.zeros(size))

    def encode(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent vector, [n, latent] each."""
        mean, log_variance = self.encoder(points).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10)

    def log_probability(self, points: Tensor, latent: Tensor) -> Tensor:
        """log p(x | z) [n], up to a constant."""
        log_variance = self.log_variance.clamp(-6, 6)
        squares = (points - self.decoder(latent)) ** 2 / log_variance.exp()
        losses: torch.Tensor = -0.5 * (squares + log_variance).sum(dim=1)
        return losses


def _fit(defense: VAEDetector, points: np.ndarray, seed: int) -> np.ndarray:
    """Full-batch Adam on the evidence lower bound; the weights as one vector. Draws are the CPU's on every device."""
    x = torch.from_numpy(np.array(points)).to(devices.here())
    with torch_randomness(seed, "vae"):
        model = _VAE(x.shape[1], defense.hidden, defense.latent).to(x.device)
        adam = torch.optim.Adam(model.parameters(), defense.learning_rate)
        for _ in range(defense.epochs):
            mean, log_variance = model.encode(x)
            latent = mean + torch.randn(mean.shape).to(x.device) * (0.5 * log_variance).exp()
            divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
            loss = (divergence - model.log_probability(x, latent)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    return parameters_to_vector(model.parameters()).detach().cpu().numpy()


@torch.no_grad()
def _score(defense: VAEDetector, weights: np.ndarray, points: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Scores [K] float64 of standardised surrogates [K, size]; noise [draws, latent] is shared by all clients."""
    x, trained, draws_of = (
        torch.from_numpy(np.array(part)).to(devices.here()) for part in (points, weights, noise)
    )
    with torch_randomness(0, "replaced by the trained weights"):
        model = _VAE(x.shape[1], defense.hidden, defense.latent).to(x.device)
    vector_to_parameters(trained, model.parameters())
    mean, log_variance = model.encode(x)
    if defense.score == "error":
        errors: np.ndarray = ((x - model.decoder(mean)).double() ** 2).mean(dim=1).cpu().numpy()
        return errors
    deviation = (0.5 * log_variance).exp()
    draws = [model.log_probability(x, mean + deviation * z).double() for z in draws_of]
    return -torch.stack(draws).mean(dim=0).cpu().numpy()
