import numpy as np
import pytest

from raysim.data.selection import Selection
from raysim.errors import ConfigError, DataError


def test_without_a_limit_everything_stays_in_order():
    selection = Selection(None, seed=3)
    np.testing.assert_array_equal(selection.train(5), np.arange(5))
    np.testing.assert_array_equal(selection.test(4), np.arange(4))


def test_a_limit_keeps_the_first_of_a_seeded_shuffle():
    kept = Selection(30, seed=3).train(100)
    assert len(np.unique(kept)) == 30
    assert kept.min() >= 0
    assert kept.max() < 100
    np.testing.assert_array_equal(Selection(10, seed=3).train(100), kept[:10])
    assert not np.array_equal(Selection(30, seed=4).train(100), kept)
    assert sorted(Selection(500, seed=3).train(100)) == list(range(100))


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (4, 1), (10, 2), (99, 19), (1000, 50)])
def test_a_fifth_as_many_test_samples_stay(limit: int, count: int):
    assert len(Selection(limit, seed=0).test(50)) == count


def test_hold_out_splits_every_sample_once():
    train, test = Selection(None, seed=1).hold_out(50)
    assert (len(train), len(test)) == (40, 10)
    assert sorted([*train, *test]) == list(range(50))
    assert (np.diff(train) > 0).all()
    again = Selection(None, seed=1).hold_out(50)
    np.testing.assert_array_equal(again[1], test)
    assert not np.array_equal(Selection(None, seed=2).hold_out(50)[1], test)


@pytest.mark.parametrize(("share", "test_size"), [(0.001, 1), (0.5, 5), (0.999, 9)])
def test_neither_part_of_a_hold_out_is_empty(share: float, test_size: int):
    train, test = Selection(None, 0, share).hold_out(10)
    assert (len(train), len(test)) == (10 - test_size, test_size)


def test_wrong_values_are_refused():
    for limit in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="limit"):
            Selection(limit, seed=0)  # type: ignore[arg-type]
    for share in (0, 1, -0.2):
        with pytest.raises(ConfigError, match="test_share"):
            Selection(None, 0, share)
    with pytest.raises(DataError, match="at least 2"):
        Selection(None, 0).hold_out(1)


def test_a_test_share_is_refused_beside_a_test_set():
    Selection(None, 0).accept_test_set("test.parquet")
    with pytest.raises(ConfigError, match="test set is test"):
        Selection(None, 0, 0.2).accept_test_set("test.parquet")
