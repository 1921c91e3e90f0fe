"""What every registered defense does with a GPU: which of its stages run there, and that verdicts stay what they were."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from defenses import DEFENSES
from raysim.backends import devices
from raysim.backends.base import InProcessBackend, ThreadLimit
from raysim.backends.telemetry import WHOLE_STAGE
from raysim.defense import Verdict
from raysim.requirement import Requirement
from tests.contract.test_contract_defenses import defense_of, judge, random_rows

ON_A_GPU: dict[str, set[str]] = {
    "backdoor_indicator": {"inference", "server_update"},
    "bulyan": {"gram", "order_statistics"},
    "dagmm": {"pretrain", "fit_dagmm", "energy"},
    "deepsight": {"inference"},
    "dnc": {"gram"},
    "err": {"validate", "order_statistics"},
    "faa_dl": {"standardised_gram"},
    "flame": {"gram"},
    "flare": {"plr", "mmd"},
    "flare_code": {"plr", "mmd"},
    "fltrust": {"server_update"},
    "foolsgold": {"gram"},
    "freqfed": {"gram"},
    "gradcam_ae": {"cam", "autoencoder"},
    "gradcam_krum": {"cam"},
    "krum": {"gram"},
    "layercam_ae": {"cam", "autoencoder"},
    "layercam_krum": {"cam"},
    "lfr": {"validate", "order_statistics"},
    "mda": {"gram"},
    "median": {"order_statistics"},
    "multi_krum": {"gram"},
    "nearest_neighbour_mixing": {"gram"},
    "pdrr": {"gram"},
    "rfa": {"gram"},
    "smea": {"gram"},
    "trimmed_mean": {"order_statistics"},
    "vae": {"pretrain", "fit_vae", "reconstruct"},
}
"""The stages of each defense that use a GPU where there is one; the others have none."""

MODELS_ALIKE = {"mmd"}
"""Stages that a defense does not come to where the device gives zeros."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 4,096 columns, so that a small model has several; and one thread."""
    monkeypatch.setattr("raysim.matrix.updates.CHUNK_VALUES", 1)
    with ThreadLimit(1)():
        yield


def close(left: np.ndarray | None, right: np.ndarray | None) -> None:
    assert (left is None) == (right is None)
    if left is not None and right is not None:
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-6 * max(np.abs(left).max(), 1e-12))


def same(left: Verdict, right: Verdict) -> None:
    np.testing.assert_array_equal(left.flagged, right.flagged)
    for part in ("scores", "weights", "aggregate"):
        close(getattr(left, part), getattr(right, part))


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_the_path_of_a_gpu_gives_the_verdict_of_the_cpu(name):
    """The path is taken on the CPU, in the GPU's place: what differs then is the arithmetic that was chosen for it."""
    plain, _ = judge(name, random_rows())
    backend = InProcessBackend(accelerator=devices.REHEARSAL)
    verdict, _ = judge(name, random_rows(), backend=backend)
    same(plain, verdict)
    spans = backend.telemetry.drain()
    # A stage may come in two passes, of which one is on the GPU.
    whole = {span.stage for span in spans if span.task == WHOLE_STAGE and span.device != devices.CPU}
    tasks = {span.stage for span in spans if span.task != WHOLE_STAGE and span.device == devices.REHEARSAL}
    assert tasks == whole
    assert tasks == ON_A_GPU.get(name, set())


STAGES_OF: dict[Requirement, set[str]] = {
    Requirement.CLASS_ACTIVATION: {"cam"},
    Requirement.REPRESENTATIONS: {"plr"},
    Requirement.INFERENCE: {"cam", "plr", "inference", "validate"},
    Requirement.AUTOENCODER: {"autoencoder", "fit_vae", "fit_dagmm"},
    Requirement.SERVER_TRAINING: {"server_update", "pretrain"},
    Requirement.GRAM: {"gram", "standardised_gram"},
    Requirement.ORDER_STATISTICS: {"order_statistics"},
}
"""The stages that do the work of a requirement, for those that a GPU helps with."""

LATER = {("fedgrad", Requirement.GRAM)}
"""What a defense first comes to in a later round."""


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_what_a_defense_declares_and_a_gpu_helps_with_is_done_there(name):
    for requirement in defense_of(name).needed():
        if requirement in STAGES_OF and (name, requirement) not in LATER:
            assert not STAGES_OF[requirement].isdisjoint(ON_A_GPU[name]), requirement


@pytest.mark.parametrize("rule", ["krum", "median", "trimmed_mean"])
def test_so_do_rules_that_another_defense_applies(rule):
    options: dict[str, Any] = {"rule": rule}
    plain, _ = judge("pdrr", random_rows(), defense=DEFENSES["pdrr"](**options))
    backend = InProcessBackend(accelerator=devices.REHEARSAL)
    same(plain, judge("pdrr", random_rows(), defense=DEFENSES["pdrr"](**options), backend=backend)[0])
    stage = "gram" if rule == "krum" else "order_statistics"
    assert {s.stage for s in backend.telemetry.drain() if s.device == devices.REHEARSAL} == {stage}


@pytest.mark.slow
def test_nothing_on_a_gpu_is_mixed_with_what_is_not(tmp_path):
    """In a process where torch pretends to have a GPU: defenses, local training, stacked training and evaluation."""
    from torch.utils import backend_registration

    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot pretend to have a device")
    target = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.pretend_gpu", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    for name in DEFENSES:
        assert set(found[name]) == ON_A_GPU.get(name, set()) - MODELS_ALIKE
    assert set(found["pairs"]) == MODELS_ALIKE
    assert set(found["a run"]) == set(found["a run, stacked"]) == {"train", "evaluate"}
    assert {device for stages in found.values() for device in stages.values()} == {"pretend:0"}
