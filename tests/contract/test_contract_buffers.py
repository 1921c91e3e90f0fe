"""Asynchronous rounds with every registered method: who says that it can judge a buffer does, and the others are refused.

Every defense that can runs with an attack, every attack with a defense, and from a checkpoint the next round has the same
bytes.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from attacks import ATTACKS
from defenses import DEFENSES
from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.defense import Defense, chain
from raysim.engine.experiment import RunState
from raysim.engine.simulation import initial_state, rounds, start
from raysim.errors import ConfigError
from raysim.runs import checkpoint
from tests.contract.test_contract_resume import SMALLER, contents, kept

JUDGES = sorted(name for name, defense in DEFENSES.items() if defense.judges_buffers)
PAIRS = list(zip_longest(sorted(ATTACKS), JUDGES, fillvalue="fedavg"))
ROUNDS = 3


def config_of(attack: str, defense: str) -> ExperimentConfig:
    """Buffers of 5 of 12 clients, 7 under way: from the second round on most updates are stale."""
    population = {"clients": 12, "malicious": 3, "buffer": 5, "concurrency": 7, "devices": "lognormal"}
    return ExperimentConfig.from_mapping(
        {
            "rounds": ROUNDS,
            "population": population,
            "data": {"name": "digits", "limit": 80},
            "model": {"name": "digits_cnn", "width": 0.25},
            "attack": {"name": attack, **SMALLER.get(attack, {})},
            "defense": {"name": defense, **SMALLER.get(defense, {})},
            "server_data": {"samples": 12},
            "evaluation": {"every": ROUNDS},
        }
    )


@pytest.mark.parametrize(("attack", "defense"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_who_can_judge_buffers_does_and_survives_a_stop(tmp_path: Path, attack: str, defense: str) -> None:
    backend = InProcessBackend()
    experiment = compose(config_of(attack, defense)).published(backend)
    start(experiment, backend)
    stale: list[Any] = []
    for state, record in rounds(experiment, backend, initial_state(experiment, backend)):
        path = kept(state, tmp_path)
        stale.append(record.row["staleness_max"])
        assert record.row["clients"] == 5
    assert max(stale) > 0
    before = RunState.from_tree(checkpoint.load(checkpoint.checkpoints(tmp_path)[-2]))
    after, _ = next(rounds(experiment, backend, before))
    assert contents(kept(after, tmp_path / "again")) == contents(path)


@pytest.mark.parametrize("defense", sorted(set(DEFENSES) - set(JUDGES)))
def test_who_cannot_is_refused_with_the_reason(defense: str) -> None:
    with pytest.raises(ConfigError, match=r"population\.buffer: must be null") as refused:
        compose(config_of("noise", defense))
    assert DEFENSES[defense].on_buffers in str(refused.value)


def test_every_registered_defense_gives_its_reason_and_a_chain_can_where_all_its_steps_can() -> None:
    assert all(cls.on_buffers != Defense.on_buffers for cls in DEFENSES.values())
    clip, median, flame = (DEFENSES[name]() for name in ("clip_norm", "median", "flame"))
    assert chain(clip, median).judges_buffers
    assert not chain(clip, flame).judges_buffers
