"""The `auto` rules, reservations that the machines do not have, and what client actors reserve."""

from __future__ import annotations

import pytest

from raysim.backends.capacity import Capacity, ClientActors, NodeCapacity
from raysim.composition.resources import client_actors, detection_actors, resolved
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


# -- devices ----------------------------------------------------------------------------------------------


@pytest.fixture
def gpu_here(monkeypatch):
    """This process has a GPU; call it to take that away again."""
    monkeypatch.setattr("raysim.backends.devices.obstacle", lambda: "")
    return lambda: monkeypatch.setattr("raysim.backends.devices.obstacle", lambda: "none is there")


def test_the_device_is_decided_where_the_work_is_done_here(gpu_here):
    assert settled(Capacity(gpus=1)).device == "cuda"
    assert settled(Capacity(gpus=1), device="cpu").device == "cpu"
    assert settled(Capacity()).device == "cpu"
    assert settled(Capacity(), device="cuda").device == "cuda"
    gpu_here()
    assert settled(Capacity(gpus=1)).device == "cpu"
    error = refused(Capacity(), device="cuda")
    assert (error.key, error.value, error.nearest) == ("resources.device", "cuda", "cpu")
    assert "none is there" in error.rule


@pytest.mark.parametrize("here", [True, False])
def test_the_device_is_left_to_the_processes_of_a_cluster_that_has_gpus(gpu_here, here):
    """Whatever the driver's own machine has: a head without GPUs is no reason to train on CPUs."""
    if not here:
        gpu_here()
    cluster = Capacity(cpus=4, gpus=1, elsewhere=True)
    assert settled(cluster).device == "auto"
    assert settled(cluster, device="cuda").device == "cuda"
    assert settled(cluster, device="cpu").device == "cpu"
    bare = Capacity(cpus=4, elsewhere=True)
    assert settled(bare).device == "cpu"
    assert settled(bare, elastic=True).device == "auto"
    assert settled(bare, elastic=True, device="cuda").device == "cuda"
    error = refused(bare, device="cuda")
    assert (error.key, error.nearest) == ("resources.device", "cpu")
    assert "the cluster has no GPUs" in error.rule


# -- reservations -----------------------------------------------------------------------------------------


def test_one_actor_a_client_is_refused_where_the_machines_do_not_have_it():
    error = refused(Capacity(cpus=8, gpus=1), client_gpus=0.2, clients_per_actor=1)
    assert error.key == "resources.client_gpus"
    assert error.rule == "10 clients with 0.2 each need 2, and there are 1 GPUs"
    assert (error.value, error.nearest) == (0.2, 0.1)
    error = refused(Capacity(cpus=4), client_cpus=0.5, clients_per_actor=1)
    assert error.key == "resources.client_cpus"
    assert (
        error.rule
        == "10 clients with 0.5 each need 5, and there are 3 CPUs (one is kept for the detection tasks)"
    )
    assert error.nearest == 0.3
    error = refused(Capacity(cpus=8, gpus=2), clients=5, client_gpus=0.4, clients_per_actor=1)
    assert (error.key, error.value, error.nearest) == ("resources.clients_per_actor", 1, 2)
    assert "4 fit beside what the server keeps, and 5 are asked for" in error.rule


def test_where_nothing_fits_at_all_it_is_refused():
    error = refused(Capacity(cpus=8), client_gpus=0.1)
    assert error.rule == "one client needs 0.1, and there are 0 GPUs"
    assert error.nearest == 0
    assert refused(Capacity(cpus=1), client_cpus=0.01).nearest == 0
    two = Capacity(cpus=4, nodes=(NodeCapacity(2), NodeCapacity(2)))
    error = refused(two, client_cpus=2.5)
    assert (error.key, error.value) == ("resources.client_cpus", 2.5)
    assert "no two GPUs or nodes serve together" in error.rule


def test_the_nearest_share_is_one_that_fits():
    for capacity, values in (
        (Capacity(cpus=8, gpus=1), {"clients": 7, "client_gpus": 0.9}),
        (Capacity(cpus=8, gpus=2), {"clients": 6, "client_gpus": 0.4}),
        (Capacity(cpus=8, gpus=3), {"clients": 11, "client_gpus": 0.3}),
    ):
        share = refused(capacity, **values, clients_per_actor=1).nearest
        assert 0 < share < values["client_gpus"]
        assert settled(capacity, **{**values, "client_gpus": share}, clients_per_actor=1).client_gpus == share


def test_actors_of_several_clients_are_refused_where_they_do_not_fit():
    """Each reserves for one client, for it trains one at a time: ten of 0.2 are two GPUs, five are one."""
    error = refused(
        Capacity(cpus=8, gpus=1), clients=12, client_gpus=0.3, clients_per_actor=4, server_gpus=0.2
    )
    assert (error.key, error.value, error.nearest) == ("resources.clients_per_actor", 4, 6)
    assert settled(Capacity(cpus=8, gpus=1), client_gpus=0.2, clients_per_actor=2).clients_per_actor == 2
    error = refused(Capacity(cpus=8, gpus=1), client_gpus=0.25, clients_per_actor=2)
    assert "5 actors with 0.25 each need 1.25" in error.rule
    assert settled(Capacity(), clients_per_actor=4).clients_per_actor == 4


def test_an_autoscaler_may_bring_what_is_not_there():
    assert settled(Capacity(cpus=8), client_gpus=0.5, clients_per_actor=1, elastic=True).client_gpus == 0.5
    assert actors_of(Capacity(cpus=8), 10, client_gpus=0.5, clients_per_actor=1, elastic=True).count == 10
    assert actors_of(Capacity(cpus=8), 10, client_gpus=0.5, elastic=True).count == 1
    assert actors_of(Capacity(cpus=8, gpus=2), 10, client_gpus=0.5, elastic=True).count == 4


def test_what_an_autoscaler_brings_at_most_is_a_bound():
    """Ten clients with half a GPU each need five GPUs: four are too few, whatever there is now."""
    literal = {"client_gpus": 0.5, "clients_per_actor": 1, "elastic": True}
    assert settled(Capacity(cpus=8), **literal, elastic_gpus=5).client_gpus == 0.5
    assert settled(Capacity(cpus=8, gpus=5), **literal, elastic_gpus=4).client_gpus == 0.5
    error = refused(Capacity(cpus=8), **literal, elastic_gpus=4)
    assert (error.key, error.nearest) == ("resources.client_gpus", 0.3333)
    assert "10 clients with 0.5 each need 5, and the autoscaler brings 4 GPUs" in error.rule
    error = refused(Capacity(cpus=8), client_cpus=2.0, clients_per_actor=1, elastic=True, elastic_cpus=16)
    assert (error.key, error.nearest) == ("resources.client_cpus", 1.5)
    told = Capacity(cpus=8, most_cpus=32, most_gpus=4)
    assert refused(told, **literal).nearest == 0.3333
    assert settled(told, **literal, elastic_gpus=5).client_gpus == 0.5
    assert settled(told, client_cpus=3.0, clients_per_actor=1, elastic=True).client_cpus == 3.0
    with pytest.raises(
        ConfigError, match=r"resources.elastic_gpus: must be left out unless resources.elastic"
    ):
        settled(Capacity(), elastic_gpus=4)


def test_actors_may_be_joined_by_others_where_machines_may_join_and_nothing_is_reserved():
    assert actors_of(Capacity(cpus=4), 10, elastic=True).most == 10
    for fixed in ({}, {"elastic": True, "clients_per_actor": 3}, {"elastic": True, "client_cpus": 0.5}):
        assert actors_of(Capacity(cpus=4), 10, **fixed).most == 0


@pytest.mark.parametrize(("wanted", "nearest"), [(1.5, 1.0), (2.25, 2.0)])
def test_the_servers_gpus_are_a_share_of_one_or_whole_ones(wanted, nearest):
    error = refused(Capacity(cpus=8, gpus=4, elsewhere=True), server_gpus=wanted)
    assert (error.key, error.nearest) == ("resources.server_gpus", nearest)


def test_the_server_cannot_keep_what_is_not_there():
    error = refused(Capacity(cpus=8, gpus=1, elsewhere=True), server_gpus=2)
    assert (error.key, error.value) == ("resources.server_gpus", 2)


# -- client actors -----------------------------------------------------------------------------------


def actors_of(capacity, clients, together=1, **resources):
    config = config_of(clients, **resources).with_values(training={"clients_per_stack": together})
    return client_actors(resolved(config, Layout.flat(10), capacity), capacity)


def test_without_reservations_there_is_an_actor_a_worker_but_no_more_than_clients():
    assert actors_of(Capacity(cpus=4), 100) == ClientActors(4, lend=True)
    assert actors_of(Capacity(cpus=4), 3) == ClientActors(3, lend=True)
    assert actors_of(Capacity(cpus=4), 100, threads=2).count == 2


@pytest.mark.parametrize(
    ("clients", "per_actor", "count"),
    [(10, 1, 10), (10, 4, 3), (10, 10, 1), (3, 10, 1)],
)
def test_clients_per_actor_decides_how_many_there_are(clients, per_actor, count):
    """An actor reserves what one client takes while it trains, however many it hosts."""
    shares = {"client_gpus": 0.05, "client_cpus": 0.1}
    found = actors_of(Capacity(cpus=100, gpus=10), clients, clients_per_actor=per_actor, **shares)
    assert (found.count, found.gpus, found.cpus) == (count, 0.05, 0.1)
    assert actors_of(Capacity(), clients, clients_per_actor=per_actor) == ClientActors(count, lend=True)


@pytest.mark.parametrize(
    ("capacity", "clients", "resources", "count"),
    [
        (Capacity(cpus=2, gpus=1), 500, {"client_gpus": 0.25}, 4),
        (Capacity(cpus=2, gpus=1), 3, {"client_gpus": 0.25}, 3),  # never more than there are clients
        (Capacity(cpus=2, gpus=2), 500, {"client_gpus": 0.4}, 4),  # none has shares of two GPUs
        (Capacity(cpus=25, gpus=1), 500, {"client_gpus": 0.01}, 100),
        (Capacity(cpus=4), 500, {"client_cpus": 0.5}, 6),  # one CPU is kept
        (Capacity(cpus=3, gpus=1), 500, {"client_gpus": 0.25, "client_cpus": 1.0}, 2),
        (Capacity(cpus=9, gpus=2, elsewhere=True), 500, {"client_gpus": 0.25, "server_gpus": 0.5}, 6),
        (Capacity(cpus=9, gpus=2, elsewhere=True), 500, {"client_gpus": 0.25, "server_gpus": 1}, 4),
        (Capacity(cpus=9, gpus=2), 500, {"client_gpus": 0.25, "server_gpus": 1, "device": "cpu"}, 8),
    ],
)
def test_as_many_actors_as_fit_run_at_once_and_the_cohort_takes_turns(capacity, clients, resources, count):
    assert actors_of(capacity, clients, **resources).count == count


@pytest.mark.parametrize(
    ("capacity", "resources", "count", "gpus"),
    [
        (Capacity(cpus=2, gpus=1), {"client_gpus": 0.01}, 8, 0.125),
        (Capacity(cpus=2, gpus=4), {"client_gpus": 0.01}, 8, 0.5),  # two on each GPU, and none idle
        (Capacity(cpus=2, gpus=4), {"client_gpus": 0.25}, 8, 0.5),
        (Capacity(cpus=1, gpus=3), {"client_gpus": 0.5}, 4, 0.5),  # with two thirds only three would fit
        (Capacity(cpus=2, gpus=16), {"client_gpus": 0.5}, 16, 1.0),  # every GPU has one
        (Capacity(cpus=4, gpus=1), {"client_gpus": 0.01, "threads": 2}, 8, 0.125),
        (Capacity(cpus=2), {"client_cpus": 0.01}, 8, 0.01),
    ],
)
def test_cpus_bound_how_many_run_at_once_and_gpus_are_shared_out_evenly(capacity, resources, count, gpus):
    found = actors_of(capacity, 500, **resources)
    assert (found.count, found.gpus or found.cpus) == (count, gpus)
    assert capacity.holds(found.cpus, found.gpus) >= count


def test_a_group_that_trains_together_takes_one_place():
    """15 clients in stacks of 5 keep three actors busy, each with the share that is said."""
    found = actors_of(Capacity(cpus=2, gpus=1), 15, together=5, client_gpus=0.25)
    assert (found.count, found.gpus) == (3, 0.25)


def test_nodes_count_one_by_one():
    """Three CPUs on each of two nodes hold one actor of two CPUs each, and a task has a CPU left."""
    nodes = (NodeCapacity(3), NodeCapacity(3))
    assert actors_of(Capacity(cpus=6, nodes=nodes), 10, client_cpus=2).count == 2
    assert actors_of(Capacity(cpus=6), 10, client_cpus=2).count == 2
    head_and_worker = (NodeCapacity(8), NodeCapacity(2, gpus=4))
    shares = {"client_cpus": 1.0, "client_gpus": 0.5}
    assert actors_of(Capacity(cpus=10, gpus=4, nodes=head_and_worker), 10, **shares).count == 2


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, (1.0, 1.0)),
        ({"server_gpus": 0.5}, (0.5,)),
        ({"server_gpus": 0}, ()),
        ({"device": "cpu"}, ()),
    ],
)
def test_where_nobody_trains_every_gpu_is_there_for_detection(resources, expected):
    capacity = Capacity(cpus=4, gpus=2, elsewhere=True)
    found = detection_actors(resolved(config_of(10, **resources), Layout.flat(10), capacity), capacity)
    assert (found.count, found.detection_gpus) == (0, expected)


def test_what_the_server_keeps_fits_beside_the_actors():
    """Whoever places them: where bundles of all these sizes fit, none has to span two GPUs."""
    capacity = Capacity(cpus=8, gpus=2, elsewhere=True)
    for share in (0.1, 0.2, 0.25, 0.3, 0.5, 1.0):
        for kept in (0.2, 0.5, 1.0):
            found = actors_of(capacity, 100, client_gpus=share, server_gpus=kept)
            first = int((1 - kept) / share + 1e-9)
            assert found.count == first + int(1 / share + 1e-9)
            assert found.detection_gpus == (kept,)
            assert not found.lend
