from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attacks.sign_flip import SignFlip
from raysim.attack import Visibility
from raysim.data.client_data import ClientData
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, layout_of, tilings

NO_DATA = ClientData(np.zeros((0, 1, 1, 1), np.float32), np.zeros(0, np.int64))


def test_own_update_turned_around_buffers_kept():
    ctx: Any = SimpleNamespace(layout=layout_of(3, buffers=2))
    honest = np.array([1, -2, 0, 7, 8], np.float32)
    assert SignFlip().visibility is Visibility.OWN
    assert SignFlip(kappa=2.5).train(lambda data: honest, NO_DATA, ctx).tolist() == [-2.5, 5, 0, 7, 8]
    assert honest.tolist() == [1, -2, 0, 7, 8]


def test_benign_mean_turned_around():
    rows = np.array([[1, 2, 0, 4, 1], [90, 90, 90, 90, 9], [3, -4, 0, 6, 2]], np.float32)
    attack = SignFlip(kappa=2.0, mean="benign")
    assert attack.visibility is Visibility.OMNISCIENT
    assert not attack.trains
    crafted, _ = craft(attack, rows, [1], layout=layout_of(3, buffers=2))
    assert crafted.tolist() == [[-4, 2, 0, 5, 1]]
    assert craft(attack, rows, [0, 1, 2])[0] is None


def test_bytes_do_not_depend_on_tiling():
    rows = np.random.default_rng(0).normal(size=(9, 31)).astype(np.float32)
    attack = SignFlip(mean="benign")
    assert len({craft(attack, rows, [2, 3], **cut)[0].tobytes() for cut in tilings(31)}) == 1


@pytest.mark.parametrize("options", [{"kappa": 0.0}, {"mean": "bening"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        SignFlip(**options)
