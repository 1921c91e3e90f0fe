"""What every registered attack must keep to, as it comes by default; new entries of the table are found by themselves."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest

from attacks import ATTACKS
from raysim.attack import Attack, View, Visibility
from raysim.backends.base import Backend, InProcessBackend
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.context import Context
from raysim.engine.experiment import Experiment
from raysim.engine.host import ClientHost, RoundOrder
from raysim.matrix.updates import Updates

CLIENTS = 12
ATTACKERS = (2, 7, 9)
SMALLER = {"a3fl": {"trigger_epochs": 2, "harden_every": 1}, "gae": {"num_coordinates": 60}}
"""Options of the attacks whose default size would make these tests slow."""
every_attack = pytest.mark.parametrize("name", sorted(ATTACKS))


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def experiment_of(name: str | None, attackers: tuple[int, ...] = ATTACKERS) -> Experiment:
    config: dict[str, Any] = {
        "rounds": 2,
        "population": {"clients": CLIENTS},
        "data": {"name": "digits", "limit": 240},
        "training": {
            "batch_size": 8,
            "clients_per_stack": 1,
        },  # a part of the cohort trains to the same bytes
        "defense": "fedavg",
    }
    if name is not None:
        config["population"] |= {"malicious": len(attackers), "placement": list(attackers)}
        config["attack"] = {"name": name, **SMALLER.get(name, {})}
    return compose(ExperimentConfig.from_mapping(config))


def attack_of(name: str) -> Attack:
    return experiment_of(name).setup.campaigns[0].attack


def train(experiment: Experiment, clients: tuple[int, ...], round: int = 0) -> np.ndarray:
    """The rows [c, d + b] that these clients train, in a fresh host."""
    host = ClientHost(experiment.setup, *experiment.arrays)
    previous = experiment.initial * np.float32(0.99) if round else None
    *tiles, metas = host.train(RoundOrder(round, 200), clients, experiment.initial, previous)
    assert [meta.reason for meta in metas] == [""] * len(clients)
    return np.concatenate(tiles, axis=1)


@cache
def honest_rows() -> np.ndarray:
    return train(experiment_of(None), tuple(range(CLIENTS)))


@cache
def trained_rows(name: str, attackers: tuple[int, ...] = ATTACKERS) -> np.ndarray:
    """The whole cohort's rows before `craft`."""
    rows = honest_rows().copy()
    rows[list(attackers)] = train(experiment_of(name, attackers), attackers)
    return rows


def submitted(
    attack: Attack,
    rows: np.ndarray,
    attackers: tuple[int, ...] = ATTACKERS,
    rounds: int = 1,
    benign: bool = True,
    backend: Backend | None = None,
    **tiling: Any,
) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """(rows [K, d + b] after `craft`, diagnostics, state) of the last of some rounds on the same rows."""
    experiment, backend = experiment_of(None), backend or InProcessBackend()
    layout = experiment.setup.layout
    state: dict[str, Any] = {}
    after = updates = Updates.from_array(
        rows, backend, layout=layout, num_examples=np.full(len(rows), 20), **tiling
    )
    own = np.isin(updates.client_ids, attackers)
    seen = updates.select(~own) if benign and attack.visibility is Visibility.OMNISCIENT else None
    for round in range(rounds):
        context = Context(
            backend=backend,
            seed=5,
            role="attack",
            round=round,
            rounds=rounds,
            layout=layout,
            published=backend.put(experiment.initial),
            global_vector=experiment.initial,
            factory=experiment.setup.factory,
        )
        state = state if round else attack.init(context)
        crafted, state = attack.craft(state, View(updates.select(own), seen, len(rows)), context)
        after = updates
        if isinstance(crafted, np.ndarray):
            padding = ((0, 0), (0, layout.num_columns - crafted.shape[1]))
            ids = updates.client_ids[own]
            crafted = Updates.from_array(
                np.pad(crafted, padding), backend, layout=layout, client_ids=ids, **tiling
            )
        if crafted is not None:
            assert crafted.client_ids.tolist() == sorted(attackers)
            assert crafted.bounds == updates.bounds
            after = updates.replace_rows(crafted)
    np.testing.assert_array_equal(updates.to_array(buffers=True), rows)
    return after.to_array(buffers=True), attack.diagnostics(state), state


@every_attack
def test_only_the_attackers_rows_change_and_they_do(name):
    rows, said, _ = submitted(attack_of(name), trained_rows(name))
    assert rows.shape == honest_rows().shape
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    others = np.setdiff1d(np.arange(CLIENTS), ATTACKERS)
    np.testing.assert_array_equal(rows[others], honest_rows()[others])
    same = (rows == honest_rows()).all(axis=1)[list(ATTACKERS)]
    assert same.all() if said.get("failed") else not same.any()


@every_attack
def test_training_is_honest_unless_a_hook_says_otherwise(name):
    attack, own = attack_of(name), trained_rows(name)[list(ATTACKERS)]
    hooks = type(attack)
    if not attack.trains:
        assert attack.visibility is not Visibility.OWN
        np.testing.assert_array_equal(own, 0)
    elif hooks.train is Attack.train and hooks.poison_data is Attack.poison_data:
        np.testing.assert_array_equal(own, honest_rows()[list(ATTACKERS)])
    if hooks.craft is Attack.craft:
        np.testing.assert_array_equal(submitted(attack, trained_rows(name))[0], trained_rows(name))


def test_the_base_is_honest_in_every_hook():
    attack: Any = Attack()
    update, data = np.ones(3), object()
    assert attack.visibility is Visibility.OWN
    assert attack.trains
    assert attack.poison_data(data, None) is data
    assert attack.train(lambda given: (given, update), data, None) == (data, update)
    assert attack.craft({"a": 1}, None, None) == (None, {"a": 1})
    assert attack.diagnostics({"a": 1}) == {}
    assert attack.triggered_test(None) is None


@every_attack
def test_same_seed_same_bytes_however_clients_and_columns_are_cut(name, monkeypatch):
    monkeypatch.setattr("raysim.matrix.updates.CHUNK_VALUES", 1)  # chunks of 4,096 columns
    attack, rows = attack_of(name), trained_rows(name)
    one_by_one = np.concatenate([train(experiment_of(name), (client,)) for client in ATTACKERS])
    assert one_by_one.tobytes() == rows[list(ATTACKERS)].tobytes()
    dim = experiment_of(name).setup.layout.dim
    assert dim > 3 * 4096
    whole = submitted(attack, rows, bounds=(0, dim))[0]
    tilings: list[dict[str, Any]] = [
        {"bounds": (0, dim), "rows_per_block": 1},
        {"bounds": (0, 4096, 3 * 4096, dim), "rows_per_block": 5},
    ]
    for tiling in tilings:
        assert submitted(attack, rows, **tiling)[0].tobytes() == whole.tobytes()


@every_attack
def test_one_attacker_alone(name):
    attack, rows = attack_of(name), trained_rows(name, (4,))
    after, _, _ = submitted(attack, rows, (4,))
    assert np.isfinite(after).all()
    others = np.arange(CLIENTS) != 4
    np.testing.assert_array_equal(after[others], honest_rows()[others])


@every_attack
def test_no_benign_model_to_see(name):
    """What colluders may see at most; and for the others, a round in which no benign client was sampled."""
    after, _, _ = submitted(attack_of(name), trained_rows(name), benign=False)
    assert np.isfinite(after).all()


@every_attack
def test_state_fits_a_checkpoint_and_serves_the_next_round(name):
    attack, rows = attack_of(name), trained_rows(name)
    after, said, state = submitted(attack, rows, rounds=2)
    assert np.isfinite(after).all()
    assert_tree(state)
    assert json.loads(json.dumps(said, default=float)).keys() == said.keys()
    later = train(experiment_of(name), ATTACKERS, round=1)
    assert np.isfinite(later).all()


@every_attack
def test_an_attack_is_its_hyper_parameters(name):
    attack = attack_of(name)
    assert attack == ATTACKS[name](**SMALLER.get(name, {}))
    twin = pickle.loads(pickle.dumps(attack))
    assert twin == attack
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(attack, "anything", 1)  # noqa: B010
    summary = (inspect.getdoc(ATTACKS[name]) or "").partition("\n")[0]
    assert 20 < len(summary) < 130
    assert summary != inspect.getdoc(Attack)


@every_attack
def test_success_is_measured_on_labels_the_model_has(name):
    experiment = experiment_of(name)
    tests = experiment.arrays[4:]
    assert len(tests) in (2, 4)
    for images, labels in zip(tests[::2], tests[1::2], strict=True):
        assert len(images) == len(labels) > 0
        assert 0 <= labels.min() <= labels.max() < experiment.setup.factory.num_classes


@pytest.mark.ray
@pytest.mark.parametrize("name", sorted(name for name in ATTACKS if ATTACKS[name].craft is not Attack.craft))
def test_ray_and_in_process_craft_the_same_bytes(name, ray_cluster):
    """What is trained is a pure function of the host's arguments on either; crafting is tasks on tiles."""
    from raysim.backends.ray_backend import ClientActors, RayBackend

    attack, rows = attack_of(name), trained_rows(name)
    dim = experiment_of(name).setup.layout.dim
    tiling = {"rows_per_block": 5, "bounds": (0, 4096, dim)}
    here = submitted(attack, rows, rounds=2, **tiling)
    there = submitted(attack, rows, rounds=2, backend=RayBackend(ClientActors(0), workers=2), **tiling)
    assert here[0].tobytes() == there[0].tobytes()
    assert here[1] == there[1]


def assert_tree(value: Any) -> None:
    """Dicts with string keys, lists, arrays, numbers, strings, booleans and None."""
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            assert_tree(item)
    else:
        assert value is None or isinstance(value, str | bool | int | float | np.ndarray | np.number)
