"""DAGMM: a deep autoencoding Gaussian mixture model (Zong et al., ICLR 2018) on the clients' models."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from defenses.flags import assumed_malicious, highest
from defenses.snapshots import SnapshotDetector
from raysim.backends import devices
from raysim.backends.base import ACCELERATED
from raysim.context import Context, State
from raysim.defense import Verdict, accepted_mean
from raysim.matrix.updates import Updates
from raysim.options import NotNegative, Positive, PositiveInt
from raysim.rng import torch_randomness

_MIXTURE = ("shares", "means", "covariances")


@dataclass(frozen=True)
class DAGMM(SnapshotDetector):
    """Drops the models of highest energy under a deep autoencoding Gaussian mixture of the server's snapshots.

    Before the first round the server trains the global model on its data for `num_snapshots` steps and fits the
    mixture to the surrogates after each (snapshots.py); it is not trained again. Features of a model: its code of
    `latent` numbers, the relative reconstruction error |x - x'| / |x| and cos(x, x'). Encoder, decoder and the estimation
    network, which assigns each model to `components` Gaussians, have two hidden layers each. Loss: MSE + energy_weight *
    mean energy + covariance_weight * sum of 1 / variances.

    Energy -log sum_k phi_k N(z; mu_k, Sigma_k), by Cholesky factors of Sigma_k + 1e-6 I and log-sum-exp: the port
    danieltan07/dagmm adds 1e-12, which leaves them near-singular. num_byzantine highest energies are dropped;
    None: (K - 1) // 2 of K. Training is in full batches, unlike Zong et al.'s; their Arrhythmia, whose `latent` and
    `components` are taken, has few samples of many features, too.
    """

    paper = "Zong et al., ICLR 2018"
    on_buffers = (
        "it judges the clients' models, and the newest global model plus an update is none that a client had"
    )
    hidden: PositiveInt = 128
    """Units of each hidden layer of encoder and decoder (PDRR's comparison: 128)."""
    estimator: PositiveInt = 32
    """Units of each hidden layer of the estimation network (PDRR's comparison: 32)."""
    latent: PositiveInt = 2
    """Numbers in a model's code (Zong et al. on Arrhythmia: 2)."""
    components: PositiveInt = 2
    """Gaussians in the mixture (Zong et al. on Arrhythmia: 2)."""
    energy_weight: NotNegative = 0.1
    """Weight of the mean energy in the loss (Zong et al.: 0.1)."""
    covariance_weight: NotNegative = 0.005
    """Weight of the sum of inverse variances in the loss (Zong et al.: 0.005)."""
    epochs: PositiveInt = 200
    """Full-batch steps of training (Zong et al. on KDDCUP: 200 epochs)."""
    learning_rate: Positive = 1e-4
    """Learning rate of Adam (Zong et al.: 1e-4)."""

    def init(self, ctx: Context) -> State:
        """The statistics of the snapshots [size], the networks' weights, flat, and the fitted mixture."""
        state, points = self.learn(ctx)
        seed = int(ctx.generator("dagmm").integers(2**31))
        weights, mixture = ctx.run("fit_dagmm", _fit, self, points, seed, needs=ACCELERATED)
        return {**state, "weights": weights, "mixture": mixture}

    def assumed(self, count: int) -> int | None:
        """How many are dropped."""
        return assumed_malicious(self.num_byzantine, count)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """The energy of every model; drop the highest."""
        points = self.points(state, updates, ctx)
        fitted = (state["weights"], state["mixture"])
        scores = ctx.run("energy", _energies, self, *fitted, points, needs=ACCELERATED)
        flagged = highest(assumed_malicious(self.num_byzantine, len(scores)), scores)
        aggregate, weights = accepted_mean(updates, flagged)
        return Verdict(aggregate, weights, scores, flagged), state


class _Networks(nn.Module):
    def __init__(self, defense: DAGMM, size: int) -> None:
        super().__init__()
        hidden, latent, units = defense.hidden, defense.latent, defense.estimator
        self.encoder = _mlp(size, hidden, hidden, latent)
        self.decoder = _mlp(latent, hidden, hidden, size)
        self.estimator = _mlp(latent + 2, units, units, defense.components)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction [n, size], features z [n, latent + 2])."""
        code = self.encoder(x)
        again = self.decoder(code)
        error = (x - again).norm(dim=1) / x.norm(dim=1).clamp_min(1e-12)
        cosine = functional.cosine_similarity(x, again, dim=1)
        return again, torch.cat([code, error[:, None], cosine[:, None]], dim=1)


def _mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes):
        layers += [nn.Linear(width, following), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def mixture_of(z: Tensor, membership: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares phi [k], means [k, m] and covariances [k, m, m] of points [n, m] by soft membership [n, k]."""
    total = membership.sum(dim=0).clamp_min(1e-12)
    means = (membership.T @ z) / total[:, None]
    centred = z[:, None] - means
    covariances = torch.einsum("nk,nki,nkj->kij", membership, centred, centred) / total[:, None, None]
    return total / len(z), means, covariances + 1e-6 * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)


def energies(z: Tensor, shares: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """-log sum_k phi_k N(z; mu_k, Sigma_k) of points [n, m]: [n]."""
    factors = torch.linalg.cholesky(covariances)
    whitened = torch.linalg.solve_triangular(factors, (z[:, None] - means).permute(1, 2, 0), upper=False)
    half_log_determinant = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    log_density = (
        -0.5 * (whitened**2).sum(dim=1)
        - (half_log_determinant + 0.5 * z.shape[1] * np.log(2 * np.pi))[:, None]
    )
    return -torch.logsumexp(shares.log()[:, None] + log_density, dim=0)


def _fit(defense: DAGMM, points: np.ndarray, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Full-batch Adam; (the weights as one vector, the mixture of the snapshots in float64)."""
    x = torch.from_numpy(np.array(points)).to(devices.here())
    with torch_randomness(seed, "dagmm"):
        networks = _Networks(defense, x.shape[1]).to(x.device)
    adam = torch.optim.Adam(networks.parameters(), defense.learning_rate)
    for _ in range(defense.epochs):
        again, z = networks(x)
        mixture = mixture_of(z.double(), networks.estimator(z).softmax(dim=1).double())
        loss = (
            functional.mse_loss(again, x)
            + defense.energy_weight * energies(z.double(), *mixture).mean()
            + defense.covariance_weight * (1 / mixture[2].diagonal(dim1=1, dim2=2)).sum()
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        _, z = networks(x)
        fitted = mixture_of(z.double(), networks.estimator(z).softmax(dim=1).double())
    weights = parameters_to_vector(networks.parameters()).detach().cpu().numpy()
    return weights, {name: part.cpu().numpy() for name, part in zip(_MIXTURE, fitted, strict=True)}


@torch.no_grad()
def _energies(
    defense: DAGMM, weights: np.ndarray, mixture: dict[str, np.ndarray], points: np.ndarray
) -> np.ndarray:
    x, trained, *fitted = (
        torch.from_numpy(np.array(part)).to(devices.here())
        for part in (points, weights, *(mixture[name] for name in _MIXTURE))
    )
    with torch_randomness(0, "replaced by the trained weights"):
        networks = _Networks(defense, x.shape[1]).to(x.device)
    vector_to_parameters(trained, networks.parameters())
    _, z = networks(x)
    return energies(z.double(), *fitted).cpu().numpy()
