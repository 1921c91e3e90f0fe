"""Devices: decided and asked for in the process that does the work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raysim import ConfigError
from raysim.backends import devices
from raysim.backends.base import ACCELERATED, InProcessBackend
from raysim.backends.telemetry import WHOLE_STAGE


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "obstacle", lambda: "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_workers_share_the_gpus_that_they_see(two_gpus):
    assert [devices.decided("auto", place) for place in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices.decided("cpu") == "cpu"


def test_without_a_gpu_the_cpu_is_taken_unless_a_gpu_was_asked_for(monkeypatch):
    monkeypatch.setattr(devices, "obstacle", lambda: "torch finds no CUDA device")
    assert devices.decided("auto") == "cpu"
    with pytest.raises(ConfigError, match="torch finds no CUDA device") as caught:
        devices.decided("cuda")
    assert (caught.value.key, caught.value.value, caught.value.nearest) == ("resources.device", "cuda", "cpu")


def test_the_device_is_that_of_the_block_under_way():
    assert (devices.here(), devices.accelerated()) == ("cpu", False)
    with devices.working_on(devices.REHEARSAL):
        assert (devices.here(), devices.accelerated()) == ("cpu:0", True)
        with devices.working_on("cpu"):
            assert not devices.accelerated()
        assert devices.here() == "cpu:0"
    assert devices.here() == "cpu"


def test_a_tensor_is_a_copy_of_the_array():
    values = np.arange(3.0)
    values.flags.writeable = False
    with devices.working_on(devices.REHEARSAL):
        copy = devices.tensor(values)
    copy += 1
    assert copy.tolist() == [1.0, 2.0, 3.0]
    assert values.tolist() == [0.0, 1.0, 2.0]


def test_only_tasks_that_can_use_it_are_given_the_accelerator_and_clients_have_their_own_device():
    backend = InProcessBackend(device="cpu", accelerator=devices.REHEARSAL)
    assert backend.map("plain", devices.here, [()]) == ["cpu"]
    assert backend.map("on a GPU", devices.here, [(), ()], needs=ACCELERATED) == ["cpu:0", "cpu:0"]
    assert backend.run("one", devices.here, needs=ACCELERATED) == "cpu:0"
    begun = [
        backend.begin("early", 0, devices.here, needs=ACCELERATED),
        backend.begin("early", 1, devices.here),
    ]
    assert backend.finish("early", begun) == ["cpu:0", "cpu"]
    backend.start_clients(Host, ())
    assert backend.call_clients("ask", "asked", [()]) == [("cpu", "cpu")]
    whole = {span.stage: span.device for span in backend.telemetry.drain() if span.task == WHOLE_STAGE}
    assert whole == {"plain": "cpu", "on a GPU": "cpu:0", "one": "cpu:0", "early": "cpu+cpu:0", "ask": "cpu"}


class Host:
    def __init__(self) -> None:
        self.made_on = devices.here()

    def asked(self) -> tuple[str, str]:
        return self.made_on, devices.here()
