"""Every defense that compares clients, and every attack, says the same of a few clients whether a K x K is one tile, as there, or many, as of a large round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from attacks import ATTACKS
from defenses import DEFENSES
from raysim.context import Setting
from raysim.errors import ConfigError
from raysim.requirement import Requirement as R
from tests.contract import test_contract_attacks as attacks
from tests.contract import test_contract_defenses as defenses
from tests.tiled_methods import small_tiles

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def many_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """many_tiles(): from now on a K x K is cut into sides of three rows."""
    monkeypatch.setattr("raysim.matrix.updates.CHUNK_VALUES", 1)  # chunks of 4,096 columns
    with ExitStack() as patched:
        yield lambda: patched.enter_context(small_tiles())


def judged(name: str, **options: Any) -> list[Any]:
    """Verdicts of two rounds, all parts of the method at work."""
    defense = dataclasses.replace(defenses.defense_of(name), **defenses.EARLY.get(name, {}))
    verdicts, state = [], None
    for round in range(2):
        rows = defenses.random_rows(seed=round)
        verdict, state = defenses.judge(name, rows, round=round, state=state, defense=defense, **options)
        verdicts.append(verdict)
    return verdicts


@pytest.mark.parametrize(
    "name", sorted(name for name in DEFENSES if {R.GRAM, R.REPRESENTATIONS} & DEFENSES[name].needs)
)
def test_verdicts_do_not_depend_on_tiles_of_pairs(name: str, many_tiles: Callable[[], None]) -> None:
    whole = judged(name)
    many_tiles()
    dim = defenses.layout_and_vector()[0].dim
    tiled, cut = judged(name), judged(name, rows_per_block=3, bounds=(0, 4096, dim))
    assert [defenses.as_bytes(verdict) for verdict in tiled] == [
        defenses.as_bytes(verdict) for verdict in cut
    ]
    for one, other in zip(whole, tiled, strict=True):
        for field in ("flagged", "weights", "scores", "aggregate"):
            expected, found = getattr(one, field), getattr(other, field)
            if expected is None:
                assert found is None
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7, err_msg=field)


@pytest.mark.parametrize(
    "name", sorted(name for name in ATTACKS if ATTACKS[name].craft is not attacks.Attack.craft)
)
def test_crafted_rows_do_not_depend_on_tiles_of_pairs(name: str, many_tiles: Callable[[], None]) -> None:
    attack, rows = attacks.attack_of(name), attacks.trained_rows(name)
    whole, said, _ = attacks.submitted(attack, rows)
    many_tiles()
    tiled, also, _ = attacks.submitted(attack, rows, rows_per_block=5)
    np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-7)
    assert also.keys() == said.keys()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bulyan", {}),
        ("deepsight", {}),
        ("faa_dl", {}),
        ("fedgrad", {"scale_similarities": True}),
        ("flame", {"clustering": "rows"}),
        ("freqfed", {}),
        ("isolation_forest", {"features": "components"}),
        ("layercam_krum", {}),
        ("mda", {}),
        ("nearest_neighbour_mixing", {}),
        ("pdrr", {"rule": "krum"}),
        ("signguard", {"similarity": "distance"}),
        ("smea", {}),
    ],
)
def test_what_one_process_cannot_hold_is_refused_before_the_start(name: str, options: dict[str, Any]) -> None:
    defense = DEFENSES[name](**options)
    most, more = (
        Setting(population=count, cohort=count, num_malicious=0, rounds=1, num_classes=2)
        for count in (16_384, 16_385)
    )
    defense.check(most)
    with pytest.raises(ConfigError, match="16,384"):
        defense.check(more)
