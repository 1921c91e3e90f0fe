"""Every registered method survives a stop after any round: from each checkpoint the next round has the same bytes.

A checkpoint holds all that later rounds depend on, so from one to the next is enough: by induction a run that is
resumed anywhere ends as one in one go.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from attacks import ATTACKS
from defenses import DEFENSES
from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.experiment import RunState
from raysim.engine.simulation import initial_state, rounds, start
from raysim.runs import checkpoint

ROUNDS = 6
SMALLER: dict[str, dict[str, Any]] = {
    "backdoor_indicator": {"epochs": 3},
    "dagmm": {"epochs": 2, "num_snapshots": 4},
    "deepsight": {"samples": 20},
    "isolation_forest": {"num_trees": 5},
    "vae": {"epochs": 2, "hidden": 8, "num_snapshots": 4},
    "fedgrad": {"switch_round": 2},
    "fldetector": {"window": 2, "burn_in": 1},
    "gradcam_ae": {"interval": 2, "votes": 1, "epochs": 5},
    "layercam_ae": {"interval": 2, "votes": 1, "epochs": 5},
    "gae": {"num_coordinates": 20},
    "a3fl": {"trigger_epochs": 2, "harden_every": 1},
}
"""Small versions of slow methods, and early ones of those of which a part begins late in a run."""

PAIRS = [(sorted(ATTACKS)[number % len(ATTACKS)], defense) for number, defense in enumerate(sorted(DEFENSES))]
"""Every defense once, every attack at least once: their states do not meet."""


def test_every_method_is_there():
    assert {attack for attack, _ in PAIRS} == set(ATTACKS)
    assert [defense for _, defense in PAIRS] == sorted(DEFENSES)


def kept(state, folder):
    """The state in a checkpoint."""
    return checkpoint.save(folder, state.round, state.tree(), keep=ROUNDS + 1)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize(("attack", "defense"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_from_every_checkpoint_the_next_round_has_the_same_bytes(tmp_path, attack, defense):
    config = ExperimentConfig.from_mapping(
        {
            "rounds": ROUNDS,
            "population": {"clients": 9, "malicious": 2, "cohort": 8},
            "data": {"name": "digits", "limit": 60},
            "model": {"name": "digits_cnn", "width": 0.25},
            "attack": {"name": attack, "schedule": {"start": 1}, **SMALLER.get(attack, {})},
            "defense": {"name": defense, **SMALLER.get(defense, {})},
            "server_data": {"samples": 12},
            "evaluation": {"every": ROUNDS},
        }
    )
    backend = InProcessBackend()
    experiment = compose(config).published(backend)
    start(experiment, backend)
    first = initial_state(experiment, backend)
    whole = [kept(first, tmp_path / "whole")]
    whole += [kept(after, tmp_path / "whole") for after, _ in rounds(experiment, backend, first)]
    assert len(whole) == ROUNDS + 1
    for before, expected in pairwise(whole):
        state = RunState.from_tree(checkpoint.load(before))
        after, _ = next(rounds(experiment, backend, state))
        assert contents(kept(after, tmp_path / "again")) == contents(expected)
