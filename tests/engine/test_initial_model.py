"""A defense that prepares the model round 0 begins with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import raysim
from defenses.fedavg import FedAvg
from defenses.flare import Flare
from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.data.client_data import ClientData
from raysim.defense import chain
from raysim.engine.simulation import initial_state
from raysim.errors import ContractError
from raysim.training.local import LocalTrainer


@dataclass(frozen=True)
class Shifted(FedAvg):
    """FedAvg from a model moved by `shift`."""

    shift: float = 1.0

    def initial_model(self, ctx):
        return ctx.global_vector + np.float32(self.shift)

    def init(self, ctx):
        return {"first": float(ctx.global_vector[0])}


@dataclass(frozen=True)
class Wrong(FedAvg):
    """Prepares what is no model."""

    kind: str = "short"

    def initial_model(self, ctx):
        kinds = {"short": ctx.global_vector[:3], "nan": ctx.global_vector * np.nan, "list": [1.0]}
        return kinds[self.kind]


def begun(tiny: dict[str, Any], **changes: Any) -> tuple[Any, Any, InProcessBackend]:
    experiment = compose(ExperimentConfig.from_mapping({**tiny, "attack": "none", **changes}))
    return experiment, initial_state, InProcessBackend()


def test_round_0_begins_with_the_prepared_model_and_init_sees_it(tiny) -> None:
    experiment, start, backend = begun(tiny)
    experiment = replace(experiment, defense=chain(Shifted(), Shifted(shift=0.5)))
    state = start(experiment, backend)
    np.testing.assert_array_equal(state.global_vector, experiment.initial + np.float32(1) + np.float32(0.5))
    assert state.defense["0"]["first"] == state.defense["1"]["first"] == float(state.global_vector[0])
    plain = start(replace(experiment, defense=FedAvg()), InProcessBackend())
    assert plain.global_vector is experiment.initial


@pytest.mark.parametrize("kind", ["short", "nan", "list"])
def test_what_is_no_model_is_refused(tiny, kind: str) -> None:
    experiment, start, backend = begun(tiny)
    with pytest.raises(ContractError, match="Wrong: its initial model must be finite floats of shape"):
        start(replace(experiment, defense=Wrong(kind=kind)), backend)


def test_flare_pretrains_on_what_the_server_holds(tiny) -> None:
    experiment, start, backend = begun(tiny, defense={"name": "flare", "pretrain_epochs": 2})
    state = start(experiment, backend)
    setup, held = experiment.setup, experiment.server_data
    recipe = replace(setup.recipe, epochs=2)
    data = ClientData(np.array(held.images), np.array(held.labels))
    trainer = LocalTrainer(setup.factory, setup.layout, recipe)
    update = trainer.fit(experiment.initial, data, ("server_update", 0), seed=0)
    np.testing.assert_allclose(state.global_vector, experiment.initial + update, atol=1e-6)
    assert np.abs(update).max() > 0.01
    assert ("pretrain", "defense") in {(span.stage, span.owner) for span in backend.telemetry.drain()}
    assert Flare().initial_model(ctx=None) is None


def test_a_run_with_pretraining_is_another_and_resumes_to_the_same_bytes(tiny, tmp_path) -> None:
    config = {**tiny, "attack": "none", "rounds": 2, "defense": {"name": "flare", "pretrain_epochs": 2}}
    whole = raysim.run(config, name="whole", out=tmp_path, backend="inprocess")
    half = raysim.run({**config, "rounds": 1}, name="half", out=tmp_path, backend="inprocess")
    assert raysim.resume(half.path, rounds=2, backend="inprocess").digest == whole.digest
    plain = raysim.run({**config, "defense": "flare"}, name="plain", out=tmp_path, backend="inprocess")
    assert whole.digest != plain.digest
    assert "pretrain" in set(whole.frame("spans")["stage"])
