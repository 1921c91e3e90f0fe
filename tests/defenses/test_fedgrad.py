"""FedGrad: its scores and features by hand, its histories under sampling, its switches, and published facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from defenses.cosine import cosine_similarities, transitive_similarities
from defenses.fedgrad import (
    FedGrad,
    by_class_sums,
    compromising_scores,
    scaled_to_unit,
    two_clusters,
    weighted_mean,
)
from raysim.backends.base import InProcessBackend
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe

CLASSES, WIDTH = 3, 2
HEAD = (Entry("head.weight", (CLASSES, WIDTH), 4, 10), Entry("head.bias", (CLASSES,), 10, 13))
LAYOUT = Layout((Entry("body", (4,), 0, 4), *HEAD))
PAIRED = ("weight_similarity", "bias_similarity")


@dataclass(frozen=True)
class Head:
    """A model of which only the last layer is known."""

    head: str = "head"


@pytest.fixture
def judge(make_updates, make_context):
    """judge(defense, rows, state=None, round=0, global_vector=None, **cut) -> (verdict, state)."""

    def apply(
        defense: FedGrad, rows: Any, state: Any = None, round: int = 0, global_vector: Any = None, **cut: Any
    ):
        updates = make_updates(rows, **{"layout": LAYOUT, **cut})
        vector = np.zeros(LAYOUT.dim, np.float32) if global_vector is None else global_vector
        context = make_context(updates, factory=Head(), round=round, global_vector=vector)
        return defense.apply(defense.init(context) if state is None else state, updates, context)

    return apply


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, LAYOUT.dim)).astype(np.float32)


def weights_of(rows: np.ndarray) -> np.ndarray:
    return rows[:, 4:10].astype(float)


def instant_scores(rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Steps 1 to 3 of the soft filter, one client at a time."""
    weights = weights_of(rows)
    mean = (shares[:, None] * weights).sum(axis=0)
    raw = [(w - mean) @ mean / np.linalg.norm(w - mean) / np.linalg.norm(mean) for w in weights]
    return (np.array(raw) - min(raw)) / (max(raw) - min(raw))


def test_compromising_scores_by_hand() -> None:
    rows = np.array([[4.0, 0.0], [0.0, 4.0], [-1.0, -1.0]])
    mean = weighted_mean(rows, np.array([0.5, 0.25, 0.25]))
    assert mean.tolist() == [1.75, 0.75]
    away = rows - mean
    expected = away @ mean / np.linalg.norm(away, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose(compromising_scores(rows, mean, mean), expected)
    # turning the gradient around turns every score, and with them the ranking
    reversed_scores = compromising_scores(rows, mean, -mean)
    np.testing.assert_allclose(reversed_scores, -expected)
    assert np.argsort(reversed_scores).tolist() == np.argsort(expected)[::-1].tolist()


def test_scores_of_nothing_are_zero() -> None:
    assert compromising_scores(np.ones((3, 2)), np.ones(2), np.zeros(2)).tolist() == [0] * 3
    equal = np.full((3, 5), 0.1, np.float32)
    mean = weighted_mean(equal, np.full(3, 1 / 3))
    assert compromising_scores(equal, mean, mean).tolist() == [0] * 3
    assert scaled_to_unit(np.full(3, 7.0)).tolist() == [0] * 3
    assert scaled_to_unit(np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]])).tolist() == [
        [0, 0],
        [1, 0],
        [0.5, 0],
    ]


def test_many_clients_give_what_few_at_a_time_give() -> None:
    rows = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    shares = np.full(150, 1 / 150)
    mean = weighted_mean(rows, shares)
    np.testing.assert_allclose(mean, rows.astype(float).mean(axis=0))
    away = rows - mean
    expected = away @ mean / np.linalg.norm(away, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose(compromising_scores(rows, mean, mean), expected)


def test_soft_filter_of_one_round(judge) -> None:
    rows, examples = rows_of(6), np.array([1, 2, 3, 1, 2, 3])
    scores = instant_scores(rows, examples / 12)
    verdict, state = judge(FedGrad(), rows, num_examples=examples)
    np.testing.assert_allclose(verdict.scores, scores, atol=1e-6)
    np.testing.assert_array_equal(verdict.flagged, scores > min(0.5, np.median(scores)))
    assert verdict.flagged.sum() >= 3  # with distinct scores about half of any round
    kept = ~verdict.flagged
    np.testing.assert_allclose(verdict.weights, np.where(kept, examples, 0) / examples[kept].sum())
    np.testing.assert_allclose(verdict.aggregate, verdict.weights @ rows, atol=1e-6)
    stricter, _ = judge(FedGrad(threshold_scale=0.35), rows, num_examples=examples)
    assert stricter.flagged.sum() > verdict.flagged.sum()
    lenient, _ = judge(FedGrad(zeta=0.0), rows, num_examples=examples)
    np.testing.assert_array_equal(lenient.flagged, scores > 0)
    assert state["rounds"].tolist() == [1] * 6


def test_scores_are_averaged_by_client_id_under_sampling(judge) -> None:
    state: Any = None
    scores: dict[int, Any] = {}
    for ids in (np.array([7, 2, 9]), np.array([9, 4, 2, 11]), np.array([2])):
        rows = rows_of(len(ids), seed=ids[0])
        _, state = judge(FedGrad(), rows, state, client_ids=ids)
        now = instant_scores(rows, np.full(len(ids), 1 / len(ids))) if len(ids) > 1 else np.zeros(1)
        for client, score in zip(ids, now, strict=True):
            scores.setdefault(int(client), []).append(score)
    assert state["clients"].tolist() == [2, 4, 7, 9, 11]
    assert state["rounds"].tolist() == [3, 1, 1, 2, 1]
    means = np.array([np.mean(scores[client]) for client in (2, 4, 7, 9, 11)])
    np.testing.assert_allclose(state["score"], means, atol=1e-6)


@pytest.mark.parametrize("similarity", ["pair", "batch", "matrix"])
def test_similarities_are_averaged_over_the_rounds_of_a_pair(judge, similarity: str) -> None:
    state: Any = None
    measured: dict[Any, Any] = {}
    for ids, rows in ((np.array([7, 2, 9]), rows_of(3, 1)), (np.array([9, 4, 2]), rows_of(3, 2))):
        verdict, state = judge(FedGrad(similarity=similarity), rows, state, client_ids=ids)  # type: ignore[arg-type]
        sums = rows[:, 4:10].reshape(-1, CLASSES, WIDTH).sum(axis=2).astype(float)
        cosines = cosine_similarities(sums), cosine_similarities(rows[:, 10:])
        for i, one in enumerate(ids):
            for j, other in enumerate(ids):
                measured.setdefault((one, other), []).append([kind[i, j] for kind in cosines])
    clients = state["clients"].tolist()
    assert clients == [2, 4, 7, 9]
    for i, one in enumerate(clients):
        for j, other in enumerate(clients):
            values = np.array(measured.get((one, other), np.zeros((0, 2))))
            assert state["together"][i, j] == len(values)
            expected = values.mean(axis=0) if len(values) else np.zeros(2)
            np.testing.assert_allclose([state[name][i, j] for name in PAIRED], expected, atol=1e-6)
    # what the last round's clients are clustered by: their rows and columns, in id order (2, 4, 9)
    here = np.ix_([0, 1, 3], [0, 1, 3])
    for name in PAIRED:
        np.testing.assert_allclose(verdict.artifacts[name], state[name][here], atol=1e-6)


def test_transitive_similarities_measure_what_cannot_be_estimated(judge) -> None:
    defense = FedGrad(similarity="transitive")
    _, first = judge(defense, rows_of(4, 1), client_ids=np.array([0, 1, 2, 3]))
    assert (first["together"] == 1).all()  # nothing was known
    # client 9 is new: it has met nobody, so its pairs are measured and the others keep their values
    _, second = judge(defense, rows_of(3, 2), first, client_ids=np.array([2, 3, 9]))
    assert second["together"].tolist() == [[1, 1, 1, 1, 0]] * 2 + [[1] * 5] * 2 + [[0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(second["weight_similarity"][:4, :4], first["weight_similarity"])
    # 0 and 9 never met, but both know 2 and 3: nothing is measured any more
    verdict, third = judge(defense, rows_of(2, 3), second, client_ids=np.array([0, 9]))
    for name in ("together", *PAIRED):
        np.testing.assert_array_equal(third[name], second[name])
    for name in PAIRED:
        through = second[name][np.ix_([0, 4], [2, 3])]
        estimate, _ = transitive_similarities(through, np.ones((2, 2), bool))
        assert verdict.artifacts[name][0, 1] == pytest.approx(estimate[0, 1], abs=1e-6)


def test_two_clients_trained_on_the_same_data_look_alike(make_updates, make_context, tiny_model) -> None:
    data = tiny_model.server_data
    trainer = LocalTrainer(tiny_model.factory, tiny_model.layout, TrainingRecipe(epochs=6, batch_size=8))
    shards = [np.arange(20), np.arange(20), *(np.flatnonzero(data.labels == label) for label in (0, 1, 2))]
    jobs = [
        (tiny_model.vector, ClientData(data.images[own], data.labels[own]), (number,))
        for number, own in enumerate(shards)
    ]
    rows = InProcessBackend().map("train", partial(trainer.fit, seed=0), jobs)
    updates = make_updates(np.stack(rows), layout=tiny_model.layout)
    context = make_context(updates, factory=tiny_model.factory, global_vector=tiny_model.vector)
    verdict, _ = FedGrad().apply(FedGrad().init(context), updates, context)
    for name in PAIRED:
        similarity = verdict.artifacts[name]
        assert similarity[0, 1] > 0.98
        assert similarity[2:, 2:][np.triu_indices(3, 1)].max() < 0.5  # disjoint classes


def test_gradient_of_the_last_layer(tiny_model) -> None:
    """One step on one sample moves W by -eta (p - y) R and b by -eta (p - y): definition 2 sees p - y itself."""
    data = tiny_model.server_data
    trainer = LocalTrainer(
        tiny_model.factory, tiny_model.layout, TrainingRecipe(batch_size=1, learning_rate=0.5)
    )
    delta = trainer.fit(tiny_model.vector, ClientData(data.images[:1], data.labels[:1]), ("step",), seed=0)
    trainer.load(tiny_model.vector)
    with torch.no_grad():
        body = torch.nn.Sequential(*list(trainer.model.children())[:-1])
        representation = body(torch.from_numpy(data.images[:1]))
        miss = trainer.model(torch.from_numpy(data.images[:1])).softmax(1)[0].numpy()
    miss[data.labels[0]] -= 1
    representation = representation[0].numpy()
    weight, bias = (tiny_model.layout.view(delta, f"head.{name}") for name in ("weight", "bias"))
    np.testing.assert_allclose(weight, -0.5 * miss[:, None] * representation, atol=1e-6)
    np.testing.assert_allclose(bias, -0.5 * miss, atol=1e-6)
    sums = by_class_sums(weight.reshape(1, -1), 10)
    np.testing.assert_allclose(sums[0], -0.5 * miss * representation.sum(), atol=1e-5)
    assert cosine_similarities(np.stack([sums[0], bias]))[0, 1] == pytest.approx(1, abs=1e-5)


def colluding_rows() -> np.ndarray:
    """Six clients of one kind near the global model, and three of another, further away."""
    rows = 0.02 * rows_of(9, 5)
    rows[:6] += 0.1 * np.array([1, 0, 0, 0, -1, -1, 1, 1, 0.3, 0.3, -1, 1, 0.3])
    rows[6:] += np.array([3, 0, 0, 0, 2, 2, -1, -1, -1, -1, 1, -1, -1])
    return rows


def test_hard_filter_flags_the_cluster_without_the_closest_client(judge) -> None:
    defense = FedGrad(soft=False, trust=False, switch_round=1, num_byzantine=3)
    rows = colluding_rows()
    before, state = judge(defense, rows, round=0)
    assert not before.flagged.any()
    assert before.scores is None
    assert (state["together"] == 1).all()  # histories begin before the switch
    verdict, _ = judge(defense, rows, state, round=1)
    assert verdict.flagged.tolist() == [False] * 6 + [True] * 3
    squared = ((rows[:, None].astype(float) - rows) ** 2).sum(axis=2)
    closeness = np.sort(squared, axis=1)[:, 1:5].sum(axis=1)  # K - f - 2 = 4 nearest others
    np.testing.assert_allclose(verdict.scores, closeness, rtol=1e-5)


def test_hard_filter_needs_four_clients(judge) -> None:
    defense = FedGrad(soft=False, trust=False, switch_round=0)
    verdict, _ = judge(defense, colluding_rows()[[0, 1, 8]])
    assert not verdict.flagged.any()
    verdict, _ = judge(defense, colluding_rows()[[0, 1, 2, 8]])
    assert verdict.flagged.any()


def test_two_clusters() -> None:
    features = np.array([[0, 0], [0.1, 0], [5, 5], [5, 5.1]])
    labels = two_clusters(features, 0)
    assert labels[0] == labels[1] != labels[2] == labels[3]
    assert two_clusters(np.ones((4, 2)), 0).tolist() == [0] * 4


def test_both_filters_flag_what_either_flags(judge) -> None:
    rows = colluding_rows()
    options = {"switch_round": 0, "trust": False, "num_byzantine": 3}
    soft, _ = judge(FedGrad(hard=False, **options), rows)  # type: ignore[arg-type]
    hard, _ = judge(FedGrad(soft=False, **options), rows)  # type: ignore[arg-type]
    both, _ = judge(FedGrad(**options), rows)  # type: ignore[arg-type]
    np.testing.assert_array_equal(both.flagged, soft.flagged | hard.flagged)
    assert hard.flagged.sum() < both.flagged.sum()
    assert soft.flagged.any()
    np.testing.assert_array_equal(both.scores, soft.scores)


def test_without_the_hard_filter_no_pairs_are_kept(judge) -> None:
    _, state = judge(FedGrad(hard=False), rows_of(4))
    assert not {"together", *PAIRED} & set(state)


def test_trust_clears_who_was_judged_benign_so_far(judge) -> None:
    defense, ids = FedGrad(hard=False), np.arange(8)
    first, state = judge(defense, rows_of(8, 1), client_ids=ids)
    assert 0 < first.flagged.sum() < 8
    np.testing.assert_allclose(state["trust_sum"], np.where(first.flagged, 0.25, 1.0))
    assert state["trust_count"].tolist() == [1] * 8
    plain, _ = judge(replace(defense, trust=False), rows_of(8, 2), state, client_ids=ids)
    second, after = judge(defense, rows_of(8, 2), state, client_ids=ids)
    np.testing.assert_array_equal(second.flagged, plain.flagged & first.flagged)
    assert second.flagged.sum() < plain.flagged.sum()
    np.testing.assert_allclose(after["trust_sum"], state["trust_sum"] + np.where(plain.flagged, 0.25, 1.0))
    # a threshold above every score clears nobody; trust that starts later clears nobody yet
    for changed in ({"gamma": 1.0, "lambda_benign": 0.9}, {"trust_round": 1}):
        _, earlier = judge(replace(defense, **changed), rows_of(8, 1), client_ids=ids)
        verdict, _ = judge(replace(defense, **changed), rows_of(8, 2), earlier, client_ids=ids)
        np.testing.assert_array_equal(verdict.flagged, plain.flagged)


def sleeper_flags(judge: Callable[..., Any], defense: FedGrad, rounds: int) -> list[bool]:
    """Whether a client is flagged that is honest in round 0 and submits a row along the mean from round 1 on."""
    ids, flags = np.arange(8), []
    first, state = judge(defense, rows_of(8), client_ids=ids)
    sleeper = int(np.flatnonzero(~first.flagged)[0])
    for number in range(1, rounds + 1):
        rows = rows_of(8, number)
        rows[sleeper] = 50 * rows.mean(axis=0)
        verdict, state = judge(defense, rows, state, client_ids=ids)
        flags.append(bool(verdict.flagged[sleeper]))
    return flags


def test_trust_does_not_make_a_sleeper_immune(judge) -> None:
    """(1 + 0.25 n) / (n + 1) falls below gamma = 0.75 with the second round in which the filters flag it."""
    assert sleeper_flags(judge, FedGrad(hard=False), 4) == [False, True, True, True]
    assert sleeper_flags(judge, FedGrad(hard=False, trust=False), 4) == [True] * 4


def test_trust_by_the_final_verdict_clears_a_sleeper_for_ever(judge) -> None:
    assert not any(sleeper_flags(judge, FedGrad(hard=False, trust_verdict="final"), 4))


def test_published_trust_starts_at_a_half_and_falls_back(judge) -> None:
    defense = FedGrad(hard=False, initial_trust=0.5, gamma=0.5)
    verdict, state = judge(defense, rows_of(4))
    assert not verdict.flagged.any()  # everybody starts trusted at this threshold
    assert state["trust_count"].tolist() == [2] * 4
    untrusting, _ = judge(replace(defense, trust=False), rows_of(4))
    np.testing.assert_allclose(state["trust_sum"], 0.5 + np.where(untrusting.flagged, 0.25, 1.0))
    kept, _ = judge(replace(defense, trust_fallback=True), rows_of(4))
    assert kept.flagged.any()
    np.testing.assert_array_equal(kept.flagged, untrusting.flagged)
    # a client that comes later gets its first entry then, and only then
    _, state = judge(defense, rows_of(2), state, client_ids=np.array([1, 8]))
    assert state["trust_count"].tolist() == [2, 3, 2, 2, 2]


def test_published_features(judge) -> None:
    rows = rows_of(5)
    rows[:, 10:] += 3
    vector = np.zeros(LAYOUT.dim, np.float32)
    vector[10:] = [1, -2, 5]

    def features(**options: Any) -> list[np.ndarray]:
        verdict, _ = judge(FedGrad(**options), rows, global_vector=vector)
        return [verdict.artifacts[name] for name in PAIRED]

    sums = by_class_sums(rows[:, 4:10], CLASSES)
    paper = features()
    np.testing.assert_allclose(paper[0], cosine_similarities(sums), atol=1e-6)
    np.testing.assert_allclose(paper[1], cosine_similarities(rows[:, 10:]), atol=1e-6)
    from_mean, raw = features(weight_reference="mean")[0], features(bias_features="raw")[1]
    np.testing.assert_allclose(from_mean, cosine_similarities(sums - sums.mean(axis=0)), atol=1e-6)
    np.testing.assert_allclose(raw, cosine_similarities(rows[:, 10:] + vector[10:]), atol=1e-6)
    scaled = features(scale_similarities=True)
    for one, other in zip(scaled, paper, strict=True):
        expected = (other - other.min(axis=0)) / (other.max(axis=0) - other.min(axis=0))
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_the_state_handed_in_is_not_touched(judge) -> None:
    for similarity in ("matrix", "transitive"):
        defense = FedGrad(similarity=similarity)
        _, state = judge(defense, rows_of(4))
        before = {name: values.copy() for name, values in state.items()}
        judge(defense, rows_of(5, 1), state, client_ids=np.array([0, 2, 3, 7, 8]))
        assert all(np.array_equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_cohorts_and_equal_updates(judge, count: int) -> None:
    verdict, _ = judge(FedGrad(switch_round=0), rows_of(count))
    assert np.isfinite(verdict.aggregate).all()
    if count == 1:
        np.testing.assert_array_equal(verdict.aggregate, rows_of(1)[0])
    for rows in (np.zeros((6, LAYOUT.dim)), np.full((6, LAYOUT.dim), 0.1)):
        verdict, _ = judge(FedGrad(switch_round=0), rows)
        assert not verdict.flagged.any()
        np.testing.assert_allclose(verdict.aggregate, rows[0], rtol=1e-6)


def test_everybody_flagged_keeps_the_global_model(judge) -> None:
    rows = rows_of(6)
    defense = FedGrad(hard=False, trust=False, zeta=0.0)
    verdict, state = judge(defense, rows)
    state["score"] += 1.0
    verdict, _ = judge(defense, rows, state)
    assert verdict.flagged.all()
    assert not verdict.weights.any()
    assert not verdict.aggregate.any()


def test_however_the_matrix_is_cut(judge) -> None:
    rows = colluding_rows()
    first, one = judge(FedGrad(switch_round=0), rows)
    second, two = judge(FedGrad(switch_round=0), rows, rows_per_block=2, bounds=(0, 3, 8, LAYOUT.dim))
    for name in ("aggregate", "weights", "scores", "flagged"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"num_byzantine": -1}, "num_byzantine"),
        ({"zeta": 1.5}, "zeta"),
        ({"gamma": -0.1}, "gamma"),
        ({"lambda_malicious": 2.0}, "lambda_malicious"),
        ({"lambda_benign": float("nan")}, "lambda_benign"),
        ({"initial_trust": -1.0}, "initial_trust"),
        ({"switch_round": -1}, "switch_round"),
        ({"trust_round": -1}, "trust_round"),
        ({"threshold_scale": 0.0}, "threshold_scale"),
        ({"similarity": "pairs"}, "similarity"),
        ({"weight_reference": "local"}, "weight_reference"),
        ({"bias_features": "rare"}, "bias_features"),
        ({"soft": False, "hard": False}, "soft"),
        ({"similarity": "transitive", "scale_similarities": True}, "scale_similarities"),
    ],
)
def test_hyper_parameters_that_are_refused(options: dict, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FedGrad(**options)
    assert caught.value.key == key


def test_settings_that_are_refused() -> None:
    setting = Setting(population=20, cohort=10, num_malicious=7, rounds=5, num_classes=3)
    FedGrad(num_byzantine=7).check(setting)  # 70 % attackers still leave a neighbour
    FedGrad(num_byzantine=8, hard=False).check(setting)
    with pytest.raises(ConfigError) as caught:
        FedGrad(num_byzantine=8).check(setting)
    assert (caught.value.key, caught.value.nearest) == ("num_byzantine", 7)
