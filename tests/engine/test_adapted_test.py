"""An attack may change, from round to round, what its success is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from raysim.attack import Attack, ClientContext
from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.data.dataset import Dataset
from raysim.engine import simulation
from raysim.engine.evaluation import evaluate
from raysim.engine.experiment import Experiment
from raysim.engine.host import ClientHost

ATTACKERS = (3, 7)


@dataclass(frozen=True)
class Blinking(Attack):
    """Its trigger is the brightness of all images: what the context tells of the round, folded into 256 levels."""

    def triggered_test(self, test: Dataset) -> Dataset:
        return Dataset(np.zeros_like(test.images[:20]), np.zeros(20, np.int64))

    def adapt_test(self, test: Dataset, ctx: ClientContext) -> Dataset:
        assert ctx.client == ATTACKERS[0]
        assert len(ctx.colluders_data()) > 0
        return Dataset(np.full_like(test.images, brightness(ctx.global_vector, ctx.round)), test.labels)


def brightness(global_vector: np.ndarray, round: int) -> float:
    return float(np.abs(global_vector).sum() * 37 + round) % 1


def experiment_of(*attacks: str) -> Experiment:
    return compose(
        ExperimentConfig.from_mapping(
            {
                "rounds": 3,
                "population": {"clients": 10, "malicious": 2, "placement": list(ATTACKERS)},
                "data": {"name": "digits", "limit": 200},
                "attack": [{"name": name} for name in attacks[:1]],
                "evaluation": {"batch_size": 8},
            }
        )
    )


pytestmark = pytest.mark.usefixtures("one_thread")


def test_success_is_measured_on_the_test_of_the_round() -> None:
    experiment, backend = experiment_of(f"{__name__}:Blinking"), InProcessBackend()
    assert experiment.setup.adapting == {1: 0}
    simulation.start(experiment, backend)
    state = simulation.initial_state(experiment, backend)
    images, labels = experiment.arrays[-2:]
    assert images.dtype == np.float32
    for after, record in simulation.rounds(experiment, backend, state):
        shown = np.full_like(images, brightness(state.global_vector, state.round))
        host = ClientHost(experiment.setup, *experiment.arrays[:-2], shown, labels)
        found = host.evaluate(after.global_vector, 1, 0, 20).sum(axis=0)
        assert record.row["target_confidence"] == pytest.approx(found[3] / found[0], rel=1e-6)
        published = backend.put(after.global_vector)
        plain = evaluate(experiment, backend, 2, published, after.global_vector)[1]
        assert record.row["target_confidence"] != pytest.approx(plain.confidence, rel=1e-6)
        state = after


def test_other_attacks_adapt_nothing() -> None:
    assert experiment_of("trigger").setup.adapting == {}
    assert experiment_of("noise").setup.adapting == {}
