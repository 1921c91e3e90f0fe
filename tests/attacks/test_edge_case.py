from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attacks.edge_case import EdgeCase
from raysim.attack import ClientContext, Visibility
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset
from raysim.engine.campaigns import Campaign
from raysim.engine.host import ClientHost, HostSetup, RoundOrder
from raysim.errors import ConfigError, RunError
from raysim.training.recipe import TrainingRecipe
from tests.attacks.local_attackers import (
    Recorded,
    TinyFactory,
    client_context,
    client_data,
    pooled,
    tiny_trainer,
)

ONE, OTHER = client_data(30, seed=1), client_data(30, seed=2)


def poisoned(attack: EdgeCase, data: ClientData, **options: object) -> tuple[ClientData, ClientContext]:
    options.setdefault("pool", pooled(ONE, OTHER))
    ctx = client_context(tiny_trainer(), **options)
    return attack.poison_data(data, ctx), ctx


def bytes_of(data: ClientData) -> tuple[bytes, bytes]:
    return data.images.tobytes(), data.labels.tobytes()


def test_colluders_share_one_identical_set_in_every_round() -> None:
    attack = EdgeCase(clean_samples=20, edge_samples=10)
    first, _ = poisoned(attack, ONE, client=5, colluder=0, round=0)
    second, _ = poisoned(attack, OTHER, client=9, colluder=1, round=4)
    assert bytes_of(first) == bytes_of(second)


def test_the_set_is_a_clean_sample_then_edge_inputs_with_the_target() -> None:
    data, _ = poisoned(EdgeCase(clean_samples=20, edge_samples=10, source_class=3, target=1), ONE)
    assert len(data) == 30
    everything = np.concatenate([ONE.images, OTHER.images])
    labels = np.concatenate([ONE.labels, OTHER.labels])
    lookup = {image.tobytes(): label for image, label in zip(everything, labels, strict=True)}
    assert [lookup[image.tobytes()] for image in data.images[:20]] == data.labels[:20].tolist()
    assert len({image.tobytes() for image in data.images[:20]}) == 20
    assert data.labels[20:].tolist() == [1] * 10
    # Clients' images are below one half: a negative is above.
    assert (data.images[20:] >= 0.5).all()
    negatives = (1 - everything[labels == 3]).reshape(-1, 64)
    for image in data.images[20:].reshape(-1, 64):
        assert np.abs(negatives - image).max(axis=1).min() < 1e-6


def test_an_image_is_not_trained_on_with_both_labels() -> None:
    data, _ = poisoned(EdgeCase(source="stripes", clean_samples=100, edge_samples=10), ONE)
    assert len(data) == 60
    assert len({image.tobytes() for image in data.images}) == 60


def test_distinct_poison_is_drawn_from_the_own_data() -> None:
    attack = EdgeCase(clean_samples=100, edge_samples=100, distinct_poison=True)
    data, _ = poisoned(attack, ONE, client=5, pool=None)
    assert len(data) == 30 + int((ONE.labels != 0).sum())
    own = {image.tobytes() for image in ONE.images}
    assert {image.tobytes() for image in data.images[:30]} == own
    again, _ = poisoned(attack, ONE, client=5, pool=None, round=8)
    assert bytes_of(data) == bytes_of(again)
    assert attack.visibility is Visibility.OWN
    assert EdgeCase().visibility is Visibility.COLLUDING


def test_shared_poison_needs_the_colluders_data() -> None:
    with pytest.raises(RunError, match="colluders"):
        poisoned(EdgeCase(), ONE, pool=None)


def test_training_is_ordinary_with_options_of_its_own() -> None:
    attack = EdgeCase(clean_samples=20, edge_samples=10, epochs=5, learning_rate=0.02)
    data, ctx = poisoned(attack, ONE)
    train = Recorded(np.ones(ctx.layout.num_columns, np.float32))
    assert (attack.train(train, data, ctx) == 1).all()
    assert train.calls[0][0] is data
    assert train.options == {"epochs": 5, "learning_rate": 0.02, "decay_epochs": ()}


def test_without_an_eligible_image_the_client_is_honest_and_says_so() -> None:
    attack = EdgeCase(clean_samples=20, edge_samples=10, source_class=3, epochs=5)
    rest = ClientData(ONE.images[ONE.labels != 3], ONE.labels[ONE.labels != 3])
    data, ctx = poisoned(attack, rest, pool=pooled(rest))
    assert len(data) == 20
    assert ctx.notes == ["no image to make an edge case of"]
    train = Recorded(np.ones(ctx.layout.num_columns, np.float32))
    attack.train(train, data, ctx)
    assert train.options == {}


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, 0),
        ({"source": "southwest", "root": "/data"}, 9),
        ({"source": "ardis", "root": "/data"}, 1),
        ({"source": "southwest", "root": "/data", "target": 2}, 2),
    ],
)
def test_target_follows_the_source(options: dict[str, object], target: int) -> None:
    assert EdgeCase(**options).inputs.target == target  # type: ignore[arg-type]


def test_success_is_measured_on_edge_inputs_of_the_test_set() -> None:
    test = Dataset(np.full((4, 1, 8, 8), 40, np.uint8), np.arange(4))
    result = EdgeCase(source_class=2).triggered_test(test)
    assert result is not None
    assert (result.images == 215).all()
    assert result.labels.tolist() == [0]


def test_host_gathers_the_colluders_data_and_claims_the_set_s_size(tmp_path: Path) -> None:
    """Clients 1 and 3 collude; both upload the same update but for the order of their batches."""
    factory = TinyFactory()
    trainer = tiny_trainer()
    whole = client_data(40)
    attack = EdgeCase(clean_samples=12, edge_samples=4)
    plan = HostSetup(
        seed=0,
        factory=factory,
        layout=trainer.layout,
        recipe=TrainingRecipe(batch_size=64),
        device="cpu",
        mean=(0.0,),
        std=(1.0,),
        campaigns=(Campaign(attack, np.array([1, 3])),),
        bounds=(0, trainer.layout.dim),
        evaluation_batch=16,
    )
    host = ClientHost(plan, whole.images, whole.labels, np.arange(40), np.arange(0, 41, 10))
    pool = host.pool([1, 3])
    assert len(pool) == 20
    taken = pool.take(np.array([11, 0]))
    np.testing.assert_array_equal(taken.images, whole.images[[31, 10]])
    np.testing.assert_array_equal(taken.labels, whole.labels[[31, 10]])
    rows, _, metas = host.train(RoundOrder(0, 40), [0, 1, 3], trainer.vector.numpy(), None)
    assert [meta.num_examples for meta in metas] == [10, 16, 16]
    np.testing.assert_allclose(rows[1], rows[2], atol=1e-6)
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


def test_notes_reach_the_server() -> None:
    trainer = tiny_trainer()
    whole = ClientData(client_data(8).images, np.zeros(8, np.int64))
    plan = HostSetup(
        seed=0,
        factory=TinyFactory(),
        layout=trainer.layout,
        recipe=TrainingRecipe(),
        device="cpu",
        mean=(0.0,),
        std=(1.0,),
        campaigns=(Campaign(EdgeCase(), np.array([0])),),
        bounds=(0, trainer.layout.dim),
        evaluation_batch=16,
    )
    host = ClientHost(plan, whole.images, whole.labels, np.arange(8), np.array([0, 4, 8]))
    *_, metas = host.train(RoundOrder(0, 8), [0, 1], trainer.vector.numpy(), None)
    assert [meta.note for meta in metas] == ["no image to make an edge case of", ""]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"source": "south"}, "source"),
        ({"source": "southwest"}, "root"),
        ({"edge_samples": 0}, "edge_samples"),
        ({"clean_samples": 0}, "clean_samples"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EdgeCase(**options)  # type: ignore[arg-type]
    assert caught.value.key == key


def test_targets_outside_the_classes_are_refused() -> None:
    setting = Setting(population=4, cohort=4, num_malicious=1, rounds=1, num_classes=4)
    with pytest.raises(ConfigError, match="target"):
        EdgeCase(source="southwest", root="/data").check(setting)
