"""The contract of an attack: honest in every hook, and what its contexts hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from raysim.attack import Attack, ClientContext, View, Visibility
from raysim.backends.base import InProcessBackend
from raysim.context import Context, Setting
from raysim.data.client_data import ClientData, DataPool
from raysim.errors import RunError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from tests.small_models import samples


def client_context(**changes):
    values = {
        "seed": 1, "round": 2, "client": 7, "colluder": 0, "num_colluders": 2, "num_classes": 3,
        "layout": Layout.flat(4), "global_vector": np.zeros(4, np.float32), "previous_global_vector": None,
        "trainer": None,
    }  # fmt: skip
    return ClientContext(**{**values, **changes})


def test_every_hook_is_honest_by_default():
    attack = Attack()
    data = ClientData(*samples(5))
    backend = InProcessBackend()
    vector = np.zeros(4, np.float32)
    context = Context(backend, 0, "attack 0", 0, 1, Layout.flat(4), backend.put(vector), vector)
    own = Updates.from_array(np.ones((2, 4)), backend)
    assert (attack.visibility, attack.trains) == (Visibility.OWN, True)
    assert attack.check(Setting(1, 1, 1, 1, 2)) is None
    assert attack.init(context) == {}
    assert attack.poison_data(data, client_context()) is data
    submitted = np.arange(4, dtype=np.float32)
    assert (
        attack.train(lambda given: submitted if given is data else None, data, client_context()) is submitted
    )
    assert attack.craft({"a": 1}, View(own, None, 5), context) == (None, {"a": 1})
    assert attack.diagnostics({}) == {}
    assert attack.triggered_test(None) is None


def test_attacks_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Attack().anything = 1


def test_a_clients_generator_is_its_own_in_every_round():
    def first(**changes):
        return client_context(**changes).generator("noise").random()

    assert first() == first()
    assert (
        len(
            {
                first(),
                first(client=8),
                first(round=3),
                first(seed=2),
                client_context().generator("x").random(),
            }
        )
        == 5
    )


def test_colluders_share_a_generator_that_never_changes():
    def first(**changes):
        return client_context(**changes).shared_generator("trigger").random()

    assert first() == first(client=8, round=9, colluder=1)
    assert first() != first(seed=2)
    assert first() != client_context().shared_generator("other").random()


def test_the_pool_reads_on_demand_and_is_refused_where_there_is_none():
    with pytest.raises(RunError, match=r"stage train, client 7: this attack needs the colluders' data"):
        client_context().colluders_data()
    data = ClientData(*samples(6))
    pool = client_context(pool=lambda: DataPool.of(data)).colluders_data()
    assert len(pool) == len(data) == 6
    np.testing.assert_array_equal(pool.labels, data.labels)
    part = pool.take(np.array([4, 1]))
    np.testing.assert_array_equal(part.images, data.images[[4, 1]])
    np.testing.assert_array_equal(part.labels, data.labels[[4, 1]])


def test_remarks_are_kept_once():
    context = client_context()
    for text in ("no source class", "clipped", "no source class"):
        context.note(text)
    assert context.notes == ["no source class", "clipped"]
    assert client_context().notes == []
