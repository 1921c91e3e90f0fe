"""How long a client takes: FedScale's formula, and where ours goes beyond it."""

from __future__ import annotations

import numpy as np
import pytest

from raysim.fleet.completion import Speeds, completion


def fedscale(
    batch_size: int, local_steps: int, size_kbit: float, latency_ms: float, bandwidth_kbps: float
) -> tuple[float, float]:
    """(computation, communication) in seconds, as the paper's system has them: size_kbit each way."""
    return 3.0 * batch_size * local_steps * latency_ms / 1000.0, 2 * size_kbit / bandwidth_kbps


def test_the_seconds_of_two_clients_by_hand() -> None:
    """2 epochs of 50 samples at 10 ms: 3 * 100 * 0.01 = 3 s. 1,000,000 bytes are 8,000 kbit: 4 s at 2,000 kbit/s."""
    speeds = Speeds(np.array([10.0, 5.0]), np.array([2000.0, 8000.0]), np.array([500.0, 1000.0]))
    seconds = completion(speeds, 2 * np.array([50, 0]), 1_000_000)
    np.testing.assert_allclose(seconds.download, [4.0, 1.0])
    np.testing.assert_allclose(seconds.compute, [3.0, 0.0])
    np.testing.assert_allclose(seconds.upload, [16.0, 8.0])
    np.testing.assert_allclose(seconds.total, [23.0, 9.0])


@pytest.mark.parametrize("case", [(20, 20, 4096.0, 12.5, 3000.0), (32, 5, 80.0, 0.4, 55_000.0)])
def test_with_one_bandwidth_and_whole_batches_it_is_fedscale(
    case: tuple[int, int, float, float, float],
) -> None:
    batch_size, local_steps, size_kbit, latency_ms, bandwidth_kbps = case
    one = np.ones(1)
    seconds = completion(
        Speeds(latency_ms * one, bandwidth_kbps * one, bandwidth_kbps * one),
        batch_size * local_steps * one,
        int(size_kbit * 1000 / 8),
    )
    computation, communication = fedscale(*case)
    assert seconds.compute[0] == pytest.approx(computation)
    assert seconds.download[0] + seconds.upload[0] == pytest.approx(communication)
