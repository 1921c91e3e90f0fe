"""Cosine similarities: of many vectors, and of two vectors known only through a third.

The transitive estimate is FedGrad's (section 6.2), after Schubert, "A triangle inequality for cosine
similarity", SISAP 2021.
"""

from __future__ import annotations

from math import comb
from typing import Literal

import numpy as np

from raysim.errors import ConfigError

Method = Literal["pair", "batch", "matrix"]

LEAST_WIDTH = 1e-7
"""1 - s^2 below this counts as this: what float32 histories can tell from a similarity of exactly 1."""


def cosine_similarities(vectors: np.ndarray, method: Method = "matrix") -> np.ndarray:
    """Cosines between the rows of vectors [K, c]: [K, K] float64, symmetric; a zero vector's are 0.

    method: one `pair` at a time, one client against a `batch` of all, or one `matrix` product: the same
    numbers up to rounding, in K^2, K or 1 steps.
    """
    return cosines_between(vectors, vectors, method)


def cosines_between(left: np.ndarray, right: np.ndarray, method: Method = "matrix") -> np.ndarray:
    """The same between the rows of left [a, c] and right [b, c]: [a, b] float64."""
    units = _units(left)
    others = units if right is left else _units(right)
    if method == "pair":
        return np.array([[float(a @ b) for b in others] for a in units])
    if method == "batch":
        return np.stack([others @ unit for unit in units])
    similarities: np.ndarray = units @ others.T
    return similarities


def cosines_from_gram(gram: np.ndarray) -> np.ndarray:
    """Cosines [K, K] from inner products [K, K]; a zero vector's are 0."""
    lengths = np.sqrt(np.diagonal(gram))
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    similarities: np.ndarray = gram * inverse[:, None] * inverse
    return similarities


def cosines_from_products(products: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Cosines [K] with one vector from the inner products with it and the products of both lengths; a zero vector's are 0."""
    similarities: np.ndarray = np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return similarities


def transitive_interval(s_iz: float, s_zj: float) -> tuple[float, float]:
    """The least and the largest cosine that i and j can have, given both their cosines with z.

    >>> transitive_interval(1.0, 0.25)
    (0.25, 0.25)
    """
    middle = s_iz * s_zj
    half = float(np.sqrt((1 - s_iz**2) * (1 - s_zj**2)))
    return middle - half, middle + half


def transitive_similarities(similarities: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimated cosines between K clients through third ones, and which pairs share one: [K, K] and bool.

    similarities [K, n]: cosines of the K with n others; known [K, n] bool: which of them are known. Each
    shared z gives the middle of its interval; several are averaged with weights 1 / width, a width being
    2 sqrt((1 - s_iz^2) (1 - s_zj^2)). That weight is a product of a factor for i and one for j, so all
    pairs come from two matrix products. Pairs that share nobody get 0.
    """
    factors = _factors(similarities, known)
    return _weighted_means(factors, factors)


def transitive_between(
    similarities: np.ndarray, known: np.ndarray, others: np.ndarray, others_known: np.ndarray
) -> np.ndarray:
    """The same between clients [a, n] and others [b, n]: [a, b]."""
    return _weighted_means(_factors(similarities, known), _factors(others, others_known))[0]


def _units(vectors: np.ndarray) -> np.ndarray:
    """Rows [K, c] scaled to length 1; zero rows stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    units: np.ndarray = vectors / np.where(lengths > 0, lengths, 1.0)
    return units


def _factors(similarities: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each client's factors of the weights [K, n], and these times its similarities."""
    factors = known / np.sqrt(np.maximum(1.0 - similarities.astype(np.float64) ** 2, LEAST_WIDTH))
    return factors, factors * similarities


def _weighted_means(
    left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    totals = left[0] @ right[0].T
    shared = totals > 0
    return np.divide(left[1] @ right[1].T, totals, out=np.zeros_like(totals), where=shared), shared


def coverage_rounds(population: int, cohort: int) -> float:
    """Expected rounds until all n clients are linked, when K are drawn each round; a new client counts as linked.

    delta = 1 + E_K, where E_i is what i linked clients still need:
    E_i = (1 + sum_{x >= 1} h(x | i) E_{i + x}) / (1 - p_i), with h(x | i) = C(n - i, x) C(i, K - x) / C(n, K)
    the chance of x new ones and p_i = h(0 | i). FedGrad's theorem 1 prints a bound that counts the
    unproductive rounds only (`theorem_1_rounds`); this is exact.

    >>> round(coverage_rounds(100, 20), 1), round(coverage_rounds(100, 10), 1)
    (23.9, 49.9)
    """
    _check_cohort(population, cohort)
    draws = comb(population, cohort)
    needed = [0.0] * (population + 1)
    for linked in range(population - 1, cohort - 1, -1):
        fresh = population - linked
        onwards = sum(
            comb(fresh, x) * comb(linked, cohort - x) / draws * needed[linked + x]
            for x in range(1, min(cohort, fresh) + 1)
        )
        needed[linked] = (1.0 + onwards) / (1.0 - comb(linked, cohort) / draws)
    return 1.0 + needed[cohort]


def theorem_1_rounds(population: int, cohort: int) -> float:
    """What FedGrad's theorem 1 prints: 1 + sum_{i = K}^{n - 1} C(i, K) / (C(n, K) - C(i, K)).

    >>> round(theorem_1_rounds(100, 20), 1)
    10.3
    """
    _check_cohort(population, cohort)
    draws = comb(population, cohort)
    idle = [comb(linked, cohort) for linked in range(cohort, population)]
    return 1.0 + sum(count / (draws - count) for count in idle)


def _check_cohort(population: int, cohort: int) -> None:
    if not 1 <= cohort <= population:
        rule = f"must be from 1 to the population of {population}"
        raise ConfigError("cohort", rule, cohort, min(max(cohort, 1), population))
