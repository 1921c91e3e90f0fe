"""A GPU that is not there: tensors on it have shapes and no values, and operations that mix it with the CPU fail.

    python -m tests.pretend_gpu FILE

does with it what a GPU would do in a run, and writes to FILE, as JSON, for every defense the devices of the stages that
were not on the CPU, and the same for one run. Torch's own pretence (FakeTensorMode) does the work; what comes back from
the device is zeros, and numbers taken out of it are 1. A process that has done this is good for nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration

from defenses import DEFENSES
from defenses.mmd import _tile_sums
from raysim.backends import devices
from raysim.backends.base import ACCELERATED, InProcessBackend, ThreadLimit
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.simulation import initial_state, rounds, start
from tests.contract import test_contract_defenses as contract

GPU = "pretend:0"
FEWEST = {"epochs": 1, "num_snapshots": 2}


def install() -> None:
    """Register the device, let tasks on it run in torch's pretence, and let values leave it."""
    backend_registration._setup_privateuseone_for_python_backend("pretend")
    mode, really = FakeTensorMode(allow_non_fake_inputs=True), devices.working_on

    @contextmanager
    def working_on(device: str) -> Iterator[None]:
        with really(device), mode if devices.kind(device) == "pretend" else nullcontext():
            yield

    devices.working_on = working_on  # type: ignore[assignment]
    for module, name, stand_in in (
        (torch.cuda, "device", lambda device: nullcontext()),
        (torch.random, "fork_rng", lambda devices=(): nullcontext()),
        (nn.Module, "to", moved),
        (FakeTensor, "numpy", values_of),
        (FakeTensor, "item", lambda tensor: 1),
        (FakeTensor, "__int__", lambda tensor: 1),
        (FakeTensor, "__float__", lambda tensor: 1.0),
        (FakeTensor, "__bool__", lambda tensor: True),
    ):
        setattr(module, name, stand_in)


def moved(module: nn.Module, device: Any) -> nn.Module:
    """`module.to(device)`, which swaps tensors in a way that pretended ones do not bear."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(value.detach().to(device), value.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)
    return module


def values_of(tensor: torch.Tensor) -> np.ndarray:
    """Zeros in place of a tensor on the CPU; one on the device has no array."""
    assert tensor.device.type == "cpu", f"an array of a tensor on {tensor.device}"
    return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def elsewhere(backend: InProcessBackend) -> dict[str, str]:
    """The stages that were not on the CPU: stage -> device."""
    spans = backend.telemetry.drain()
    return {span.stage: span.device for span in spans if span.device != devices.CPU}


def judged_by(name: str) -> dict[str, str]:
    """One round of a defense whose stages may use the device, and that learns for as short as it may."""
    backend, defense = InProcessBackend(accelerator=GPU), contract.defense_of(name)
    options = {field.name for field in fields(defense)}
    defense = replace(defense, **{option: few for option, few in FEWEST.items() if option in options})
    contract.judge(name, contract.random_rows(), defense=defense, backend=backend)
    return elsewhere(backend)


def kernels_of_pairs() -> dict[str, str]:
    """MMD's tiles: FLARE does not come so far here, for which all models look alike."""
    backend = InProcessBackend(accelerator=GPU)
    block = (0, np.ones((3, 4, 5), np.float32))
    backend.map("mmd", _tile_sums, [(block, block, 1.0)], needs=ACCELERATED)
    return elsewhere(backend)


def trained(stacked: int) -> dict[str, str]:
    """A round of a run whose clients train on the device, `stacked` at a time, and are evaluated there."""
    config = ExperimentConfig(
        rounds=1, population={"clients": 4}, data={"name": "digits", "limit": 80},
        training={"clients_per_stack": stacked}, server_data={"samples": 0},
    )  # fmt: skip
    composed = compose(config)
    backend = InProcessBackend(device=GPU)
    experiment = replace(composed, setup=replace(composed.setup, device="cuda")).published(backend)
    start(experiment, backend)
    for _, record in rounds(experiment, backend, initial_state(experiment, backend)):
        return {span.stage: span.device for span in record.spans if span.device != devices.CPU}
    raise AssertionError("a round was to be played")


def main(target: Path) -> None:
    install()
    with ThreadLimit(1)():
        found = {name: judged_by(name) for name in DEFENSES}
        found["pairs"] = kernels_of_pairs()
        found["a run"], found["a run, stacked"] = trained(1), trained(2)
    target.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
