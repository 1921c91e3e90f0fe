"""The host that trains many clients with one model: what a client uploads, and what an attack may do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from raysim.attack import Attack
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset, normalise
from raysim.engine.campaigns import Campaign, Schedule
from raysim.engine.host import ClientHost, HostSetup, RoundOrder, UploadMeta
from raysim.engine.uploads import reason_to_reject
from raysim.errors import DataError, RunError
from raysim.matrix.layout import Layout
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe
from raysim.training.schedule import LearningRates
from tests.small_models import SmallNet, samples

SEED = 11
RECIPE = TrainingRecipe(epochs=3, batch_size=5, learning_rate=0.1)


pytestmark = pytest.mark.usefixtures("one_thread")


def trainer_of(kind="linear"):
    return LocalTrainer(SmallNet(kind), Layout.of(SmallNet(kind).build()), RECIPE)


def start_of(kind="linear"):
    model = SmallNet(kind).build()
    return Layout.of(model).vector(model)


# -- schedules and campaigns --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "rounds"),
    [
        (Schedule(), range(12)),
        (Schedule(start=4), range(4, 12)),
        (Schedule(stop=3), range(3)),
        (Schedule(start=2, stop=9, every=3), [2, 5, 8]),
        (Schedule(start=1, every=5), [1, 6, 11]),
    ],
)
def test_schedules(schedule, rounds):
    assert [number for number in range(12) if schedule.active(number)] == list(rounds)


def test_a_campaign_knows_the_place_of_its_clients():
    campaign = Campaign(Attack(), np.array([2, 5, 9]))
    assert [campaign.place(client) for client in (2, 5, 9)] == [0, 1, 2]
    assert [campaign.place(client) for client in (0, 3, 10)] == [None] * 3


# -- what a host refuses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("submitted", "reason"),
    [
        (np.zeros(4, np.float32), ""),
        (np.zeros(6, np.float32), ""),
        (np.full(4, 1e30), ""),
        (np.zeros(4, np.float16), ""),
        (None, "missing"),
        ([0.0] * 4, "not an array of floats: list"),
        (np.zeros(4, np.int64), "not an array of floats: ndarray"),
        (np.zeros(4, object), "not an array of floats: ndarray"),
        (torch.zeros(4), "not an array of floats: Tensor"),
        (np.zeros(5), "wrong shape (5,), expected (6,)"),
        (np.zeros((4, 1)), "wrong shape (4, 1), expected (6,)"),
        (np.float64(1.0), "not an array of floats: float64"),
        (np.array([0, np.nan, 0, 0]), "non-finite"),
        (np.array([0, 0, 0, -np.inf]), "non-finite"),
        (np.array([0, 1e39, 0, 0]), "non-finite"),
    ],
)
def test_reasons_to_reject(submitted, reason):
    """1e39 is a double, but not the float32 it would be stored as."""
    layout = Layout(Layout.flat(4).parameters, (replace(Layout.flat(2).parameters[0], start=4, stop=6),))
    assert reason_to_reject(submitted, layout, np.zeros(6, np.float32)) == reason


@pytest.mark.parametrize(
    ("held", "change", "reason"),
    [
        (1.0, -1.0, ""),
        (1.0, -1.0000001, "negative variance"),
        (0.25, -0.5, "negative variance"),
        (0.3, np.float32(1e-12) - np.float32(0.3), ""),
        (1e-30, np.float32(7e-31) - np.float32(1e-30), ""),
    ],
)
def test_an_upload_that_takes_a_variance_below_zero_is_rejected(held, change, reason):
    """Of BatchNorm1d(5): means and variances behind its 113 parameters; a mean may be negative."""
    layout = Layout.of(SmallNet("batchnorm").build())
    assert [entry.name for entry in layout.buffers][:2] == ["norm.running_mean", "norm.running_var"]
    np.testing.assert_array_equal(layout.variance_columns, np.arange(118, 123))
    vector, upload = np.zeros(layout.num_columns, np.float32), np.zeros(layout.num_columns, np.float32)
    upload[113:118] = -5
    vector[119], upload[119] = held, change
    assert reason_to_reject(upload, layout, vector) == reason
    assert reason_to_reject(upload[:113], layout, vector) == ""


# -- the host -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe(Attack):
    """Does what it is told, and remarks on what it was given."""

    how: str = "honest"
    training: bool = True

    @property
    def trains(self):
        return self.training

    def poison_data(self, data, ctx):
        ctx.note(f"{ctx.client}/{ctx.colluder}/{ctx.num_colluders}")
        return ClientData(data.images, (data.labels + 1) % ctx.num_classes)

    def train(self, honest_train, data, ctx):
        if self.how == "lazy":
            return np.zeros(ctx.layout.num_columns, np.float32)
        if self.how == "short":
            return 2 * honest_train(data)[: ctx.layout.dim]
        if self.how == "inspect":
            assert ctx.trainer.recipe is not None
            ctx.note(f"round {ctx.round} rate {ctx.learning_rate:g} examples {ctx.cohort_examples}")
            ctx.note(
                f"previous {None if ctx.previous_global_vector is None else len(ctx.previous_global_vector)}"
            )
            ctx.note(f"{ctx.mean} {ctx.std} pool {len(ctx.colluders_data())} {ctx.num_classes}")
        if self.how == "wrong":
            raise KeyError("in the attack")
        if self.how == "refused":
            raise DataError("no such file")
        if self.how == "located":
            raise RunError("broken", stage="search")
        return honest_train(data)


def host_of(*campaigns, kind="linear", bounds=(0, 103), **plan):
    images, labels = samples(40, seed=8)
    layout = Layout.of(SmallNet(kind).build())
    values = {
        "seed": SEED, "factory": SmallNet(kind), "layout": layout, "recipe": RECIPE, "rates": LearningRates(decay=0.5),
        "device": "cpu", "mean": (0.4,), "std": (0.3,), "campaigns": campaigns, "bounds": bounds,
        "evaluation_batch": 4,
    }  # fmt: skip
    indices = np.random.default_rng(1).permutation(40)
    offsets = np.array([0, 10, 12, 12, 30, 40])
    pixels = np.round(255 * images).astype(np.uint8)
    clean, triggered = samples(9, seed=5), samples(5, seed=6)
    return ClientHost(HostSetup(**{**values, **plan}), pixels, labels, indices, offsets, *clean, *triggered)


def rows_of(host, clients, round=2, start=None, previous=None):
    vector = start_of(host.setup.factory.kind) if start is None else start
    *tiles, metas = host.train(RoundOrder(round, 35), clients, vector, previous)
    return np.concatenate(tiles, axis=1), metas


def test_an_honest_client_trains_on_its_own_normalised_samples():
    host = host_of()
    own = host.indices[12:30]
    expected = normalise(host.train_set.images[own], (0.4,), (0.3,)).numpy()
    data = host.data_of(3)
    np.testing.assert_array_equal(data.images, expected)
    np.testing.assert_array_equal(data.labels, host.train_set.labels[own])
    rows, metas = rows_of(host, [3])
    trainer = trainer_of()
    update = trainer.fit(start_of(), data, ("train", 2, 3), seed=SEED, learning_rate=0.1 * 0.5**2)
    np.testing.assert_array_equal(rows[0], update)
    assert metas == [UploadMeta(3, 18, trainer.train_loss)]


def test_a_client_is_the_same_whoever_was_trained_before_and_in_whatever_order():
    one, _ = rows_of(host_of(kind="batchnorm"), [0, 1, 3])
    host = host_of(kind="batchnorm")
    host.evaluate(start_of("batchnorm"), 0, 0, 9)
    other, _ = rows_of(host, [3, 0])
    alone, _ = rows_of(host, [1])
    assert one[0].tobytes() == other[1].tobytes()
    assert one[1].tobytes() == alone[0].tobytes()
    assert one[2].tobytes() == other[0].tobytes()


def test_rows_come_as_one_contiguous_tile_a_shard_and_the_buffers_last():
    whole, _ = rows_of(host_of(kind="batchnorm", bounds=(0, 113)), [0, 3])
    host = host_of(kind="batchnorm", bounds=(0, 50, 113))
    *tiles, metas = host.train(RoundOrder(2, 35), [0, 3], start_of("batchnorm"), None)
    assert [tile.shape for tile in tiles] == [(2, 50), (2, 63), (2, 11)]
    assert all(tile.flags.c_contiguous for tile in tiles)
    np.testing.assert_array_equal(np.concatenate(tiles, axis=1), whole)
    assert [meta.client for meta in metas] == [0, 3]


def test_a_client_without_samples_uploads_zeros_and_claims_none():
    rows, (meta,) = rows_of(host_of(), [2])
    assert not rows.any()
    assert (meta.num_examples, meta.reason) == (0, "")
    assert np.isnan(meta.train_loss)


def test_evaluation_of_any_part_of_either_test_set():
    host = host_of()
    trainer = trainer_of()
    trainer.load(start_of())
    images, labels = samples(5, seed=6)
    found = host.evaluate(start_of(), 1, 1, 5)
    np.testing.assert_array_equal(
        found, trainer.evaluate(Dataset(images[1:5], labels[1:5]), (0.4,), (0.3,), 4)
    )
    assert host.evaluate(start_of(), 0, 0, 9)[:, 0].tolist() == [4, 4, 1]


def campaign(schedule=Schedule(), clients=(1, 3), **options):
    return Campaign(Probe(**options), np.array(clients), schedule)


def test_a_compromised_client_poisons_its_data_and_trains_through_its_attack():
    host = host_of(campaign())
    (honest, poisoned), metas = rows_of(host, [0, 3])
    np.testing.assert_array_equal(honest, rows_of(host_of(), [0])[0][0])
    data = host.data_of(3)
    flipped = ClientData(data.images, (data.labels + 1) % 3)
    expected = trainer_of().fit(start_of(), flipped, ("train", 2, 3), seed=SEED, learning_rate=0.025)
    np.testing.assert_array_equal(poisoned, expected)
    assert [meta.note for meta in metas] == ["", "3/1/2"]


def test_attackers_and_the_test_may_be_divided_by_another_deviation():
    """What Wang et al.'s code does to CIFAR-10; honest clients, attackers off duty included, are left alone."""
    host = host_of(campaign(Schedule(start=2)), attack_std=(0.6,))
    apart, together = rows_of(host, [0, 3])[0], rows_of(host_of(campaign()), [0, 3])[0]
    np.testing.assert_array_equal(apart[0], together[0])
    own = host.indices[12:30]
    images = normalise(host.train_set.images[own], (0.4,), (0.6,)).numpy()
    flipped = ClientData(images, (host.train_set.labels[own].astype(np.int64) + 1) % 3)
    expected = trainer_of().fit(start_of(), flipped, ("train", 2, 3), seed=SEED, learning_rate=0.025)
    np.testing.assert_array_equal(apart[1], expected)
    np.testing.assert_array_equal(rows_of(host, [3], round=1)[0], rows_of(host_of(), [3], round=1)[0])
    np.testing.assert_array_equal(host.pool([3]).take(np.arange(18)).images, images)
    trainer, (clean, labels) = trainer_of(), samples(9, seed=5)
    trainer.load(start_of())
    found = host.evaluate(start_of(), 0, 0, 9)
    np.testing.assert_array_equal(found, trainer.evaluate(Dataset(clean, labels), (0.4,), (0.6,), 4))


def test_a_compromised_client_is_honest_outside_the_schedule():
    host = host_of(campaign(Schedule(start=3)))
    np.testing.assert_array_equal(rows_of(host, [3])[0], rows_of(host_of(), [3])[0])
    assert not np.array_equal(rows_of(host, [3], round=3)[0], rows_of(host_of(), [3], round=3)[0])


def test_what_an_attack_is_given():
    host = host_of(campaign(how="inspect"))
    note = rows_of(host, [1], round=1)[1][0].note
    assert note == "1/0/2; round 1 rate 0.05 examples 35; previous None; (0.4,) (0.3,) pool 20 3"
    note = rows_of(host, [1], round=1, previous=start_of())[1][0].note
    assert "previous 103" in note


def test_an_attack_that_crafts_later_need_not_train():
    rows, (meta,) = rows_of(host_of(campaign(training=False)), [3])
    assert not rows.any()
    assert (meta.num_examples, meta.reason, meta.note) == (18, "", "3/1/2")
    assert np.isnan(meta.train_loss)


def test_parameters_alone_are_an_upload_with_unmoved_buffers():
    rows, (meta,) = rows_of(host_of(campaign(how="short"), kind="batchnorm"), [3])
    assert meta.reason == ""
    assert rows[0, :113].any()
    assert not rows[0, 113:].any()


def test_the_loss_of_the_client_before_is_not_taken_for_ones_own():
    _, metas = rows_of(host_of(campaign(how="lazy")), [0, 3])
    assert metas[0].train_loss > 0
    assert np.isnan(metas[1].train_loss)


def test_two_campaigns_each_have_their_own_clients():
    host = host_of(campaign(clients=(1,), how="lazy"), campaign(clients=(3,), how="short"))
    rows, metas = rows_of(host, [0, 1, 3])
    assert not rows[1].any()
    assert [meta.note for meta in metas] == ["", "1/0/1", "3/0/1"]
    np.testing.assert_array_equal(rows[2], 2 * rows_of(host_of(campaign(clients=(3,))), [3])[0][0])


def test_errors_name_round_and_client_and_refusals_stay_what_they_are():
    with pytest.raises(RunError, match=r"^round 2, stage train, client 3: KeyError: 'in the attack'$"):
        rows_of(host_of(campaign(how="wrong")), [0, 3])
    with pytest.raises(RunError, match=r"^round 2, stage search, client 3: broken$"):
        rows_of(host_of(campaign(how="located")), [3])
    with pytest.raises(DataError, match="no such file"):
        rows_of(host_of(campaign(how="refused")), [3])


def test_the_pool_holds_the_given_clients_data_in_their_order():
    host = host_of()
    pool = host.pool(np.array([1, 3]))
    both = [host.data_of(1), host.data_of(3)]
    np.testing.assert_array_equal(pool.labels, np.concatenate([data.labels for data in both]))
    part = pool.take(np.array([0, 19, 5]))
    images = np.concatenate([data.images for data in both])
    np.testing.assert_array_equal(part.images, images[[0, 19, 5]])
    np.testing.assert_array_equal(part.labels, pool.labels[[0, 19, 5]])
