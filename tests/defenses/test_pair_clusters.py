"""2-means from tiles: the labels that scikit-learn gives, of the same seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import defenses.pair_clusters
import raysim.matrix.pairs
from defenses.cosine import cosine_similarities
from defenses.fedgrad import two_clusters
from defenses.pair_clusters import PARTS, STARTS, two_clusters_of_rows
from raysim.backends.base import InProcessBackend
from raysim.backends.telemetry import WHOLE_STAGE
from raysim.matrix.pairs import Pairs, cut, places


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raysim.matrix.pairs, "WHOLE_BYTES", 0)
    monkeypatch.setattr(raysim.matrix.pairs, "SIDE", 17)


def in_tiles(values: np.ndarray) -> Pairs:
    backend, bounds = InProcessBackend(), cut(values.shape[-1])
    sides = [slice(a, b) for a, b in pairwise(bounds)]
    return Pairs(
        backend, bounds, tuple(backend.put(values[..., sides[i], sides[j]]) for i, j in places(bounds))
    )


def similarities(seed: int) -> np.ndarray:
    """Two cosine matrices [2, K, K] float32 of clients of which a third may differ from the others."""
    draw = np.random.default_rng(seed)
    count = int(draw.integers(20, 160))
    found = []
    for _ in range(2):
        vectors = draw.standard_normal((count, 10))
        vectors[: count // 3] += draw.choice([0, 0.3, 1, 2]) * draw.standard_normal(10)
        lower = np.tril(cosine_similarities(vectors).astype(np.float32))
        found.append(lower + np.tril(lower, -1).T)
    return np.stack(found)


def tasks_of(pairs: Pairs) -> int:
    return sum(span.task != WHOLE_STAGE for span in pairs.backend.telemetry.spans)


@pytest.mark.parametrize("seed", range(12))
def test_labels_are_those_of_scikit_learn(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features = similarities(seed)
    expected = two_clusters(np.concatenate(features, axis=1), seed)
    assert 0 < expected.sum() < len(expected)
    pairs = in_tiles(features)
    np.testing.assert_array_equal(two_clusters_of_rows(pairs, "cluster", seed), expected)
    assert sum(PARTS) == STARTS
    assert tasks_of(pairs) == len(PARTS), "tasks that move starts to their ends"
    monkeypatch.setattr(defenses.pair_clusters, "READ_BYTES", 8 * 19**2)
    pairs = in_tiles(features)
    np.testing.assert_array_equal(two_clusters_of_rows(pairs, "cluster", seed), expected)
    assert tasks_of(pairs) > 10 * len(PARTS), "steps beside the tiles"


def test_equal_rows_are_one_cluster() -> None:
    assert not two_clusters_of_rows(in_tiles(np.full((2, 40, 40), 0.3, np.float32)), "cluster", 0).any()


def test_two_groups_by_hand() -> None:
    features = np.ones((1, 40, 40), np.float32)
    features[0, :10, 10:] = features[0, 10:, :10] = -1
    labels = two_clusters_of_rows(in_tiles(features), "cluster", 0)
    assert len(set(labels[:10].tolist())) == len(set(labels[10:].tolist())) == 1
    assert labels[0] != labels[10]
