import numpy as np
import pytest

from attacks.mimic import Mimic
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, layout_of, round_of, tilings


def over_rounds(attack: Mimic, matrices, attackers, **options):
    """What is copied, and the state, after each round."""
    state, found = None, []
    for number, rows in enumerate(matrices):
        view, context = round_of(rows, attackers, round=number, **options)
        state = attack.init(context) if state is None else state
        crafted, state = attack.craft(state, view, context)
        found.append((attack.diagnostics(state)["copied"], crafted.to_array(buffers=True), state))
    return found


def test_the_client_that_stands_out_is_copied_with_its_buffers():
    # Along the second column the benign rows 1, 2, 3 differ most, and 3 lies furthest from 0 there.
    rows = np.array([[0, 0, 5, 5], [1, 1, 2, 3], [1, 2, 4, 5], [1.1, -9, 7, 6]], np.float32)
    ((copied, crafted, state),) = over_rounds(Mimic(), [rows], [0], layout=layout_of(2, 2))
    assert copied == 3
    np.testing.assert_array_equal(crafted, rows[[3]])
    assert state["rounds"] == 1


def by_definition(matrices, direction):
    """The paper's estimates, in a loop over clients."""
    mean, sums = np.zeros(len(direction)), np.zeros(len(matrices[0]))
    for t, rows in enumerate(matrices):
        mean = t / (1 + t) * mean + rows.mean(axis=0) / (1 + t)
        pull = sum((row - mean) * ((row - mean) @ direction) for row in rows)
        direction = t / (1 + t) * direction + pull / (1 + t)
        direction = direction / np.linalg.norm(direction)
        sums += rows @ direction
    return mean, direction, sums


def test_estimates_against_the_definition():
    draw = np.random.default_rng(0)
    matrices = [draw.standard_normal((7, 12)).astype(np.float32) for _ in range(4)]
    _, context = round_of(matrices[0], [2, 5])
    first = Mimic().init(context)["direction"]
    found = over_rounds(Mimic(), matrices, [2, 5])
    benign = [np.delete(rows, [2, 5], axis=0).astype(np.float64) for rows in matrices]
    mean, direction, sums = by_definition(benign, first)
    state = found[-1][2]
    np.testing.assert_allclose(state["mean"], mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(state["direction"], direction, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose([state["sums"][str(c)] for c in (0, 1, 3, 4, 6)], sums, rtol=1e-9)
    assert found[-1][0] == (0, 1, 3, 4, 6)[np.argmax(np.abs(sums))]
    assert len(found[-1][1]) == 2
    assert (found[-1][1] == matrices[-1][found[-1][0]]).all()


def test_after_the_warm_up_the_client_stays():
    draw = np.random.default_rng(1)
    matrices = [draw.standard_normal((8, 5)).astype(np.float32) for _ in range(6)]
    found = over_rounds(Mimic(warmup=2), matrices, [0])
    assert len({copied for copied, _, _ in found[1:]}) == 1
    assert found[-1][2]["rounds"] == 2


def test_the_first_client_of_byzfl():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    crafted, said = craft(Mimic(target="first"), rows, [0, 3])
    np.testing.assert_array_equal(crafted, rows[[1, 1]])
    assert said == {"copied": 1}


def test_against_byzfl(byzfl_attacks):
    rows = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    crafted, _ = craft(Mimic(target="first"), rows, [0, 2])
    np.testing.assert_array_equal(crafted[0], byzfl_attacks.Mimic(0)(rows[[1, 3, 4, 5]]))


def test_bytes_do_not_depend_on_tiling():
    rows = np.random.default_rng(0).normal(size=(9, 31)).astype(np.float32)
    assert len({craft(Mimic(), rows, [2, 3, 7], **cut)[0].tobytes() for cut in tilings(31)}) == 1


def test_a_round_without_benign_clients_crafts_nothing():
    assert craft(Mimic(), np.ones((3, 2), np.float32), [0, 1, 2])[0] is None


def test_impossible_options_are_refused():
    with pytest.raises(ConfigError):
        Mimic(warmup=0)
