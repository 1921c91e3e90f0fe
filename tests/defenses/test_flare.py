"""FLARE: votes by hand, the published invariants, and whole rounds on a small model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from defenses.client_models import bound_model, head_inputs, map_models
from defenses.flare import Flare, FlareCode, representation, softmax, votes
from raysim.context import ServerData, Setting
from raysim.errors import ConfigError


@pytest.fixture
def judge(make_updates, make_context, tiny_model):
    """judge(defense, deltas, **cut) -> verdict, on the small model and its server data."""

    def apply(defense: Flare, deltas: Any, data: ServerData = tiny_model.server_data, **cut: Any):
        updates = make_updates(deltas, layout=tiny_model.layout, **cut)
        context = make_context(
            updates, global_vector=tiny_model.vector, factory=tiny_model.factory, server_data=data
        )
        verdict, state = defense.apply({}, updates, context)
        assert state == {}
        return verdict

    return apply


@pytest.fixture
def deltas(tiny_model) -> np.ndarray:
    """Nine clients that moved a little in all directions."""
    return (0.02 * np.random.default_rng(3).normal(size=(9, tiny_model.layout.num_columns))).astype(
        np.float32
    )


def test_votes_by_hand() -> None:
    place = np.array([0.0, 1.0, 2.1, 9.0])
    discrepancy = np.abs(place[:, None] - place)
    assert votes(discrepancy, 0, 1).tolist() == [1, 2, 1, 0]
    assert votes(discrepancy, 0, 2).tolist() == [2, 3, 3, 0]
    assert votes(np.zeros((3, 3)), 0, 1).tolist() == [2, 1, 0]  # ties: the lowest index
    discrepancy[:, 3] = discrepancy[3] = np.inf
    assert votes(discrepancy, 0, 3).tolist() == [2, 2, 2, 0]


def test_votes_with_oneself_among_the_neighbours_by_hand() -> None:
    place = np.array([0.0, 1.0, 2.1, 9.0])
    discrepancy = np.abs(place[:, None] - place)
    assert votes(discrepancy, 0, 1, include_self=True).tolist() == [1, 1, 1, 1]
    assert votes(discrepancy, 0, 2, include_self=True).tolist() == [2, 3, 2, 1]
    assert votes(np.zeros((3, 3)), 0, 1, include_self=True).tolist() == [
        1,
        1,
        1,
    ]  # oneself before ties
    discrepancy[:, 3] = discrepancy[3] = np.inf
    assert votes(discrepancy, 0, 2, include_self=True).tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize("variant", [Flare, FlareCode])
def test_oneself_takes_one_vote_of_each_client(judge, deltas, variant: type[Flare]) -> None:
    counted = judge(variant(neighbours=5, include_self=True), deltas)
    others = judge(variant(neighbours=4), deltas)
    np.testing.assert_allclose((1 - counted.scores) * 9, (1 - others.scores) * 8 + 1)
    if variant is Flare:  # one vote more for everybody moves no softmax
        np.testing.assert_allclose(counted.weights, others.weights)
    narrow = judge(variant(neighbours=1, include_self=True), deltas)
    np.testing.assert_allclose(narrow.weights, np.full(9, 1 / 9))


def test_softmax_by_hand() -> None:
    np.testing.assert_allclose(softmax(np.array([0.0, np.log(3)])), [0.25, 0.75])
    np.testing.assert_allclose(softmax(np.array([2000.0, 0.0])), [1, 0])


def test_numbers_of_neighbours() -> None:
    assert [Flare().number_of_neighbours(count) for count in (3, 4, 7, 10)] == [2, 2, 4, 5]
    assert [FlareCode().number_of_neighbours(count) for count in (3, 4, 7, 10)] == [0, 1, 2, 4]
    assert Flare(neighbours=6).number_of_neighbours(4) == 3


def test_evidence_of_the_two_variants() -> None:
    counts = np.array([2, 4, 6])
    assert Flare(temperature=2.0).evidence(counts).tolist() == [1, 2, 3]
    assert FlareCode(temperature=2.0).evidence(counts).tolist() == [0.25, 0.5, 0.75]
    assert FlareCode().evidence(np.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("defense", [Flare(), Flare(mmd="unbiased"), FlareCode()])
@pytest.mark.parametrize("colluders", [2, 3, 4])
def test_identical_colluders_get_fewer_votes_than_the_benign(judge, deltas, defense, colluders: int) -> None:
    crafted = (0.1 * np.random.default_rng(9).normal(size=deltas.shape[1])).astype(np.float32)
    rows = np.concatenate([np.repeat(crafted[None], colluders, axis=0), deltas[: 10 - colluders]])
    verdict = judge(defense, rows)
    votes = (1 - verdict.scores) * 9
    assert votes[:colluders].mean() < votes[colluders:].mean()
    assert verdict.weights[:colluders].sum() < verdict.weights[colluders:].sum()
    assert verdict.artifacts["mmd"][0, 1] <= verdict.artifacts["mmd"][0].min() + 1e-6


def test_a_far_model_is_detected(judge, deltas) -> None:
    deltas[4] *= 20
    verdict = judge(Flare(), deltas)
    assert verdict.scores.argmax() == 4
    assert verdict.flagged[4]
    assert verdict.weights[4] == pytest.approx(0, abs=0.01)
    assert verdict.weights.sum() == pytest.approx(1)
    np.testing.assert_array_equal(verdict.flagged, verdict.weights < 1 / 9)
    np.testing.assert_allclose(verdict.aggregate, verdict.weights @ deltas.astype(float), atol=1e-7)
    flatter = judge(FlareCode(), deltas)
    assert flatter.weights.max() < verdict.weights.max()


def test_counts_from_the_models_themselves(judge, deltas, tiny_model) -> None:
    """The whole rule once more, from the models' own layers, in float64."""
    images = tiny_model.server_data.images[tiny_model.server_data.labels == 2][:6]
    plr = []
    for row in deltas:
        model = bound_model(tiny_model.factory, tiny_model.layout, tiny_model.vector + row)
        body = torch.nn.Sequential(*list(model.children())[:-1])
        plr.append(body(torch.from_numpy(images)).numpy().astype(float))
    points = np.concatenate(plr)
    squared = ((points[:, None] - points) ** 2).sum(axis=2)
    bandwidth = np.median(squared[np.triu_indices(len(points), 1)])
    kernel = np.exp(-squared / (2 * bandwidth)).reshape(9, 6, 9, 6).sum(axis=(1, 3))
    within = (np.diagonal(kernel) - 6) / 30
    mmd = within[:, None] + within - kernel / 15
    verdict = judge(Flare(label=2, samples=6), deltas)
    np.testing.assert_allclose(verdict.artifacts["mmd"], mmd, atol=1e-4)
    np.testing.assert_allclose(verdict.artifacts["representations"], plr, atol=1e-5)
    votes = np.zeros(9)
    for i in range(9):
        nearest = sorted((j for j in range(9) if j != i), key=lambda j: verdict.artifacts["mmd"][i, j])
        votes[nearest[:4]] += 1
    np.testing.assert_allclose(verdict.weights, np.exp(votes) / np.exp(votes).sum())


def test_representations_that_do_not_differ_give_uniform_weights(judge, tiny_model) -> None:
    for rows in (np.zeros((5, tiny_model.layout.num_columns)), np.zeros((2, tiny_model.layout.num_columns))):
        rows[:, -1] = np.arange(len(rows))  # the head's bias comes behind the representation
        verdict = judge(Flare(), rows)
        np.testing.assert_array_equal(verdict.weights, np.full(len(rows), 1 / len(rows)))
        assert not verdict.flagged.any()
        assert verdict.aggregate[-1] == pytest.approx(np.arange(len(rows)).mean())


@pytest.mark.parametrize("size", [1e30, 3e37])
def test_an_exploded_model_is_infinitely_far(judge, deltas, size: float) -> None:
    deltas[1] = size
    verdict = judge(Flare(), deltas)
    assert np.isinf(verdict.artifacts["mmd"][1]).all()
    assert verdict.scores[1] == 1
    assert verdict.flagged[1]
    kept = np.delete(np.arange(9), 1)
    alone = judge(Flare(neighbours=4), deltas[kept])
    np.testing.assert_allclose(verdict.scores[kept] * 8, 1 + alone.scores * 7)  # one voter less


def test_the_average_discrepancy_is_the_other_trust(judge, deltas) -> None:
    verdict = judge(Flare(trust="average", temperature=2.0), deltas)
    mmd = verdict.artifacts["mmd"]
    means = (mmd.sum(axis=1) - np.diagonal(mmd)) / 8
    np.testing.assert_allclose(verdict.scores, means, rtol=1e-6)
    beyond = means - means.min()
    powers = np.exp(-beyond / (2 * np.median(beyond)))
    np.testing.assert_allclose(verdict.weights, powers / powers.sum(), rtol=1e-6)
    np.testing.assert_array_equal(verdict.flagged, verdict.weights < 1 / 9)
    deltas[1] = 1e30
    exploded = judge(Flare(trust="average"), deltas)
    assert exploded.weights[1] == 0
    assert exploded.flagged[1]


def test_nothing_finite_is_uniform(judge, deltas) -> None:
    verdict = judge(Flare(), np.full_like(deltas[:4], 1e30) * np.arange(1, 5)[:, None])
    np.testing.assert_allclose(verdict.weights, [0.25] * 4)
    assert np.isfinite(verdict.aggregate).all()


def test_however_the_matrix_is_cut(judge, deltas) -> None:
    first = judge(Flare(), deltas)
    second = judge(Flare(), deltas, rows_per_block=2, bounds=(0, 1000, first.aggregate.size))
    for name in ("aggregate", "weights", "scores", "flagged"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_which_images_are_looked_at(make_updates, make_context) -> None:
    images = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1)
    data = ServerData(images, np.array([2, 1, 2, 1, 0, 1, 2]))

    def chosen(defense: Flare, data: ServerData = data) -> list[float]:
        return defense.images(make_context(make_updates([[0.0]]), server_data=data)).ravel().tolist()

    assert chosen(Flare(samples=2)) == [1, 3]  # classes 1 and 2 have three: the lower one, its first two
    assert chosen(Flare(label=2)) == [0, 2, 6]
    with pytest.raises(ConfigError, match=r"at least 2 samples of class 0"):
        chosen(Flare(label=0))
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        chosen(Flare(), replace(data, images=images[:1], labels=data.labels[:1]))


def test_representations_are_what_the_last_layer_of_each_client_s_own_model_reads(
    tiny_model, make_updates
) -> None:
    """A model's output is its last layer's of the representation; buffers are the client's."""
    layout, factory, images = tiny_model.layout, tiny_model.factory, tiny_model.server_data.images[:4]
    rows = np.random.default_rng(0).uniform(0, 0.1, (2, layout.num_columns)).astype(np.float32)
    updates = make_updates(rows, layout=layout)
    shared = (tiny_model.vector, factory.head, images)
    found = map_models(updates, "plr", representation, factory, *shared)
    for row, points in zip(rows, found, strict=True):
        model = bound_model(factory, layout, tiny_model.vector + row)
        head = model.get_submodule(factory.head)
        assert torch.allclose(head(torch.tensor(points)), model(torch.from_numpy(images)), atol=1e-6)
    assert not np.allclose(found[0], found[1])


def test_proposition_1_with_its_distances_squared(tiny_model) -> None:
    """q_k > q_l exactly when |r - w_l|^2 - |r - w_k|^2 > |w_l|^2 - |w_k|^2, without a bias."""
    model = bound_model(tiny_model.factory, tiny_model.layout, tiny_model.vector)
    head = model.get_submodule(tiny_model.factory.head)
    head.bias.zero_()  # type: ignore[operator]
    images = torch.from_numpy(tiny_model.server_data.images)
    outputs = model(images).softmax(1).double().numpy()
    plr = head_inputs(model, tiny_model.factory.head, images).double().numpy()
    template = head.weight.double().numpy()  # type: ignore[operator]
    away = ((plr[:, None] - template) ** 2).sum(axis=2)
    squared = (template**2).sum(axis=1)
    more_likely = outputs[:, :, None] > outputs[:, None]
    by_distance = away[:, None] - away[:, :, None] > squared[None, None] - squared[None, :, None]
    clear = np.abs(outputs[:, :, None] - outputs[:, None]) > 1e-6
    assert clear.mean() > 0.8
    assert np.array_equal(more_likely[clear], by_distance[clear])
    unsquared = np.sqrt(away)
    as_printed = unsquared[:, None] - unsquared[:, :, None] > squared[None, None] - squared[None, :, None]
    assert not np.array_equal(more_likely[clear], as_printed[clear])


SETTING = Setting(population=9, cohort=5, num_malicious=1, rounds=3, num_classes=10, server_samples=12)


@pytest.mark.parametrize(
    ("defense", "changed", "key", "nearest"),
    [
        (Flare(), {"server_samples": 9}, "server_data.samples", 10),
        (FlareCode(), {"server_samples": 1}, "server_data.samples", 2),
        (Flare(neighbours=5), {}, "neighbours", 4),
        (FlareCode(neighbours=5), {}, "neighbours", 4),
        (Flare(label=10), {}, "label", 9),
        (Flare(label=3), {"server_classes": {0: 5, 3: 1, 5: 6}}, "label", 5),
        (FlareCode(label=3), {"server_classes": {1: 12}}, "label", 1),
        (Flare(label=3), {"server_classes": dict.fromkeys(range(12), 1)}, "label", None),
    ],
)
def test_settings_that_are_refused(defense: Flare, changed: dict, key: str, nearest: int | None) -> None:
    with pytest.raises(ConfigError) as caught:
        defense.check(replace(SETTING, **changed))
    assert (caught.value.key, caught.value.nearest) == (key, nearest)


def test_settings_that_work() -> None:
    for defense in (Flare(), FlareCode(), Flare(neighbours=4, label=9)):
        defense.check(SETTING)
    Flare(label=3).check(replace(SETTING, server_classes={3: 2, 4: 10}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0.0),
        ("neighbours", 0),
        ("bandwidth", -1.0),
        ("mmd", "biased"),
        ("samples", 1),
        ("label", -1),
    ],
)
def test_hyper_parameters_that_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Flare(**{key: value})
    assert caught.value.key == key
