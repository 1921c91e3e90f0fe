"""One run makes every method once and validates the configuration once, on either backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import raysim
from raysim import Attack, Defense, ExperimentConfig
from raysim.data.partition import IID

HERE = __name__
BUILT: list[str] = []
VALIDATED: list[type] = []


@dataclass(frozen=True)
class CountedDefense(Defense):
    def __post_init__(self) -> None:
        BUILT.append("defense")

    def apply(self, state, updates, ctx):
        weights = updates.shares
        return raysim.Verdict(updates.combine(weights), weights), state


@dataclass(frozen=True)
class CountedAttack(Attack):
    def __post_init__(self) -> None:
        BUILT.append("attack")


@dataclass(frozen=True)
class CountedPartition(IID):
    def __post_init__(self) -> None:
        BUILT.append("partition")


@pytest.fixture
def counted(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    BUILT.clear()
    VALIDATED.clear()
    honest = ExperimentConfig.__init__

    def counting(self: ExperimentConfig, **values: Any) -> None:
        VALIDATED.append(type(self))
        honest(self, **values)

    monkeypatch.setattr(ExperimentConfig, "__init__", counting)
    named = {
        "defense": f"{HERE}:CountedDefense",
        "attack": f"{HERE}:CountedAttack",
        "data": {"name": "digits", "limit": 300, "partition": f"{HERE}:CountedPartition"},
    }
    return {**tiny, "rounds": 1, **named}


@pytest.mark.parametrize("backend", ["inprocess", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_run_makes_each_method_once_and_validates_once(
    counted: dict[str, Any], backend: Any, tmp_path, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
        counted["resources"] = {"clients_per_actor": 10}
    raysim.run(counted, name="run", out=tmp_path, backend=backend)
    assert sorted(BUILT) == ["attack", "defense", "partition"]
    assert len(VALIDATED) == 1


def test_a_validated_configuration_is_not_validated_again(counted: dict[str, Any], tmp_path) -> None:
    config = ExperimentConfig.from_mapping(counted)
    VALIDATED.clear()
    raysim.run(config, name="run", out=tmp_path, backend="inprocess")
    assert VALIDATED == []


def test_mistakes_and_missing_data_are_refused_before_ray_starts(
    counted: dict[str, Any], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*args: Any, **options: Any) -> None:
        raise AssertionError("Ray was about to start")

    monkeypatch.setattr("raysim.backends.ray_connection.connected", started)
    missing = {"name": "cifar10", "root": str(tmp_path)}
    with pytest.raises(raysim.DataError, match="cifar10"):
        raysim.run({**counted, "data": missing}, name="run", out=tmp_path)
    with pytest.raises(raysim.ConfigError, match="must be one of"):
        raysim.run({**counted, "model": "lenett"}, name="run", out=tmp_path)
    assert not (tmp_path / "run").exists()
