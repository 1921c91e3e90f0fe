"""The small federations that several tests run: configurations of a fraction of a second, new at every call."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]


def tiny() -> Config:
    """Three rounds of 10 clients, of which 2 attack; Krum judges, and every round is saved."""
    return {
        "rounds": 3,
        "population": {"clients": 10, "malicious": 2},
        "data": {"name": "digits", "limit": 300},
        "attack": {"name": "noise"},
        "defense": {"name": "krum", "num_byzantine": 2},
        "server_data": {"samples": 20},
        "checkpoint": {"every": 1, "keep": 3},
    }


def drawn() -> Config:
    """`tiny` without training and without an attack: updates are drawn."""
    return {**tiny(), "updates": "synthetic", "attack": None}


def remembering() -> Config:
    """`tiny` with 7 of the 10 clients in a round; attack and defense remember everything."""
    return {
        **tiny(),
        "population": {"clients": 10, "malicious": 2, "cohort": 7},
        "data": {"name": "digits", "limit": 200},
        "attack": "tests.stateful_methods:Drift",
        "defense": "tests.stateful_methods:Reputation",
    }


def smallest() -> Config:
    """Two rounds of 6 clients, of which one attacks."""
    return {
        "rounds": 2,
        "population": {"clients": 6, "malicious": 1},
        "data": {"name": "digits", "limit": 120},
        "attack": {"name": "noise"},
        "defense": {"name": "krum", "num_byzantine": 1},
    }


def words(config: Config) -> list[str]:
    """The configuration as a command line gives it: `population.clients=6`."""
    return [word for key, value in config.items() for word in _words(key, value)]


def _words(key: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [word for part, inner in value.items() for word in _words(f"{key}.{part}", inner)]
    return [f"{key}={value}"]
