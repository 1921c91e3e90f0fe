"""Graphs, their Fourier bases, and the graph autoencoder that rewrites them: what the GAE attacks are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AutoencoderRecipe:
    """Two graph convolutions (features -> hidden -> latent), an inner-product decoder, and how they are fitted.

    kl_weight: None for a plain autoencoder; a number makes it variational, its KL term times that.
    """

    hidden: int = 32
    latent: int = 16
    epochs: int = 20
    learning_rate: float = 0.01
    kl_weight: float | None = None


def cosine_graph(features: np.ndarray, threshold: float) -> np.ndarray:
    """Nodes [n, p] -> adjacency [n, n] of 0 and 1: an edge where the cosine exceeds `threshold`, none to oneself."""
    length = np.linalg.norm(features, axis=1)
    unit = features / np.where(length > 0, length, 1.0)[:, None]
    adjacency = (unit @ unit.T > threshold).astype(np.float64)
    np.fill_diagonal(adjacency, 0.0)
    return adjacency


def laplacian_basis(adjacency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(eigenvectors as columns [n, n], eigenvalues [n] descending) of diag(A 1) - A, A symmetric.

    The largest-magnitude entry of each eigenvector is positive: the first of those equal but for rounding.
    """
    values, vectors = np.linalg.eigh(np.diag(adjacency.sum(1)) - adjacency)
    values, vectors = values[::-1], vectors[:, ::-1]
    size = np.abs(vectors)
    peaks = vectors[(size >= (1 - 1e-6) * size.max(0)).argmax(0), np.arange(len(values))]
    return vectors * np.where(peaks < 0, -1.0, 1.0), values


def repeated(eigenvalues: np.ndarray) -> int:
    """How many eigenvalues equal the one before: their eigenvectors are one rotation of many."""
    scale = max(float(np.abs(eigenvalues).max(initial=0.0)), 1.0)
    return int((np.abs(np.diff(eigenvalues)) < 1e-9 * scale).sum())


def positive_weight(adjacency: np.ndarray) -> float:
    """Weight of an edge against a non-edge, (n^2 - |E|) / |E|; 1 for a graph without edges or with all of them."""
    count, edges = len(adjacency), adjacency.sum()
    return 1.0 if edges in (0, count * (count - 1)) else float((count**2 - edges) / edges)


def propagation(adjacency: np.ndarray) -> np.ndarray:
    """D^-1/2 (A + I) D^-1/2."""
    looped = adjacency + np.eye(len(adjacency))
    scale = 1 / np.sqrt(looped.sum(1))
    normalised: np.ndarray = scale[:, None] * looped * scale[None, :]
    return normalised


def decode(latent: np.ndarray) -> np.ndarray:
    """sigmoid(Z Z^T) [n, n] of latent codes [n, q]."""
    probabilities: np.ndarray = 1 / (1 + np.exp(-latent @ latent.T))
    return probabilities


def initial_weights(
    features: int, recipe: AutoencoderRecipe, generator: np.random.Generator
) -> list[np.ndarray]:
    """Theta_0 [p, hidden], Theta_1 [hidden, latent] and, when variational, the deviations' [hidden, latent]."""
    shapes = [(features, recipe.hidden), (recipe.hidden, recipe.latent)]
    shapes += [(recipe.hidden, recipe.latent)] if recipe.kl_weight is not None else []
    bounds = [np.sqrt(6 / sum(shape)) for shape in shapes]
    return [
        generator.uniform(-bound, bound, shape).astype(np.float32)
        for bound, shape in zip(bounds, shapes, strict=True)
    ]


def fit_autoencoder(
    adjacency: np.ndarray,
    features: np.ndarray,
    weights: list[np.ndarray],
    recipe: AutoencoderRecipe,
    generator: np.random.Generator,
) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Fit Z = A~ relu(A~ X Theta_0) Theta_1 so that sigmoid(Z Z^T) resembles A + I.

    adjacency [n, n], features X [n, p], weights as from `initial_weights`; generator: the variational draws.
    Returns (reconstruction [n, n] float64, fitted weights, last loss). Full batches, Adam, cross-entropy
    with edges weighted by `positive_weight`.
    """
    import torch
    from torch.nn import functional

    from raysim.training.flat_optimizer import FlatOptimizer

    mixing = torch.from_numpy(propagation(adjacency).astype(np.float32))
    inputs = mixing @ torch.from_numpy(features.astype(np.float32))
    target = torch.from_numpy((adjacency + np.eye(len(adjacency))).astype(np.float32))
    edge_weight = torch.tensor(positive_weight(adjacency), dtype=torch.float32)
    flat = torch.from_numpy(np.concatenate([np.ravel(weight) for weight in weights]).astype(np.float32))
    flat.requires_grad_()
    gradient = torch.zeros_like(flat)
    optimizer = FlatOptimizer(flat.detach(), gradient, "adam", recipe.learning_rate)

    def unpacked(values: torch.Tensor) -> list[torch.Tensor]:
        parts = values.split([weight.size for weight in weights])
        return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]

    loss = torch.zeros(())
    for _ in range(recipe.epochs):
        thetas = unpacked(flat)
        hidden = mixing @ torch.relu(inputs @ thetas[0])
        code = hidden @ thetas[1]
        penalty = torch.zeros(())
        if recipe.kl_weight is not None:
            log_std = hidden @ thetas[2]
            penalty = -0.5 / len(code) * (1 + 2 * log_std - code**2 - torch.exp(2 * log_std)).sum(1).mean()
            draw = generator.standard_normal(tuple(code.shape), dtype=np.float32)
            code = code + torch.from_numpy(draw) * torch.exp(log_std)
        fit = functional.binary_cross_entropy_with_logits(code @ code.T, target, pos_weight=edge_weight)
        loss = fit + (recipe.kl_weight or 0.0) * penalty
        gradient.copy_(torch.autograd.grad(loss, flat)[0])
        optimizer.step()
    with torch.no_grad():
        thetas = unpacked(flat.detach())
        code = mixing @ torch.relu(inputs @ thetas[0]) @ thetas[1]
    fitted = [theta.numpy() for theta in thetas]
    return decode(code.numpy().astype(np.float64)), fitted, loss.item()
