"""Log-normal devices: their distribution, their hours, and that each depends on (seed, client) alone."""

from __future__ import annotations

import numpy as np
import pytest

from raysim.errors import ConfigError
from raysim.fleet.lognormal import LogNormalDevices

MANY = np.arange(2000)


def test_medians_and_spreads_are_those_asked_for() -> None:
    speeds = (
        LogNormalDevices(compute_ms=8.0, compute_sigma=0.5, down_kbps=100.0, up_kbps=20.0)
        .fleet(0)
        .speeds(MANY)
    )
    for values, median, sigma in ((speeds.compute_ms, 8.0, 0.5), (speeds.down_kbps, 100.0, 1.0)):
        assert np.median(values) == pytest.approx(median, rel=0.1)
        assert np.log(values).std() == pytest.approx(sigma, rel=0.1)
    np.testing.assert_allclose(speeds.up_kbps, speeds.down_kbps / 5)
    assert abs(np.corrcoef(np.log(speeds.compute_ms), np.log(speeds.up_kbps))[0, 1]) < 0.1


def test_a_device_is_its_clients_whoever_else_is_asked() -> None:
    fleet = LogNormalDevices(online=0.5).fleet(3)
    some = np.array([5, 1700])
    every, few = fleet.speeds(MANY), fleet.speeds(some)
    np.testing.assert_array_equal(every.compute_ms[some], few.compute_ms)
    np.testing.assert_array_equal(every.up_kbps[some], few.up_kbps)
    np.testing.assert_array_equal(fleet.online_until(MANY, 9e4)[some], fleet.online_until(some, 9e4))
    assert (few.compute_ms != LogNormalDevices(online=0.5).fleet(4).speeds(some).compute_ms).all()


def test_a_device_is_online_for_its_share_of_a_period_in_one_piece() -> None:
    fleet = LogNormalDevices(online=0.25, period_s=100.0).fleet(0)
    assert not fleet.always_online
    for at in (0.0, 30.0, 1234.5):
        until = fleet.online_until(MANY, at)
        online = until > at
        assert online.mean() == pytest.approx(0.25, abs=0.05)
        assert (until[online] <= at + 25.0).all()
        np.testing.assert_allclose(fleet.online_until(MANY, at + 100.0), until + 100.0)
        later = at + 0.5 * (until[online] - at).min()
        np.testing.assert_allclose(fleet.online_until(MANY[online], later), until[online])


def test_devices_are_always_online_by_default() -> None:
    fleet = LogNormalDevices().fleet(0)
    assert fleet.always_online
    assert (fleet.online_until(MANY[:3], 5.0) == np.inf).all()
    assert fleet.speeds(MANY[:0]).compute_ms.shape == (0,)


@pytest.mark.parametrize(
    "options", [{"online": 0.0}, {"online": 1.5}, {"compute_ms": 0.0}, {"compute_sigma": -1.0}]
)
def test_options_have_bounds(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        LogNormalDevices(**options)
