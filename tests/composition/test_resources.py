"""The `auto` rules, reservations that the machines do not have, and what client actors reserve."""

from __future__ import annotations

import pytest

from raysim.backends.capacity import Capacity, ClientActors
from raysim.composition.resources import client_actors, clients_per_actor, resolved
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import CHUNK_VALUES, chunk_columns


def config_of(clients=10, **resources):
    return ExperimentConfig.from_mapping({"population": {"clients": clients}, "resources": resources})


def settled(capacity=Capacity(), dim=5000, **values):
    return resolved(config_of(**values), Layout.flat(dim), capacity).resources


def refused(capacity, **values):
    with pytest.raises(ConfigError) as caught:
        settled(capacity, **values)
    return caught.value


# -- tiles ------------------------------------------------------------------------------------------------


def test_the_cohort_and_the_tiles_are_written_down():
    config = resolved(config_of(clients=12), Layout.flat(5000), Capacity())
    assert config.population.cohort == 12
    assert config.resources.tile_bytes == 4 * CHUNK_VALUES == 2**26
    assert config.resources.column_shards == 1


def test_tiles_shrink_with_the_object_store_but_not_below_a_mebibyte():
    assert settled(Capacity(object_store_bytes=2**29)).tile_bytes == 2**25
    assert settled(Capacity(object_store_bytes=2**40)).tile_bytes == 2**26
    assert settled(Capacity(object_store_bytes=2**20)).tile_bytes == 2**20
    assert settled(Capacity(object_store_bytes=2**20), tile_bytes=8192).tile_bytes == 8192


def test_the_number_of_shards_follows_from_the_tiles():
    """1,000 clients: chunks of 16,384 columns, 64 MiB each."""
    assert chunk_columns(1000) == 16384
    found = {
        tile_bytes: settled(dim=100_000, clients=1000, tile_bytes=tile_bytes).column_shards
        for tile_bytes in (4096, 2**26, 2**27, 2**30)
    }
    assert found == {4096: 7, 2**26: 7, 2**27: 4, 2**30: 1}


def test_resolving_again_changes_nothing():
    capacity = Capacity(cpus=4, gpus=1, object_store_bytes=2**29)
    config = resolved(config_of(client_gpus=0.1, device="cpu"), Layout.flat(5000), capacity)
    assert resolved(config, Layout.flat(5000), capacity) == config


def test_the_device_is_decided():
    assert settled(Capacity()).device == "cpu"
    assert settled(Capacity(gpus=1), device="cpu").device == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("raysim.composition.resources._cuda", lambda: False)
    assert settled(Capacity(gpus=1)).device == "cpu"
    error = refused(Capacity(), device="cuda")
    assert (error.key, error.value, error.nearest) == ("resources.device", "cuda", "cpu")
    monkeypatch.setattr("raysim.composition.resources._cuda", lambda: True)
    assert settled(Capacity(gpus=1)).device == "cuda"
    assert settled(Capacity()).device == "cpu"
    assert settled(Capacity(), device="cuda").device == "cuda"


# -- reservations -----------------------------------------------------------------------------------------


def test_more_than_the_machines_have_is_refused_with_what_they_have():
    error = refused(Capacity(cpus=8, gpus=1), client_gpus=0.2)
    assert error.key == "resources.client_gpus"
    assert error.rule == "10 clients with 0.2 each need 2, and there are 1 GPUs"
    assert (error.value, error.nearest) == (0.2, 0.1)
    error = refused(Capacity(cpus=4), client_cpus=0.5)
    assert error.key == "resources.client_cpus"
    assert (
        error.rule
        == "10 clients with 0.5 each need 5, and there are 3 CPUs (one is kept for the detection tasks)"
    )
    assert error.nearest == 0.3
    assert refused(Capacity(cpus=8), client_gpus=0.1).nearest == 0
    assert refused(Capacity(cpus=1), client_cpus=0.01).nearest == 0


def test_the_nearest_share_is_one_that_fits():
    for capacity, values in (
        (Capacity(cpus=8, gpus=1), {"clients": 7, "client_gpus": 0.9}),
        (Capacity(cpus=8, gpus=2), {"clients": 5, "client_gpus": 0.4}),
        (Capacity(cpus=8, gpus=3), {"clients": 10, "client_gpus": 0.3}),
    ):
        share = refused(capacity, **values).nearest
        assert 0 < share < values["client_gpus"]
        assert settled(capacity, **{**values, "client_gpus": share}).client_gpus == share


def test_no_client_has_shares_of_two_gpus():
    """Five times 0.4 is two GPUs, but each GPU has room for two clients only."""
    error = refused(Capacity(cpus=8, gpus=2), clients=5, client_gpus=0.4)
    assert error.rule == "5 clients with 0.4 each do not fit 2 GPUs: none spans two"
    assert error.nearest == 0.3333


@pytest.mark.parametrize(
    ("capacity", "clients", "share", "expected"),
    [
        (Capacity(cpus=2, gpus=1), 10, 0.1, 5),
        (Capacity(cpus=3, gpus=1), 10, 0.1, 5),  # 3 actors of 4 would reserve 1.2 GPUs
        (Capacity(cpus=16, gpus=1), 10, 0.1, 1),
        (Capacity(cpus=2, gpus=4), 8, 0.5, 2),  # never more than one GPU an actor
        (Capacity(cpus=1, gpus=1), 3, 0.3, 3),
    ],
)
def test_auto_fills_gpus_with_as_many_actors_as_there_are_cpus(capacity, clients, share, expected):
    assert settled(capacity, clients=clients, client_gpus=share).clients_per_actor == expected


def test_auto_reserves_cpus_as_well():
    assert settled(Capacity(cpus=4), client_cpus=0.3).clients_per_actor == 5  # 4 actors of 3 would need 3.6
    assert settled(Capacity(cpus=4), client_cpus=0.1).clients_per_actor == 3
    assert settled(Capacity(cpus=4)).clients_per_actor == "auto"


def test_actors_whose_reservations_do_not_fit_are_refused():
    error = refused(Capacity(cpus=8, gpus=2), clients=8, client_gpus=0.25, clients_per_actor=5)
    assert (error.key, error.value, error.nearest) == ("resources.clients_per_actor", 5, 4)
    error = refused(Capacity(cpus=8, gpus=1), client_gpus=0.1, clients_per_actor=4)
    assert (error.value, error.nearest) == (4, 5)
    error = refused(Capacity(cpus=4), client_cpus=0.3, clients_per_actor=4)
    assert "do not fit 0 GPUs and 3 CPUs" in error.rule
    assert settled(Capacity(cpus=8, gpus=1), client_gpus=0.1, clients_per_actor=50).clients_per_actor == 50
    assert settled(Capacity(), clients_per_actor=4).clients_per_actor == 4


def test_what_is_accepted_fits():
    """Every cohort, share and number of GPUs: the actors' sums fit GPU by GPU, and none was turned away in vain."""
    for cohort in range(1, 13):
        for share in (0.1, 0.2, 0.25, 0.3, 0.5, 1.0):
            for gpus in (1, 2, 3):
                config = config_of(clients=cohort, client_gpus=share)
                per_gpu = int(1 / share + 1e-9)
                try:
                    size = clients_per_actor(config, Capacity(cpus=4, gpus=gpus))
                except ConfigError:
                    assert cohort > per_gpu * gpus
                    continue
                actors = -(-cohort // size)
                assert size * share <= 1 + 1e-9
                assert actors <= int(1 / (size * share) + 1e-9) * gpus


# -- client actors -----------------------------------------------------------------------------------


def actors_of(capacity, clients, workers=2, **resources):
    return client_actors(resolved(config_of(clients, **resources), Layout.flat(10), capacity), workers)


def test_without_reservations_there_is_an_actor_a_worker_but_no_more_than_clients():
    assert actors_of(Capacity(cpus=4), 100, workers=4) == ClientActors(4)
    assert actors_of(Capacity(cpus=4), 3, workers=4) == ClientActors(3)


@pytest.mark.parametrize(
    ("clients", "per_actor", "count", "hosted"),
    [(10, 1, 10, 1), (10, 4, 3, 4), (10, 10, 1, 10), (3, 10, 1, 3)],
)
def test_clients_per_actor_decides_how_many_there_are(clients, per_actor, count, hosted):
    found = actors_of(
        Capacity(cpus=100, gpus=10), clients, clients_per_actor=per_actor, client_gpus=0.05, client_cpus=0.1
    )
    assert (found.count, found.gpus, found.cpus) == pytest.approx((count, 0.05 * hosted, 0.1 * hosted))
    assert actors_of(Capacity(), clients, clients_per_actor=per_actor) == ClientActors(count)


def test_reservations_count_also_where_the_number_of_actors_is_left_to_the_rule():
    """Shares of a processor as well as of a GPU: what a configuration asks for is what the scheduler is told."""
    found = actors_of(Capacity(cpus=4), 6, client_cpus=0.5)
    assert found == ClientActors(3, cpus=1.0)
    found = actors_of(Capacity(cpus=4, gpus=1), 6, client_gpus=0.1)
    assert (found.count, found.gpus, found.cpus) == pytest.approx((3, 0.2, 0))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.5, 1.0])
def test_the_sum_of_all_actors_never_exceeds_the_machines(share):
    for clients in range(1, int(2 / share)):
        if clients > 2 * int(1 / share + 1e-9):
            continue
        found = actors_of(Capacity(cpus=3, gpus=2), clients, client_gpus=share)
        assert found.count * found.gpus <= 2 + 1e-9
        assert found.gpus <= 1
