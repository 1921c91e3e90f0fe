"""The engine on Ray: the same bytes as in-process, placement, over-subscription, and recovery."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import raysim
from raysim import ConfigError
from raysim.errors import LostWork, RunError

pytestmark = pytest.mark.ray


def digests(result):
    return result.digest, (result.path / "clients.parquet").read_bytes()


@pytest.mark.parametrize(
    ("model", "defense", "per_actor"),
    [
        ({"name": "lenet_wang", "width": 0.1}, "layercam_ae", 4),
        ({"name": "dba_resnet18", "width": 0.1}, "krum", 6),
    ],
    ids=["dropout", "batchnorm"],
)
def test_ray_and_in_process_agree_for_any_number_of_actors(
    ray_cluster, tiny, tmp_path, model, defense, per_actor
):
    """Actors of 4, 4 and 2 clients, or of 6 and 4, whose updates are cut into small tiles; those that train in groups:
    tests/engine/test_cohort_training.py."""
    config = {**tiny, "model": model, "defense": defense}
    resources = {"clients_per_actor": per_actor, "tile_bytes": 4096}
    here = raysim.run(config, name="here", out=tmp_path, backend="inprocess")
    there = raysim.run({**config, "resources": resources}, name="there", out=tmp_path)
    assert digests(there) == digests(here)


def test_clients_share_a_gpu_and_the_scheduler_knows(ray_cluster, tiny):
    """Actors with a quarter of one logical GPU each, one a client: all on that GPU, and nothing is left of it."""
    import ray

    from raysim.backends.ray_backend import RayBackend
    from raysim.backends.ray_connection import capacity
    from raysim.composition.compose import compose
    from raysim.composition.resources import client_actors
    from raysim.config.schema import ExperimentConfig

    config = ExperimentConfig.from_mapping(
        {**tiny, "population": {"clients": 4}, "attack": None, "defense": "fedavg",
         "resources": {"client_gpus": 0.25, "clients_per_actor": 1, "device": "cpu"}}
    )  # fmt: skip
    experiment = compose(config, capacity())
    backend = RayBackend(client_actors(experiment.config, capacity()), workers=2)
    try:
        backend.start_clients(host_of_nothing, ())
        places = backend.client_places()
        assert [place["gpus"] for place in places] == [[0]] * 4
        assert len({place["pid"] for place in places}) == 4
        assert ray.available_resources().get("GPU", 0) == 0
    finally:
        backend.close()


def test_oversubscription_is_refused_before_any_actor_starts(ray_cluster, tiny, tmp_path):
    from raysim.backends.ray_connection import capacity
    from raysim.composition.compose import compose
    from raysim.config.schema import ExperimentConfig

    def refused(**resources):
        config = ExperimentConfig.from_mapping({**tiny, "resources": resources})
        with pytest.raises(ConfigError) as caught:
            compose(config, capacity())
        return caught.value

    assert refused(client_gpus=0.2, clients_per_actor=1).key == "resources.client_gpus"
    assert refused(client_gpus=0.2, clients_per_actor=1).nearest == pytest.approx(0.1)
    assert refused(client_cpus=1.5).key == "resources.client_cpus"
    literal = {"client_gpus": 0.2, "clients_per_actor": 1}
    with pytest.raises(ConfigError, match=r"resources.client_gpus: 10 clients with 0.2 each need 2"):
        raysim.run({**tiny, "resources": literal}, name="over", out=tmp_path)
    assert not (tmp_path / "over").exists()


def test_clients_whose_host_keeps_dying_are_recorded_as_lost(ray_cluster, tiny, monkeypatch):
    """A host of two is lost; the call in two parts then loses one host after the other. Without further retries."""
    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_backend import RayBackend
    from raysim.composition.compose import compose
    from raysim.config.schema import ExperimentConfig
    from raysim.engine.simulation import initial_state, rounds, start

    monkeypatch.setattr("raysim.backends.ray_backend.RETRIES", 0)
    config = ExperimentConfig.from_mapping(
        {**tiny, "rounds": 1, "population": {"clients": 4, "malicious": 2}, "defense": "fedavg",
         "attack": "tests.faulty_methods:DieAlways",
         "resources": {"clients_per_actor": 2, "lost_clients": "drop"}}
    )  # fmt: skip
    backend = RayBackend(ClientActors(2), workers=2)
    try:
        experiment = compose(config).published(backend)
        start(experiment, backend)
        ((state, record),) = rounds(experiment, backend, initial_state(experiment, backend))
    finally:
        backend.close()
    assert len(record.clients) == 4
    assert {row["client"] for row in record.clients if row["reason"].startswith("lost")} == {2, 3}
    assert record.row["clients"] == 2
    assert np.isfinite(state.global_vector).all()


def test_an_error_in_a_task_is_raised_as_it_was_there(ray_cluster):
    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_backend import RayBackend

    backend = RayBackend(ClientActors(0), workers=1)
    with pytest.raises(RunError, match=r"stage crash: ZeroDivisionError") as caught:
        backend.map("crash", divmod, [(1, 0)])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_is_lost_with_a_node_is_lost_work_also_when_the_server_reads_it(ray_cluster, monkeypatch):
    """So that the round is done again, as it is when a task misses it."""
    import ray

    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_backend import RayBackend

    backend = RayBackend(ClientActors(0), workers=1)
    reference = backend.put(np.arange(3))
    assert backend.get(reference).tolist() == [0, 1, 2]

    def gone(_):
        raise ray.exceptions.ObjectLostError(reference.object.hex(), None, "a node")

    monkeypatch.setattr("raysim.backends.ray_backend.ray.get", gone)
    with pytest.raises(LostWork, match="left behind"):
        backend.get(reference)


def test_a_cohort_takes_turns_on_the_gpus_there_are(ray_cluster, tiny, tmp_path):
    """Half of a GPU while it trains: two actors for ten clients on one logical GPU, and the bytes of any other run.

    Ray assigns the GPU and torch finds none: with device=auto clients train on the CPU, which is said and written down.
    """
    told = []
    config = {**tiny, "rounds": 2, "training": {"clients_per_stack": 1}}
    shared = {**config, "resources": {"client_gpus": 0.5}}
    result = raysim.run(shared, name="shared", out=tmp_path, observe=told.append)
    assert result.config.resources.device == "auto"
    (place,) = json.loads((result.path / "environment.json").read_text())["clients_train_on"]
    assert (place["device"], place["gpus"], place["actors"]) == ("cpu", [0], 2)
    (remark,) = [event.remark for event in told if event.remark]
    assert place["reason"] in remark
    assert "its clients train on CPUs" in remark
    alone = raysim.run(config, name="alone", out=tmp_path, backend="inprocess")
    assert digests(result) == digests(alone)
    (place,) = json.loads((alone.path / "environment.json").read_text())["clients_train_on"]
    assert (place["device"], place["actors"]) == ("cpu", 1)


def test_a_gpu_that_must_be_used_and_is_only_logical_is_refused(ray_cluster, tiny, tmp_path):
    config = {**tiny, "resources": {"client_gpus": 1, "device": "cuda"}}
    with pytest.raises(ConfigError, match=r"resources\.device") as caught:
        raysim.run(config, name="logical", out=tmp_path)
    assert (caught.value.value, caught.value.nearest) == ("cuda", "cpu")


def test_the_actors_that_train_lend_their_gpus_to_detection(ray_cluster, monkeypatch):
    """Three actors for what computes on GPUs, in order; without a GPU in them it is done as tasks, all the same."""
    from raysim.backends.base import ACCELERATED
    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_backend import RayBackend

    backend = RayBackend(ClientActors(3, gpus=0.25, lend=True), workers=2)
    try:
        backend.start_clients(host_of_nothing, ())
        tasks = backend.map("twice", doubled, [(1,), (2,), (3,)], needs=ACCELERATED)
        assert [answer for answer, _ in tasks] == [2, 4, 6]
        actors = {place["pid"] for place in backend.client_places()}
        assert not {pid for _, pid in tasks} & actors
        backend._clients.device = "cuda"  # what they would have found
        lent = backend.map("twice", doubled, [(1,), (2,), (3,)], needs=ACCELERATED)
        assert [answer for answer, _ in lent] == [2, 4, 6]
        assert {pid for _, pid in lent} <= actors
        begun = [backend.begin("twice", number, doubled, number, needs=ACCELERATED) for number in range(4)]
        assert [answer for answer, _ in backend.finish("twice", begun)] == [0, 2, 4, 6]
        with pytest.raises(RunError, match="exceptions must not be lost"):
            backend.map("fail", failing, [()], needs=ACCELERATED)
    finally:
        backend.close()


def test_gpus_kept_for_detection_have_actors_of_their_own(ray_cluster):
    import ray

    from raysim.backends.base import ACCELERATED
    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_backend import RayBackend

    backend = RayBackend(ClientActors(2, gpus=0.25, detection_gpus=(0.5,)), workers=2)
    try:
        backend.start_clients(host_of_nothing, ())
        assert ray.available_resources().get("GPU", 0) == 0
        backend.map("twice", doubled, [(1,)], needs=ACCELERATED)
        (place,) = backend._detectors.places()
        assert (place["gpus"], place["device"]) == ([0], "cpu")
        backend._detectors.device = "cuda"
        ((answer, pid),) = backend.map("twice", doubled, [(1,)], needs=ACCELERATED)
        assert (answer, pid) == (2, place["pid"])
    finally:
        backend.close()


def test_devices_that_differ_are_refused():
    from raysim.backends.ray_actors import common_device

    places = [{"node": "a", "device": "cuda:0"}, {"node": "b", "device": "cuda:1"}]
    assert common_device(places) == "cuda"
    with pytest.raises(
        ConfigError, match="an actor on node b computes on a GPU and one on node c on its CPU"
    ):
        common_device([*places, {"node": "c", "device": "cpu"}])


def host_of_nothing():
    return None


def doubled(number):
    return 2 * number, os.getpid()


def failing():
    raise ValueError("exceptions must not be lost")
