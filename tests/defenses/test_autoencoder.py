"""The heat-map autoencoder against torch.nn and torch.optim, and its threshold by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from defenses.autoencoder import error_threshold, num_weights, reconstruct, reconstruction_errors
from raysim.errors import ConfigError


def heat_maps(clients: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((clients, n), dtype=np.float32)


def plain_autoencoder(
    maps: np.ndarray, hidden: int, epochs: int, rate: float, decay: float, seed: int
) -> np.ndarray:
    """The published form: modules, autograd and torch's optimiser."""
    inputs, n = torch.from_numpy(maps), maps.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, n), nn.Sigmoid())
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)
    for _ in range(epochs):
        optimiser.zero_grad()
        nn.functional.mse_loss(model(inputs), inputs).backward()
        optimiser.step()
    with torch.no_grad():
        return model(inputs).numpy()


@pytest.mark.parametrize(
    ("clients", "n", "hidden", "epochs", "rate", "decay"),
    [
        (24, 16, 128, 200, 1e-3, 1e-5),
        (20, 49, 128, 200, 1e-3, 1e-5),
        (1, 4, 3, 50, 1e-2, 0.0),
        (6, 300, 64, 10, 1e-3, 1e-2),  # more weights than one of Adam's blocks
        (3, 5, 4, 0, 1e-3, 1e-5),
    ],
)
def test_equals_torchs_modules_and_optimiser(
    clients: int, n: int, hidden: int, epochs: int, rate: float, decay: float
) -> None:
    maps = heat_maps(clients, n)
    expected = plain_autoencoder(maps, hidden, epochs, rate, decay, seed=5)
    found = reconstruct(maps, hidden=hidden, epochs=epochs, learning_rate=rate, weight_decay=decay, seed=5)
    assert found.shape == (clients, n)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_step_descends_and_no_step_leaves_the_start() -> None:
    # A rate of 0 or no epoch leaves the start; one small step must lower the error.
    maps = heat_maps(8, 9)
    start = reconstruct(maps, epochs=0, seed=1)
    np.testing.assert_array_equal(reconstruct(maps, epochs=3, learning_rate=0.0, seed=1), start)
    after = reconstruct(maps, epochs=1, learning_rate=1e-4, seed=1)
    assert np.square(after - maps).mean() < np.square(start - maps).mean()
    assert np.abs(after - start).max() > 0


def test_a_lone_different_map_is_reconstructed_worst() -> None:
    maps = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (20, 1)) + heat_maps(20, 16) * np.float32(0.02)
    maps[13] = maps[13, ::-1]
    maps = np.clip(maps, 0, 1)
    errors = reconstruction_errors(maps, reconstruct(maps, seed=0))
    assert errors.argmax() == 13
    assert (errors > error_threshold(errors, beta=1.0)).tolist() == [row == 13 for row in range(20)]


def test_seed_alone_decides() -> None:
    maps = heat_maps(5, 16)
    before = maps.copy()
    first = reconstruct(maps, epochs=5, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        state = torch.random.get_rng_state()
        np.testing.assert_array_equal(reconstruct(maps, epochs=5, seed=1), first)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert np.abs(reconstruct(maps, epochs=5, seed=2) - first).max() > 1e-3
    np.testing.assert_array_equal(maps, before)


def test_float64_and_strided_maps_are_taken() -> None:
    maps = heat_maps(5, 16)
    doubled = np.asfortranarray(maps.astype(np.float64))
    np.testing.assert_array_equal(reconstruct(doubled, epochs=3, seed=0), reconstruct(maps, epochs=3, seed=0))


def test_number_of_weights() -> None:
    assert num_weights(224 * 224, 128) == 12_895_360
    model = nn.Sequential(nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 7), nn.Sigmoid())
    assert num_weights(7, 3) == sum(parameter.numel() for parameter in model.parameters())


def test_errors_by_hand() -> None:
    maps = np.array([[0.0, 1.0], [0.5, 0.5]], np.float32)
    reconstruction = np.array([[0.5, 0.75], [0.5, 0.5]], np.float32)
    assert reconstruction_errors(maps, reconstruction).tolist() == [0.375, 0.0]
    assert reconstruction_errors(maps, reconstruction, "square").tolist() == [0.15625, 0.0]
    assert reconstruction_errors(maps, reconstruction).dtype == np.float64


def test_threshold_by_hand() -> None:
    errors = np.array([1.0, 2.0, 6.0])  # mean 3, squares of deviations 4 + 1 + 9
    assert error_threshold(errors, 2.0) == pytest.approx(3 + 2 * np.sqrt(14 / 3))
    assert error_threshold(errors, 2.0, "sample") == pytest.approx(3 + 2 * np.sqrt(7))
    assert error_threshold(np.array([0.25]), 1.0, "sample") == 0.25


@pytest.mark.parametrize(
    ("low", "high", "beta", "std", "flagged"),
    [
        (21, 3, 1.0, "population", True),
        (21, 3, 1.0, "sample", True),
        (21, 3, 2.6, "sample", False),  # the largest deviation is 2.590 Bessel, 2.646 population
        (21, 3, 2.6, "population", True),
        (12, 12, 1.0, "sample", False),  # .979: half malicious cannot be seen at beta = 1
    ],
)
def test_what_planted_errors_can_be_flagged(
    low: int, high: int, beta: float, std: str, flagged: bool
) -> None:
    errors = np.array([0.1] * low + [0.3] * high)
    above = errors > error_threshold(errors, beta, std)  # type: ignore[arg-type]
    assert above.tolist() == [False] * low + [flagged] * high


def test_refusals() -> None:
    errors = np.ones(3)
    with pytest.raises(ConfigError, match="did you mean 'square'"):
        reconstruction_errors(errors[None], errors[None], "squared")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'sample'"):
        error_threshold(errors, 1.0, "samples")  # type: ignore[arg-type]
    for shape in ((3,), (0, 4), (4, 0)):
        with pytest.raises(ConfigError, match="at least one map"):
            reconstruct(np.zeros(shape, np.float32), seed=0)
