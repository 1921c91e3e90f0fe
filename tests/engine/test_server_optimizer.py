"""The server's optimizers against the printed formulas, and their state in a run that is resumed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import raysim
from raysim.backends.base import InProcessBackend
from raysim.config.schema import ExperimentConfig
from raysim.config.training import ServerConfig
from raysim.defense import Verdict
from raysim.engine.server_optimizer import server_step
from raysim.engine.simulation import apply
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates

CHANGES = [np.array(row, np.float32) for row in ([1.0, -2.0, 0.0], [0.5, 1.0, 0.0], [-1.0, 0.25, 3.0])]


def steps(**options: Any) -> list[np.ndarray]:
    config, state, made = ServerConfig(**options), {}, []
    for change in CHANGES:
        step, state = server_step(config, state, change)
        made.append(step)
    return made


def test_sgd_is_the_aggregate_times_the_rate() -> None:
    assert all(step is change for step, change in zip(steps(), CHANGES, strict=True))
    for step, change in zip(steps(lr=0.5), CHANGES, strict=True):
        np.testing.assert_array_equal(step, change / 2)


def test_momentum_sums_what_came_before() -> None:
    velocity = np.zeros(3)
    for step, change in zip(steps(optimizer="momentum", momentum=0.9, lr=0.3), CHANGES, strict=True):
        velocity = 0.9 * velocity + change
        np.testing.assert_allclose(step, 0.3 * velocity, rtol=1e-6)


def test_adam_as_printed() -> None:
    first, second = np.zeros(3), np.full(3, 0.01**2)
    options = {"optimizer": "adam", "momentum": 0.8, "beta2": 0.9, "epsilon": 0.01, "lr": 0.1}
    for step, change in zip(steps(**options), CHANGES, strict=True):
        first = 0.8 * first + (1 - 0.8) * change
        second = 0.9 * second + (1 - 0.9) * change.astype(np.float64) ** 2
        np.testing.assert_allclose(step, 0.1 * first / (np.sqrt(second) + 0.01), rtol=1e-5)


def test_a_round_without_a_usable_upload_moves_nothing() -> None:
    updates = Updates.from_array(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), InProcessBackend())
    server = ServerConfig(optimizer="momentum")
    verdict, memory = Verdict(np.zeros(2, np.float32), np.zeros(2)), {"first": np.ones(2, np.float32)}
    vector = np.array([5.0, 6.0], np.float32)
    moved, kept = apply(verdict, updates, np.zeros(2, bool), vector, server, memory)
    assert moved.tolist() == [5, 6]
    assert kept is memory
    moved, kept = apply(verdict, updates, np.ones(2, bool), vector, server, memory)
    np.testing.assert_allclose(moved, [5.9, 6.9])
    np.testing.assert_allclose(kept["first"], 0.9)


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "momentum"}, {"optimizer": "adam", "lr": 0.01}, {"lr": 0.5}],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_run_that_is_resumed_has_the_bytes_of_one_in_one_go(tiny, tmp_path, options) -> None:
    config = {**tiny, "rounds": 4, "server": options, "checkpoint": {"every": 1, "keep": 9}}
    whole = raysim.run(config, name="whole", out=tmp_path, backend="inprocess")
    plain = raysim.run({**config, "server": {}}, name="plain", out=tmp_path, backend="inprocess")
    assert whole.digest != plain.digest
    raysim.run({**config, "rounds": 2}, name="half", out=tmp_path, backend="inprocess")
    assert raysim.resume(tmp_path / "half", rounds=4, backend="inprocess").digest == whole.digest


def test_a_cosine_schedule_keeps_its_length_where_a_run_is_extended(tiny, tmp_path) -> None:
    training = {**tiny.get("training", {}), "lr_schedule": "cosine"}
    run = raysim.run(
        {**tiny, "rounds": 2, "training": training}, name="run", out=tmp_path, backend="inprocess"
    )
    assert json.loads((run.path / "began.json").read_text())["training.lr_period"] == 2
    assert raysim.resume(run.path, rounds=3, backend="inprocess").config.training.lr_period == 2


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"lr_schedule": "step"}, "must have lr_period"),
        ({"lr_period": 3}, "must not have lr_period"),
        ({"lr_schedule": "cosin"}, "cosine"),
        ({"proximal_mu": -1}, "proximal_mu"),
        ({"augmentation": "flop"}, "crop_flip"),
        ({"augmentation": "flip", "crop_padding": 2}, "nothing is cropped"),
    ],
)
def test_what_makes_no_sense_is_refused(training: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ExperimentConfig.from_mapping({"training": training})
