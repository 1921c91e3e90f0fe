from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from raysim import rng
from raysim.backends.base import InProcessBackend
from raysim.engine.synthetic_updates import synthetic_updates, tensor_scales
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout
from raysim.models.recipe import ModelRecipe


@cache
def small() -> Layout:
    return Layout.of(ModelRecipe("digits_cnn", 10, (1, 8, 8), 0, {"width": 0.25}).build())


def rows(**options) -> np.ndarray:
    options = {"seed": 3, **options}
    return synthetic_updates(InProcessBackend(), options.pop("layout", small()), 6, **options)[0].to_array()


def test_values_by_the_formula():
    layout = Layout((Entry("w", (2, 4), 0, 8), Entry("b", (2,), 8, 10)))
    scale = np.array([0.5] * 10) / math.sqrt(10 / 4)  # both tensors have 4 inputs; sum of squares 1
    draw = {
        key: rng.generator(7, "synthetic", *key).standard_normal(10, np.float32)
        for key in [("all",), ("malicious",), ("client", 0), ("client", 1)]
    }
    updates, mask = synthetic_updates(
        InProcessBackend(), layout, 2, seed=7, malicious=1, norm=3.0, spread=2.0, shift=0.5
    )
    expected = [
        3 / math.sqrt(5) * scale * (draw["all",] + 2 * draw["client", i] + 0.5 * mask[i] * draw["malicious",])
        for i in range(2)
    ]
    assert mask.sum() == 1
    assert np.allclose(updates.to_array(), expected, atol=1e-6)


def test_scales_follow_the_inputs_of_each_tensor():
    layout = Layout((Entry("c", (1, 1, 2, 2), 0, 4), Entry("b", (1,), 4, 5), Entry("w", (1, 100), 5, 105)))
    (_, conv), (_, bias), (_, linear) = tensor_scales(layout)
    assert conv == bias == pytest.approx(5 * linear)
    assert 5 * conv**2 + 100 * linear**2 == pytest.approx(1.0)


def test_norms_and_directions_are_those_asked_for():
    updates, mask = synthetic_updates(
        InProcessBackend(), small(), 8, seed=0, malicious=3, norm=0.25, spread=0.5, shift=2.0
    )
    matrix = updates.to_array().astype(np.float64)
    lengths = np.linalg.norm(matrix, axis=1)
    assert lengths[~mask] == pytest.approx(np.full(5, 0.25), rel=0.15)
    assert lengths[mask] == pytest.approx(np.full(3, 0.25 * math.sqrt((1 + 0.25 + 4) / 1.25)), rel=0.15)
    cosines = (matrix / lengths[:, None]) @ (matrix / lengths[:, None]).T
    apart = cosines[np.ix_(mask, ~mask)]
    assert cosines[np.ix_(~mask, ~mask)][~np.eye(5, dtype=bool)] == pytest.approx(np.full(20, 0.8), abs=0.1)
    assert apart == pytest.approx(np.full_like(apart, 1 / math.sqrt(1.25 * 5.25)), abs=0.15)


@pytest.mark.parametrize(
    "tiling", [{"rows_per_block": 1}, {"rows_per_block": 4}, {"bounds": (0, 7, 500)}, {"bounds": (0, 501)}]
)
def test_bytes_do_not_depend_on_tiles_and_blocks(tiling):
    end = small().dim
    if "bounds" in tiling:
        tiling = {"bounds": (*tiling["bounds"], end)}
    assert rows(malicious=2, **tiling).tobytes() == rows(malicious=2).tobytes()


def test_some_clients_rows_are_those_of_all():
    every, truth = synthetic_updates(InProcessBackend(), small(), 6, seed=3, malicious=3)
    some = np.array([1, 4, 5])
    updates, mask = synthetic_updates(InProcessBackend(), small(), 6, seed=3, malicious=3, clients=some)
    assert updates.client_ids.tolist() == [1, 4, 5]
    assert updates.to_array().tobytes() == every.to_array()[some].tobytes()
    assert 0 < truth.sum() == 3
    assert (mask == truth[some]).all()


@pytest.mark.ray
def test_bytes_do_not_depend_on_the_backend(ray_cluster):
    from raysim.backends.ray_backend import ClientActors, RayBackend

    backend = RayBackend(ClientActors(0), workers=2)
    updates, mask = synthetic_updates(backend, small(), 6, seed=3, malicious=2)
    assert len(updates.blocks) == 3
    assert updates.to_array().tobytes() == rows(malicious=2).tobytes()
    assert (mask == synthetic_updates(InProcessBackend(), small(), 6, seed=3, malicious=2)[1]).all()
    backend.close()


def test_seeds_and_clients_differ():
    assert not np.array_equal(rows(seed=1), rows(seed=2))
    assert len(np.unique(rows()[:, 0])) == 6


def test_a_model_stays_usable():
    """Buffers stay the global model's, and parameters move by little: a batch still has finite scores."""
    import torch

    recipe = ModelRecipe("resnet18_cifar", 10, (3, 32, 32), 0, {})
    model = recipe.build()
    layout = Layout.of(model)
    updates, _ = synthetic_updates(InProcessBackend(), layout, 1, seed=0)
    (row,) = updates.map_rows("gather", list, buffers=True)
    vector = layout.vector(model)
    assert not row[layout.dim :].any()
    assert 0 < np.linalg.norm(row) < 0.1 * np.linalg.norm(vector[: layout.dim])
    layout.bind(model, torch.from_numpy(vector + row))
    assert torch.isfinite(model.eval()(torch.rand(1, 3, 32, 32))).all()


def test_a_task_holds_one_row_block():
    backend = InProcessBackend()
    updates, _ = synthetic_updates(backend, small(), 100, seed=0)
    assert [len(block.rows) for block in updates.blocks] == [50, 50]
    bytes_out = [span.bytes_out for span in backend.telemetry.drain() if span.task >= 0]
    assert max(bytes_out) <= 50 * 4 * (small().num_columns + 1)  # and each row's largest value


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"malicious": 7}, "malicious"),
        ({"norm": -1.0}, "norm"),
        ({"rows_per_block": 0}, "rows_per_block"),
        ({"clients": np.array([0, 6])}, "clients"),
        ({"clients": np.array([1, 0])}, "clients"),
        ({"clients": np.array([], int)}, "clients"),
    ],
)
def test_values_out_of_range_are_refused(options, key):
    with pytest.raises(ConfigError, match=key):
        rows(**options)
