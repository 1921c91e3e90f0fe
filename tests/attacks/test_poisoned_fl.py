import numpy as np
import pytest
from scipy.stats import binom

from attacks.poisoned_fl import PoisonedFL
from raysim.errors import ConfigError
from tests.attacks.crafting import round_of

DIM = 40


def played(attack: PoisonedFL, models):
    """(rows or None, state) of a round that begins with each of these global vectors."""
    found, state = [], None
    for number, model in enumerate(models):
        vector = np.asarray(model, np.float32)
        view, context = round_of(np.zeros((3, DIM), np.float32), [0, 2], global_vector=vector, round=number)
        state = attack.init(context) if state is None else state
        rows, state = attack.craft(state, view, context)
        found.append((None if rows is None else rows.to_array(), state))
    return found


def signs() -> np.ndarray:
    _, context = round_of(np.zeros((3, DIM), np.float32), [0, 2])
    return context.lasting_generator("signs").choice((-1.0, 1.0), DIM)


def test_by_the_formula():
    draw = np.random.default_rng(0)
    models = np.cumsum(draw.standard_normal((3, DIM)).astype(np.float32), axis=0)
    nothing, first, second = played(PoisonedFL(factor=4), models)
    assert nothing[0] is None, "there is no global update to look at yet"
    step = models[1].astype(np.float64) - models[0]
    # Nothing was submitted before: |g| v = |g| elementwise, so that k = 4 |g_j|.
    np.testing.assert_allclose(first[0], np.tile(4 * np.abs(step) * signs(), (2, 1)), rtol=1e-5)
    step = models[2].astype(np.float64) - models[1]
    sent = first[0][0].astype(np.float64)
    rest = np.abs(step - sent * np.linalg.norm(step) / np.linalg.norm(sent))
    expected = 4 * np.linalg.norm(step) * rest / np.linalg.norm(rest) * signs()
    np.testing.assert_allclose(second[0][0], expected, rtol=1e-5)
    assert np.linalg.norm(second[0][0]) == pytest.approx(4 * np.linalg.norm(step), rel=1e-5)


@pytest.mark.parametrize(("followed", "factor"), [(True, 8.0), (False, 8.0 * 0.7)])
def test_the_factor_falls_where_the_model_does_not_follow(followed, factor):
    # Rounds 0 and 1 pass, and round 2 tests how the model moved since round 0.
    along = signs() if followed else np.tile([1.0, -1.0], DIM // 2) * signs()
    models = np.arange(3)[:, None] * along
    found = played(PoisonedFL(window=2), models)
    assert [state["factor"] for _, state in found] == [8.0, 8.0, pytest.approx(factor)]
    assert PoisonedFL().diagnostics(found[-1][1]) == {"factor": factor, "aligned": 1.0 if followed else 0.5}


def test_the_test_is_the_binomial_one():
    """The fewest agreeing signs that the model may have without being taken for not following."""
    enough = int(binom.isf(0.01, DIM, 0.5)) + 1
    for agree, factor in ((enough, 8.0), (enough - 1, 8.0 * 0.7)):
        along = np.where(np.arange(DIM) < agree, signs(), -signs())
        found = played(PoisonedFL(window=1), np.arange(2)[:, None] * along)
        assert found[1][1]["factor"] == pytest.approx(factor)


def test_what_did_not_move_counts_with_its_own_sign():
    found = played(PoisonedFL(window=1), [signs(), signs()])
    assert found[1][1]["aligned"] == 1.0
    assert not found[1][0].any(), "a model that stands still has no length to follow"


def test_the_factor_does_not_fall_below_its_least():
    along = np.tile([1.0, -1.0], DIM // 2) * signs()
    found = played(PoisonedFL(window=1, factor=1.0, least_factor=0.6), np.arange(4)[:, None] * along)
    assert [state["factor"] for _, state in found] == [1.0, 0.7, 0.7, 0.7]


def test_impossible_options_are_refused():
    with pytest.raises(ConfigError):
        PoisonedFL(decay=0)
    with pytest.raises(ConfigError):
        PoisonedFL(factor=0)
