"""Who attacks: the clients that are malicious, and which of them each attack commands."""

from __future__ import annotations

import numpy as np
import pytest

from attacks import ATTACKS
from raysim import ConfigError
from raysim.composition.attackers import make_campaigns, place_malicious
from tests.composition.own_components import OWN, Targeted, config_of, noise, refusal


def placed(**population):
    return place_malicious(config_of(population=population)).tolist()


def test_the_last_clients_are_malicious_by_default():
    assert placed(clients=8, malicious=3) == [5, 6, 7]
    assert placed(clients=8) == []
    assert placed(clients=8, malicious=8) == list(range(8))


def test_appended_attackers_have_the_ids_after_the_benign():
    for placement in ("last", "random"):
        assert placed(clients=8, malicious=3, mode="append", placement=placement) == [8, 9, 10]


def test_listed_attackers_are_sorted():
    assert placed(clients=8, malicious=3, placement=[6, 0, 4]) == [0, 4, 6]


def test_random_attackers_follow_the_seed():
    def drawn(seed):
        population = {"clients": 100, "malicious": 10, "placement": "random"}
        return place_malicious(config_of(seed=seed, population=population)).tolist()

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    for ids in (drawn(0), drawn(1)):
        assert len(set(ids)) == 10
        assert ids == sorted(ids)
        assert set(ids) <= set(range(100))
    assert drawn(0) != list(range(90, 100))


def campaigns(*attacks, malicious=(2, 4, 5, 7)):
    found = make_campaigns(config_of(attack=list(attacks)), np.array(malicious))
    return [campaign.client_ids.tolist() for campaign in found]


def test_one_attack_commands_all_malicious_clients():
    assert campaigns(noise()) == [[2, 4, 5, 7]]
    assert campaigns(noise(clients=2)) == [[2, 4]]
    assert campaigns(noise(clients=[7, 2])) == [[2, 7]]
    assert campaigns() == []


def test_named_clients_go_first_then_counts_in_order_then_the_rest():
    assert campaigns(noise(clients=1), noise(clients=[2]), noise()) == [[4], [2], [5, 7]]
    assert campaigns(noise(), noise(clients=2), noise(clients=1)) == [[7], [2, 4], [5]]
    assert campaigns(noise(clients=[5]), noise(clients=[4, 7])) == [[5], [4, 7]]


@pytest.mark.parametrize(
    ("attacks", "key", "value"),
    [
        ([noise(clients=5)], "attack.clients", 5),
        ([noise(clients=0)], "attack.clients", 0),
        ([noise(clients=-1)], "attack.clients", -1),
        ([noise(clients=[])], "attack.clients", []),
        ([noise(clients=[3])], "attack.clients", [3]),
        ([noise(clients=[2, 2])], "attack.clients", [2, 2]),
        ([noise(clients=[2]), noise(clients=[2, 4])], "attack.1.clients", [2, 4]),
        ([noise(clients=[2]), noise(clients=4)], "attack.1.clients", 4),
        ([noise(clients=4), noise()], "attack.1.clients", None),
        ([noise(), noise()], "attack.1.clients", None),
    ],
)
def test_clients_that_are_not_there_cannot_be_commanded(attacks, key, value):
    with pytest.raises(ConfigError) as caught:
        campaigns(*attacks)
    assert (caught.value.key, caught.value.value) == (key, value)


def test_an_attack_needs_malicious_clients():
    error = refusal(attack="noise")
    assert (error.key, error.value, error.nearest) == ("population.malicious", 0, 1)


def test_each_attack_has_its_own_options_and_schedule():
    attacks = [
        noise(std=3.0, clients=1, schedule={"start": 2, "stop": 5, "every": 2}),
        {"name": f"{OWN}:Targeted"},
    ]
    first, second = make_campaigns(config_of(attack=attacks), np.array([6, 7]))
    assert first.attack == ATTACKS["noise"](std=3.0)
    assert [number for number in range(8) if first.schedule.active(number)] == [2, 4]
    assert second.attack == Targeted()
    assert second.schedule.active(100)


def test_those_that_join_must_fit_the_cohort():
    attack = noise(schedule={"participation": "frequency"})
    error = refusal(attack=attack, population={"clients": 8, "cohort": 3, "malicious": 4})
    assert (error.key, error.nearest) == ("attack.schedule.participation", "pool")
