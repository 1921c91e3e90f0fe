"""The contract of a defense: chains, verdicts on fewer or merged rows, the mean over accepted rows."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from defenses import DEFENSES
from defenses.oracle import Oracle
from raysim import chain
from raysim.backends.base import InProcessBackend
from raysim.context import Context, Setting
from raysim.defense import (
    Chain,
    Defense,
    PreAggregation,
    Verdict,
    accepted_mean,
    assumption,
    judged,
    judged_usable,
    title,
)
from raysim.errors import ConfigError, ContractError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.verdict import carry_back, expand

ROWS = np.array([[1, 0], [2, 0], [4, 2], [8, 4]], np.float32)


@pytest.fixture
def updates():
    return Updates.from_array(
        ROWS, InProcessBackend(), client_ids=np.array([2, 3, 5, 7]), num_examples=np.array([10, 30, 20, 40])
    )


@pytest.fixture
def context(updates):
    vector = np.zeros(2, np.float32)
    return Context(updates.backend, 0, "defense", 0, 1, Layout.flat(2), updates.backend.put(vector), vector)


@dataclass(frozen=True)
class Mean(Defense):
    """The plain mean; remembers the clients it saw; judges nobody."""

    def apply(self, state, updates, ctx):
        seen = [*state.get("seen", []), updates.client_ids.tolist()]
        return Verdict(updates.to_array().mean(axis=0)), {"seen": seen}


@dataclass(frozen=True)
class Threshold(Defense):
    """Flags rows whose first value lies above `limit`; scores are the first values."""

    limit: float = 3.0

    def check(self, setting):
        if self.limit > setting.cohort:
            raise ConfigError("limit", "must be at most the cohort", self.limit, setting.cohort)

    def init(self, ctx):
        return {"rounds": 0}

    def apply(self, state, updates, ctx):
        scores = updates.to_array()[:, 0].astype(np.float64)
        flagged = scores > self.limit
        aggregate, weights = accepted_mean(updates, flagged)
        artifacts = {"limit": np.array([self.limit]), f"seen {self.limit:g}": scores}
        return Verdict(aggregate, weights, scores, flagged, artifacts), {"rounds": state["rounds"] + 1}


@dataclass(frozen=True)
class Scale(PreAggregation):
    """Every row times `factor`."""

    factor: float = 10.0

    def transform(self, state, updates, ctx):
        changed = updates.transform("scale", lambda columns, _: columns * np.float32(self.factor))
        return changed, None, {"count": state.get("count", 0) + 1}


@dataclass(frozen=True)
class Pairs(PreAggregation):
    """Rows 0 and 1 together, row 2 alone, row 3 left out."""

    def transform(self, state, updates, ctx):
        merged = updates.transform(
            "pairs", lambda c, _: np.stack([c[:2].mean(axis=0), c[2]]), client_ids=np.array([0, 1])
        )
        return merged, np.array([0, 0, 1, -1]), state


def judge(defense, updates, ctx):
    return defense.apply(defense.init(ctx), updates, ctx)


def test_a_defense_remembers_and_requires_nothing_by_default(context):
    assert Defense().init(context) == {}
    assert Defense().check(Setting(1, 1, 0, 1, 2)) is None
    assert Defense.calibration is False
    with pytest.raises(TypeError, match="Defense must define apply"):
        Defense().apply({}, None, context)
    with pytest.raises(TypeError, match="PreAggregation must define transform"):
        PreAggregation().transform({}, None, context)


@dataclass(frozen=True)
class Says(Defense):
    """Answers whatever it is given."""

    answer: object = None

    def apply(self, state, updates, ctx):
        return self.answer


def verdict_of(**fields):
    return Verdict(**{"aggregate": np.zeros(2, np.float32), **fields}), {}


NAN, INF = float("nan"), float("inf")

REFUSED = [
    (None, "its answer must be a pair (Verdict, state); received None"),
    (verdict_of()[0], "its answer must be a pair (Verdict, state); received Verdict"),
    ((np.zeros(2), {}), "its answer must be a pair (Verdict, state); received tuple"),
    ((verdict_of()[0], None), "its state must be a dict; received None; return {}"),
    ((verdict_of()[0], [1]), "its state must be a dict; received list [1]"),
    (verdict_of(aggregate=np.zeros(3)), "aggregate must be 2 numbers, one per parameter; received float64 (3,) [0.0"),
    (verdict_of(aggregate=np.zeros((1, 2))), "aggregate must be 2 numbers, one per parameter; received float64 (1, 2)"),
    (verdict_of(aggregate=np.zeros(2, complex)), "aggregate must be 2 numbers, one per parameter; received complex128"),
    (verdict_of(aggregate=None), "aggregate must be 2 numbers, one per parameter; received None"),
    (verdict_of(aggregate=[0, NAN]), "aggregate must be finite in float32; received nan at place 1"),
    (verdict_of(aggregate=[1e39, 0]), "aggregate must be finite in float32; received inf at place 0"),
    (verdict_of(weights=np.ones(3) / 3), "weights must be 4 numbers, one per client; received float64 (3,)"),
    (verdict_of(weights=["a"] * 4), "weights must be 4 numbers, one per client; received list ['a', 'a', 'a', 'a']"),
    (verdict_of(weights=[[0.5], [0.5, 1]]), "weights must be 4 numbers, one per client; received list [[0.5], [0.5, 1]]"),
    (verdict_of(weights=[0.5, NAN, 0, 0]), "weights must be finite; received nan at place 1"),
    (verdict_of(weights=[1, 0, 0, INF]), "weights must be finite; received inf at place 3"),
    (verdict_of(weights=np.full(4, -1.75)), "weights must be at least 0; received -1.75 at place 0"),
    (verdict_of(weights=np.ones(4)), "weights must have a sum of at most 1; received a sum of 4; give the shares"),
    (verdict_of(scores=np.zeros(5)), "scores must be 4 numbers, one per client; received float64 (5,)"),
    (verdict_of(scores=[None, 1, 2, 3]), "scores must be 4 numbers, one per client; received list [None"),
    (verdict_of(flagged=np.array([5])), "flagged must be a mask of 4 booleans, one per client; received int64 (1,) [5]; for places"),
    (verdict_of(flagged=[0, 1, 0, 0]), "flagged must be a mask of 4 booleans, one per client; received list [0, 1, 0, 0]"),
    (verdict_of(flagged=np.zeros(3, bool)), "flagged must be a mask of 4 booleans, one per client; received bool (3,)"),
    (verdict_of(threshold="high"), "threshold must be one number, or None; received str 'high'"),
    (verdict_of(threshold=np.zeros(4)), "threshold must be one number, or None; received float64 (4,)"),
    (verdict_of(threshold=NAN), "threshold must be one number, or None; received"),
    (verdict_of(artifacts=[1]), "artifacts must be a mapping of names to arrays; received list [1]"),
    (verdict_of(artifacts={"a/b": np.zeros(1)}), "artifacts must have names that files can have; received 'a/b'"),
    (verdict_of(artifacts={"map": "text"}), "artifacts['map'] must be an array of numbers; received str 'text'"),
    (verdict_of(artifacts={"map": [{}]}), "artifacts['map'] must be an array of numbers; received list [{}]"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_an_answer_that_is_no_verdict_is_refused_naming_method_field_rule_and_value(
    updates, context, answer, said
):
    with pytest.raises(ContractError, match="^" + re.escape(f"Says: {said}")) as caught:
        judged(Says(answer), {}, updates, context)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), ContractError)
    with pytest.raises(ContractError, match="^" + re.escape(f"Says: {said}")):
        chain(Scale(), Says(answer)).apply({"0": {}, "1": {}}, updates, context)


ALLOWED = [
    ({"aggregate": [1, 2]}, "a list of integers is an aggregate"),
    ({"weights": [0, 0, 0, 0]}, "nobody accepted"),
    ({"weights": np.full(4, 0.25, np.float32)}, "shares"),
    ({"weights": [0.1, 0, 0, 0]}, "a server that takes a small step"),
    ({"weights": [0.5, 0.5, 0, 0], "flagged": [True, False, False, False]}, "flagged and yet of some weight"),
    ({"scores": [NAN, INF, -INF, 3]}, "what cannot be scored"),
    ({"scores": [1, 2, 3, 4], "threshold": np.float32(2.5)}, "where suspicion begins"),
    ({"artifacts": {"heat_maps": np.zeros((4, 2, 2))}}, "arrays"),
]


@pytest.mark.parametrize(("fields", "why"), ALLOWED, ids=[why for _, why in ALLOWED])
def test_what_a_verdict_may_say(updates, context, fields, why):
    verdict, state = judged(Says(verdict_of(**fields)), {}, updates, context)
    assert (verdict.aggregate.dtype, state) == (np.float32, {})
    for name in set(fields) - {"artifacts"}:
        np.testing.assert_array_equal(getattr(verdict, name), fields[name])
        assert isinstance(getattr(verdict, name), float if name == "threshold" else np.ndarray)


def test_the_time_of_the_check_is_not_the_defenses(updates, context):
    events = []

    class Watch:
        def __enter__(self):
            events.append("begins")

        def __exit__(self, *error):
            events.append("ends")

    with pytest.raises(ContractError):
        judged(Says(), {}, updates, context, Watch())
    assert events == ["begins", "ends"]


def test_without_a_usable_row_a_defense_is_not_asked(updates, context):
    verdict, state = judged_usable(Says(), {"kept": 1}, updates, np.zeros(4, bool), context)
    assert (verdict.flagged.all(), verdict.weights.any(), verdict.aggregate.any()) == (True, False, False)
    assert (verdict.scores, state) == (None, {"kept": 1})


@dataclass(frozen=True)
class Trim(Mean):
    """Takes a third of the rows for malicious unless told."""

    num_byzantine: int | None = None

    def assumed(self, count):
        return count // 3 if self.num_byzantine is None else self.num_byzantine


@dataclass(frozen=True)
class Keeps(Scale):
    """A step that neither merges nor leaves out."""

    keeps_rows = True


def test_what_is_assumed_is_filled_in_where_the_number_of_rows_is_known():
    assert Trim().assuming(24) == Trim(8)
    assert Trim(2).assuming(24) == Trim(2)
    assert chain(Keeps(), Trim(), Trim()).assuming(24) == chain(Keeps(), Trim(8), Trim())
    assert chain(Pairs(), Trim()).assuming(24) == chain(Pairs(), Trim())
    assert Mean().assuming(24) == Mean()
    assert assumption(Trim(), 24) == {"by": "Trim", "malicious": 8, "of": 24, "most": True}
    assert assumption(chain(Keeps(), Trim(2)), 24) == {"by": "Trim", "malicious": 2, "of": 24, "most": False}
    assert assumption(chain(Pairs(), Trim(2)), 24) == assumption(Mean(), 24) == {}


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_filling_in_what_is_assumed_changes_no_assumption(name):
    """Nor the trim of rules that derive it from num_byzantine."""
    made = DEFENSES[name]()
    filled = made.assuming(24)
    assert filled.assumed(24) == made.assumed(24)
    if hasattr(made, "assumed_trim") and getattr(made, "rule", "") == "trimmed_mean":
        assert filled.assumed_trim(24) == made.assumed_trim(24)


def test_what_is_shown_the_truth_is_named_so():
    assert title("mine", Mean()) == "mine"
    assert title("best", Oracle) == "best (calibration only)"
    assert title("both", chain(Scale(), Oracle())) == "both (calibration only)"


# -- chains -------------------------------------------------------------------------------------------


def test_chain_of_one_is_that_one():
    assert chain(Mean()) == Mean()
    assert chain(Scale(), Mean()) == Chain((Scale(), Mean()))


def test_a_pre_aggregation_changes_the_rows_the_next_step_sees(updates, context):
    verdict, state = judge(chain(Scale(), Threshold(35)), updates, context)
    np.testing.assert_array_equal(verdict.scores, [10, 20, 40, 80])
    np.testing.assert_array_equal(verdict.flagged, [False, False, True, True])
    np.testing.assert_allclose(verdict.weights, [0.25, 0.75, 0, 0])
    np.testing.assert_allclose(verdict.aggregate, [0.25 * 10 + 0.75 * 20, 0])
    assert state == {"0": {"count": 1}, "1": {"rounds": 1}}


def test_a_detector_passes_on_what_it_accepts(updates, context):
    verdict, state = judge(chain(Threshold(5), Threshold(3)), updates, context)
    assert state == {"0": {"rounds": 1}, "1": {"rounds": 1}}
    np.testing.assert_array_equal(verdict.flagged, [False, False, True, True])
    np.testing.assert_array_equal(verdict.scores, [1, 2, 4, 8])
    np.testing.assert_allclose(verdict.weights, [0.25, 0.75, 0, 0])
    np.testing.assert_allclose(verdict.aggregate, [1.75, 0])
    assert verdict.artifacts["limit"] == [3]
    assert sorted(verdict.artifacts) == ["limit", "seen 3", "seen 5"]


def test_the_verdict_of_a_detector_before_a_rule_that_judges_nobody(updates, context):
    verdict, state = judge(chain(Threshold(5), Mean()), updates, context)
    assert state["1"] == {"seen": [[2, 3, 5]]}
    np.testing.assert_array_equal(verdict.flagged, [False, False, False, True])
    np.testing.assert_array_equal(verdict.scores, [1, 2, 4, 8])
    assert verdict.weights is None
    np.testing.assert_allclose(verdict.aggregate, [7 / 3, 2 / 3])


def test_a_detector_that_flags_nobody_still_gave_a_verdict(updates, context):
    verdict, _ = judge(chain(Threshold(100), Mean()), updates, context)
    np.testing.assert_array_equal(verdict.flagged, [False] * 4)
    np.testing.assert_array_equal(verdict.scores, [1, 2, 4, 8])


def test_when_a_detector_flags_everybody_nothing_is_passed_on(updates, context):
    verdict, state = judge(chain(Threshold(0), Mean()), updates, context)
    np.testing.assert_array_equal(verdict.aggregate, [0, 0])
    assert verdict.flagged.all()
    assert state["1"] == {}


def test_a_step_that_judges_nobody_passes_on_everything(updates, context):
    verdict, state = judge(chain(Mean(), Threshold(3)), updates, context)
    np.testing.assert_array_equal(verdict.flagged, [False, False, True, True])
    assert state["0"] == {"seen": [[2, 3, 5, 7]]}


def test_the_states_of_a_chain_go_on(updates, context):
    defense = chain(Scale(), Threshold(), Mean())
    state = defense.init(context)
    assert state == {"0": {}, "1": {"rounds": 0}, "2": {}}
    frozen = {key: dict(value) for key, value in state.items()}
    _, after = defense.apply(state, updates, context)
    assert state == frozen
    _, after = defense.apply(after, updates, context)
    assert (after["0"], after["1"]) == ({"count": 2}, {"rounds": 2})


def test_the_truth_reaches_the_step_that_is_there_for_it_alone(updates, context):
    @dataclass(frozen=True)
    class Blind(Scale):
        def init(self, ctx):
            assert ctx.truth is None
            return super().init(ctx)

        def transform(self, state, updates, ctx):
            assert ctx.truth is None
            return super().transform(state, updates, ctx)

    assert not chain(Scale(), Mean()).calibration
    both = chain(Blind(), Oracle())
    assert both.calibration
    verdict, _ = judge(both, updates, replace(context, truth=np.array([3, 7])))
    assert verdict.flagged.tolist() == [False, True, False, True]
    with pytest.raises(ConfigError, match="oracle must be shown"):
        judge(both, updates, context)


def test_a_merged_row_is_an_attackers_when_one_of_its_clients_is(updates, context):
    both = chain(Pairs(), Oracle())
    verdict, _ = judge(both, updates, replace(context, truth=np.array([3])))
    assert verdict.flagged.tolist() == [True, True, False, True]
    verdict, _ = judge(both, updates, replace(context, truth=np.array([7])))
    assert verdict.flagged.tolist() == [False, False, False, True]


def test_every_step_is_checked():
    with pytest.raises(ConfigError, match=r"limit: must be at most the cohort; received 9; nearest valid: 4"):
        chain(Scale(), Threshold(9), Mean()).check(Setting(4, 4, 0, 1, 2))


def test_merged_rows_share_the_verdict(updates, context):
    verdict, _ = judge(chain(Pairs(), Threshold(3)), updates, context)
    np.testing.assert_array_equal(verdict.flagged, [False, False, True, True])
    np.testing.assert_array_equal(verdict.scores, [1.5, 1.5, 4, np.inf])
    np.testing.assert_allclose(verdict.weights, [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(verdict.aggregate, [1.5, 0])


def test_a_pre_aggregation_alone_ends_in_the_mean(updates, context):
    verdict, _ = judge(Scale(), updates, context)
    np.testing.assert_allclose(verdict.weights, [0.1, 0.3, 0.2, 0.4])
    np.testing.assert_allclose(verdict.aggregate, 10 * np.array([0.1, 0.3, 0.2, 0.4]) @ ROWS)
    verdict, _ = judge(Pairs(), updates, context)
    np.testing.assert_allclose(verdict.weights, [0.25, 0.25, 0.5, 0])
    np.testing.assert_allclose(verdict.aggregate, [(1.5 + 4) / 2, 1])
    assert judge(chain(Threshold(5), Scale()), updates, context)[0].weights[3] == 0


# -- verdicts on other rows -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers(PreAggregation):
    """Returns what it holds, or what that makes of the rows."""

    answer: object = None

    def transform(self, state, updates, ctx):
        return self.answer(updates) if callable(self.answer) else self.answer


def two(updates):
    return updates.select(np.array([True, False, True, False]))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, r"its answer must be three things, \(Updates, members or None, state\); received None"),
        (lambda u: (u, None), "its answer must be three things"),
        (lambda u: (u.to_array(), None, {}), "its answer must be three things"),
        (lambda u: (u, None, None), "its state must be a dict; received None; return {}"),
        (
            lambda u: (two(u), None, {}),
            "members must say where each row went, .*; received None, with 2 rows for 4",
        ),
        (lambda u: (u, np.array([0, 1, 2]), {}), "members must be 4 whole numbers, one per row"),
        (lambda u: (u, np.array([0.0, 1, 2, 3]), {}), "members must be 4 whole numbers, one per row"),
        (lambda u: (u, np.array([True] * 4), {}), "members must be 4 whole numbers, one per row"),
        (lambda u: (two(u), [0, -1, 2, -1], {}), r"members must lie in \[-1, 1\], .*; received 2 at place 2"),
        (
            lambda u: (two(u), [0, -2, 1, -1], {}),
            r"members must lie in \[-1, 1\], .*; received -2 at place 1",
        ),
        (
            lambda u: (two(u), [0, -1, 0, -1], {}),
            "members must name every new row; received none for row 1 of 2",
        ),
        (
            lambda u: (Updates.from_array(np.ones((4, 3), np.float32), u.backend), None, {}),
            r"updates must be cut at columns \(0, 2\), 2 in all; received rows cut at \(0, 3\), 3 in all",
        ),
    ],
)
def test_a_pre_aggregation_that_breaks_its_contract_is_named(updates, context, answer, said):
    step = Answers(answer)
    for defense in (step, chain(step, Mean())):
        with pytest.raises(ContractError, match=rf"^Answers: {said}"):
            judged(defense, defense.init(context), updates, context)


def test_a_pre_aggregation_may_leave_rows_out_and_name_places_in_a_list(updates, context):
    defense = chain(Answers(lambda u: (two(u), [0, -1, 1, -1], {})), Mean())
    verdict, _ = judged(defense, defense.init(context), updates, context)
    np.testing.assert_array_equal(verdict.aggregate, [2.5, 1])
    assert verdict.flagged is not None
    assert verdict.flagged.tolist() == [False, True, False, True]


def test_expand_flags_the_rows_left_out():
    verdict = Verdict(np.ones(2), np.array([0.4, 0.6]), np.array([5.0, 6.0]), np.array([False, True]))
    accepted = np.array([False, True, False, True])
    wide = expand(verdict, accepted)
    np.testing.assert_array_equal(wide.weights, [0, 0.4, 0, 0.6])
    np.testing.assert_array_equal(wide.scores, [np.inf, 5, np.inf, 6])
    np.testing.assert_array_equal(wide.flagged, [True, False, True, True])
    np.testing.assert_array_equal(wide.aggregate, verdict.aggregate)
    scored = expand(verdict, accepted, score=np.array([7.0, 0, 8, 0]))
    np.testing.assert_array_equal(scored.scores, [7, 5, 8, 6])


def test_expand_of_a_verdict_that_judges_nobody():
    verdict = Verdict(np.ones(2))
    left_out = expand(verdict, np.array([True, False]))
    assert left_out.weights is None
    assert left_out.scores is None
    np.testing.assert_array_equal(left_out.flagged, [False, True])
    assert expand(verdict, np.array([True, True])).flagged is None


def test_carry_back_splits_weights_among_the_members():
    verdict = Verdict(np.ones(2), np.array([0.6, 0.0, 0.4]), np.array([1.0, 2.0, 3.0]), np.array([False, True, False]))  # fmt: skip
    wide = carry_back(verdict, np.array([2, 0, -1, 0, 1, 0]))
    np.testing.assert_allclose(wide.weights, [0.4, 0.2, 0, 0.2, 0, 0.2])
    np.testing.assert_array_equal(wide.scores, [3, 1, np.inf, 1, 2, 1])
    np.testing.assert_array_equal(wide.flagged, [False, False, True, False, True, False])
    bare = carry_back(Verdict(np.ones(2)), np.array([0, 0]))
    assert (bare.weights, bare.scores, bare.flagged) == (None, None, None)


def test_rows_left_out_are_flagged_even_where_nobody_was_judged():
    wide = carry_back(Verdict(np.ones(2)), np.array([0, -1, 0]))
    np.testing.assert_array_equal(wide.flagged, [False, True, False])


# -- the mean over accepted rows --------------------------------------------------------------------------


def test_accepted_mean_weighs_by_data(updates):
    aggregate, weights = accepted_mean(updates, np.array([False, True, False, False]))
    np.testing.assert_allclose(weights, [1 / 7, 0, 2 / 7, 4 / 7])
    np.testing.assert_allclose(aggregate, [(1 + 8 + 32) / 7, (4 + 16) / 7], rtol=1e-6)
    assert aggregate.dtype == np.float32


def test_accepted_mean_without_weights(updates):
    aggregate, weights = accepted_mean(updates, np.array([False, True, False, False]), uniform=True)
    np.testing.assert_allclose(weights, [1 / 3, 0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(aggregate, [13 / 3, 2], rtol=1e-6)
    assert updates.backend.telemetry.drain()[-1].stage == "combine"
    accepted_mean(updates, np.zeros(4, bool), stage="final mean")
    assert updates.backend.telemetry.drain()[-1].stage == "final mean"


def test_accepted_mean_of_nobody_moves_nothing(updates):
    aggregate, weights = accepted_mean(updates, np.ones(4, bool))
    assert not aggregate.any()
    assert not weights.any()


def test_accepted_mean_where_the_accepted_claim_no_examples(updates):
    claims = replace(updates, num_examples=np.array([0, 0, 5, 5]))
    aggregate, weights = accepted_mean(claims, np.array([False, False, True, True]))
    np.testing.assert_allclose(weights, [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(aggregate, [1.5, 0])
