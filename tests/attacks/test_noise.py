from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attacks.noise import Noise, draw_bases, noised_columns
from attacks.noise_columns import ColumnNoise
from raysim.attack import Visibility
from raysim.data.client_data import ClientData
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout
from tests.attacks.crafting import craft, layout_of, round_of, tilings

RNG = np.random.default_rng(0)


def mixed_layout():
    """conv.weight [2], scale [2] (not noised), bn.bias [1]; one buffer."""
    return Layout(
        (Entry("conv.weight", (2,), 0, 2), Entry("scale", (2,), 2, 4), Entry("bn.bias", (1,), 4, 5)),
        (Entry("bn.running_mean_weight", (1,), 5, 6),),
    )


def test_uniform_noise_on_weights_and_biases_of_different_benign_models():
    rows = RNG.normal(size=(7, 6)).astype(np.float32)
    crafted, said = craft(Noise(), rows, [1, 4, 5], layout=mixed_layout())
    bases = [int(client) for client in said["bases"].split()]
    assert len(set(bases)) == 3
    assert set(bases) <= {0, 2, 3, 6}
    added = crafted - rows[bases]
    np.testing.assert_array_equal(added[:, [2, 3, 5]], 0)
    assert (added[:, [0, 1, 4]] >= 1 - 1e-6).all()
    assert (added[:, [0, 1, 4]] <= 2 + 1e-6).all()
    for row, client in zip(crafted, (1, 4, 5), strict=True):
        drawn = ColumnNoise(3, ("attack", 0, client, "noise")).uniform(0, 5, 1.0, 2.0)
        base = rows[bases[(1, 4, 5).index(client)]]
        assert row[[0, 1, 4]].tolist() == (drawn + base[:5])[[0, 1, 4]].tolist()


def test_replacing_the_update_leaves_only_noise():
    rows = RNG.normal(size=(4, 6)).astype(np.float32)
    attack = Noise(distribution="normal", mean=0.0, std=1.0, replace=True)
    crafted, said = craft(attack, rows, [0], layout=mixed_layout())
    drawn = ColumnNoise(3, ("attack", 0, 0, "noise")).normal(0, 5)
    assert crafted[0, [0, 1, 4]].tolist() == drawn[[0, 1, 4]].tolist()
    assert crafted[0, [2, 3, 5]].tolist() == rows[int(said["bases"])][[2, 3, 5]].tolist()


def test_bases_repeat_only_where_the_benign_are_too_few():
    for seed in range(20):
        generator = np.random.default_rng(seed)
        assert sorted(draw_bases(generator, 3, 3).tolist()) == [0, 1, 2]
        assert set(draw_bases(generator, 2, 5).tolist()) <= {0, 1}
    assert len(draw_bases(np.random.default_rng(0), 2, 5)) == 5


def test_no_benign_model_this_round_leaves_the_untrained_rows():
    rows = np.zeros((2, 4), np.float32)
    view, context = round_of(rows, [0, 1])
    assert view.benign is not None
    assert view.benign.num_clients == 0
    crafted, state = Noise().craft({}, view, context)
    assert crafted is None
    assert Noise().diagnostics(state) == {}


def test_bytes_do_not_depend_on_tiling_and_change_with_the_round():
    rows = RNG.normal(size=(6, 40)).astype(np.float32)
    layout = layout_of(37, buffers=3)
    attack = Noise(distribution="normal", std=0.1)
    made = {craft(attack, rows, [0, 3], layout=layout, **cut)[0].tobytes() for cut in tilings(37)}
    assert len(made) == 1
    assert craft(attack, rows, [0, 3], layout=layout, round=1)[0].tobytes() not in made


def test_own_base_trains_and_adds_noise_alone():
    attack = Noise(base="own", low=-0.5, high=0.5)
    assert attack.visibility is Visibility.OWN
    assert attack.trains
    assert not Noise().trains
    honest = np.arange(6, dtype=np.float32)
    data = ClientData(np.zeros((0, 1, 1, 1), np.float32), np.zeros(0, np.int64))
    ctx: Any = SimpleNamespace(seed=3, round=2, client=5, layout=mixed_layout())
    submitted = attack.train(lambda data: honest, data, ctx)
    drawn = ColumnNoise(3, ("attack", 2, 5, "noise")).uniform(0, 5, -0.5, 0.5)
    assert submitted[[0, 1, 4]].tolist() == (honest[:5] + drawn)[[0, 1, 4]].tolist()
    assert submitted[[2, 3, 5]].tolist() == [2, 3, 5]
    assert honest.tolist() == [0, 1, 2, 3, 4, 5]


def test_unnamed_matrices_are_noised_in_full():
    assert noised_columns(Layout.flat(4), 1, 3).tolist() == [True] * 3
    assert noised_columns(mixed_layout(), 1, 4).tolist() == [True, False, False, True]


@pytest.mark.parametrize("options", [{"base": "bening"}, {"low": 2.0, "high": 1.0}, {"std": -1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        Noise(**options)
