"""The error tree: what messages name, and that errors survive a trip between processes."""

from __future__ import annotations

import pickle

import pytest

from raysim.errors import (
    ConfigError,
    DataError,
    LostWork,
    RaysimError,
    RecordError,
    RunError,
    nearest_name,
    unknown_name,
)


def test_the_tree():
    assert issubclass(ConfigError, ValueError)
    assert all(issubclass(kind, RaysimError) for kind in (ConfigError, DataError, RecordError, RunError))
    assert issubclass(LostWork, RunError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("rounds", "must be at least 1", 0, 1), "rounds: must be at least 1; received 0; nearest valid: 1"),
        (ConfigError("a.b", "must be one of x", "y", "x"), "a.b: must be one of x; received 'y'; did you mean 'x'?"),
        (ConfigError("a", "must be set"), "a: must be set; received None"),
        (ConfigError("a", "must be positive", -1, 0), "a: must be positive; received -1; nearest valid: 0"),
        (RunError("it broke"), "it broke"),
        (RunError("it broke", stage="train", round=2, client=7), "round 2, stage train, client 7: it broke"),
        (RunError("it broke", round=0, client=0), "round 0, client 0: it broke"),
    ],
)  # fmt: skip
def test_messages(error, message):
    assert str(error) == message


def test_under_places_a_key_in_its_group():
    error = ConfigError("beta", "must be below 1", 2, 0.5).under("defense")
    assert (error.key, error.rule, error.value, error.nearest) == ("defense.beta", "must be below 1", 2, 0.5)


def test_located_fills_in_only_what_is_unknown():
    error = RunError("it broke", stage="cam", client=3).located(stage="judge", round=4)
    assert (error.stage, error.round, error.client) == ("cam", 4, 3)
    assert error.located(round=9).round == 4
    assert RunError("x", round=0).located(round=5).round == 0


@pytest.mark.parametrize("kind", [RunError, LostWork])
def test_located_and_pickled_errors_stay_of_their_kind(kind):
    error = kind("it broke", stage="cam", round=1, client=3)
    for copy in (error.located(round=2), pickle.loads(pickle.dumps(error))):
        assert type(copy) is kind
        assert (copy.problem, copy.stage, copy.round, copy.client) == ("it broke", "cam", 1, 3)


def test_config_errors_survive_pickling():
    copy = pickle.loads(pickle.dumps(ConfigError("a.b", "rule", [1], "near")))
    assert (copy.key, copy.rule, copy.value, copy.nearest) == ("a.b", "rule", [1], "near")
    assert str(copy) == "a.b: rule; received [1]; did you mean 'near'?"


def test_nearest_names():
    assert nearest_name("krumm", ["krum", "median"]) == "krum"
    assert nearest_name("entirely else", ["krum", "median"]) is None
    error = unknown_name("defense.name", "medan", {"median": 1, "krum": 2})
    assert str(error) == "defense.name: must be one of krum, median; received 'medan'; did you mean 'median'?"
