import numpy as np
import pytest

from attacks.gae_code import GAECode
from attacks.graph_autoencoder import decode, laplacian_basis
from attacks.noise_columns import ColumnNoise
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, layout_of, tilings

ROWS = np.random.default_rng(0).normal(0.05, 0.2, size=(9, 30)).astype(np.float32)
ATTACKERS = [2, 5]
BENIGN = np.delete(ROWS, ATTACKERS, axis=0)
GLOBAL = np.random.default_rng(1).normal(size=30).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_the_published_graph_steps_leave_the_mean(seed):
    generator = np.random.default_rng(seed)
    graph = np.tril(generator.random((5, 5)), -1)
    redrawn = decode(generator.standard_normal((5, 16)))
    change = laplacian_basis(redrawn)[0] @ laplacian_basis(graph + graph.T)[0].T
    assert np.abs(change - np.eye(5)).max() > 0.1
    np.testing.assert_allclose((change @ BENIGN[:5]).mean(0), BENIGN[:5].mean(0), atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-3.0, 0.1)])
def test_the_overheard_mean_times_random_numbers(low, high):
    attack = GAECode(num_overheard=None, low=low, high=high)
    crafted, said = craft(attack, ROWS, ATTACKERS, global_vector=GLOBAL)
    mean = BENIGN.astype(np.float64).mean(0)
    for row, client in zip(crafted, ATTACKERS, strict=True):
        xi = ColumnNoise(3, ("attack", 0, client, "gae_code")).uniform(0, 30, low, high)
        np.testing.assert_allclose(row + GLOBAL, xi * (mean + GLOBAL), atol=1e-5)
    distance = np.linalg.norm(crafted - mean, axis=1).max()
    bound = np.linalg.norm(BENIGN - mean, axis=1).max()
    assert said["distance"] == pytest.approx(distance, rel=1e-5)
    assert said["bound"] == pytest.approx(bound, rel=1e-5)
    assert not said["within_bound"]


def test_normal_factors():
    attack = GAECode(num_overheard=None, distribution="normal")
    crafted, _ = craft(attack, ROWS, ATTACKERS, global_vector=GLOBAL)
    xi = ColumnNoise(3, ("attack", 0, 2, "gae_code")).normal(0, 30)
    np.testing.assert_allclose(crafted[0] + GLOBAL, xi * (BENIGN.mean(0) + GLOBAL), atol=1e-5)


def test_as_many_as_wanted_are_overheard():
    crafted, said = craft(GAECode(num_overheard=1), ROWS, ATTACKERS, global_vector=GLOBAL)
    xi = ColumnNoise(3, ("attack", 0, 2, "gae_code")).uniform(0, 30, -1.0, 1.0)
    nearest = np.abs(xi * (BENIGN + GLOBAL) - (crafted[0] + GLOBAL)).max(1)
    assert (nearest < 1e-5).sum() == 1
    assert said["bound"] == 0
    assert craft(GAECode(), ROWS, list(range(9))) == (None, {})


def test_bytes_do_not_depend_on_tiling_and_buffers_are_the_mean():
    layout = layout_of(27, buffers=3)
    attack = GAECode(num_overheard=None)
    made = [craft(attack, ROWS, ATTACKERS, layout=layout, **cut)[0] for cut in tilings(27)]
    assert len({rows.tobytes() for rows in made}) == 1
    np.testing.assert_allclose(made[0][:, 27:29], np.tile(BENIGN.mean(0)[27:29], (2, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"distribution": "gauss"}, {"num_overheard": 0}, {"low": 1.0, "high": 0.0}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        GAECode(**options)
