"""What methods are given to work with: parameters, server data, generators, tasks."""

from __future__ import annotations

import numpy as np
import pytest

from raysim.backends.base import InProcessBackend
from raysim.context import Context, ServerData, Setting
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from tests.small_models import SmallNet, samples


@pytest.fixture
def context():
    model = SmallNet("batchnorm").build()
    layout = Layout.of(model)
    backend = InProcessBackend()
    vector = layout.vector(model)
    return Context(
        backend=backend, seed=5, role="defense", round=2, rounds=9, layout=layout,
        published=backend.put(vector), global_vector=vector,
    )  # fmt: skip


def changed(context, **values):
    return Context(**{**vars(context), **values})


def test_global_parameters_leave_out_the_buffers(context):
    assert context.global_parameters.shape == (113,)
    assert np.shares_memory(context.global_parameters, context.global_vector)
    assert len(context.global_vector) == 124


def test_a_matrix_without_a_model_or_server_data_is_refused(context):
    with pytest.raises(ConfigError, match=r"^model: this method needs the model"):
        _ = context.model
    with pytest.raises(
        ConfigError, match=r"^server_data.samples: must be at least 3 .*received 0; nearest valid: 3"
    ):
        context.require_server_data(3)
    factory, held = SmallNet(), ServerData(*samples(2))
    full = changed(context, factory=factory, server_data=held)
    assert full.model is factory
    assert full.require_server_data(2) is held
    assert len(held) == 2
    with pytest.raises(ConfigError, match="received 2; nearest valid: 3"):
        full.require_server_data(3)


def test_server_data_counts_the_classes_it_has():
    held = ServerData(np.zeros((5, 1, 2, 2), np.float32), np.array([7, 2, 7, 0, 7]))
    made = Setting.of(5, num_malicious=1, rounds=2, num_classes=8, server_labels=held.labels)
    assert made == Setting(5, 5, 1, 2, 8, 5, {0: 1, 2: 1, 7: 3})
    assert Setting.of(5, population=9, num_malicious=0, rounds=1, num_classes=3) == Setting(
        9, 5, 0, 1, 3, 0, {}
    )
    assert list(held.class_counts.items()) == [(0, 1), (2, 1), (7, 3)]
    assert ServerData(held.images[:0], held.labels[:0]).class_counts == {}


def test_generators_are_keyed_by_seed_role_round_and_key(context):
    def draw(ctx, *key):
        return ctx.generator(*key).random(3).tolist()

    assert draw(context, "a") == draw(context, "a")
    others = [
        draw(context, "b"),
        draw(changed(context, seed=6), "a"),
        draw(changed(context, role="attack 0"), "a"),
        draw(changed(context, round=3), "a"),
        context.lasting_generator("a").random(3).tolist(),
    ]
    assert draw(context, "a") not in others
    assert len({tuple(other) for other in others}) == 5


def test_lasting_generators_are_the_same_in_every_round(context):
    later = changed(context, round=3)
    assert context.lasting_generator("a").random() == later.lasting_generator("a").random()
    assert context.lasting_generator("a").random() != later.lasting_generator("b").random()


def test_tasks_run_through_the_backend_under_their_stage(context):
    shared = context.put(np.array([10, 20]))
    assert context.run("one", lambda a, b: int(a + b.sum()), 1, shared) == 31
    assert context.map("many", lambda item, more: item * more, [1, 2, 3], 10) == [10, 20, 30]
    with context.stage("own"):
        pass
    names = [(span.stage, span.task) for span in context.backend.telemetry.drain()]
    assert names == [
        ("one", -1),
        ("one", 0),
        ("many", -1),
        ("many", 0),
        ("many", 1),
        ("many", 2),
        ("own", -1),
    ]


def test_map_pairs_meets_every_pair_of_blocks_once(context):
    blocks = [np.array([1.0, 2.0]), np.array([3.0]), np.array([5.0, 7.0])]
    found = context.map_pairs("pairs", lambda a, b, scale: scale * np.outer(a, b), blocks, 2.0)
    assert list(found) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    for (i, j), product in found.items():
        np.testing.assert_array_equal(product, 2 * np.outer(blocks[i], blocks[j]))
    assert len(context.backend.telemetry.drain()) == 1 + 6
