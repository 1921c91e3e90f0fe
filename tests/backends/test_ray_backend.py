"""The engine on Ray: the same bytes as in-process, placement, over-subscription, and recovery."""

from __future__ import annotations

import numpy as np
import pytest

import raysim
from raysim import ConfigError
from raysim.errors import LostWork

pytestmark = pytest.mark.ray


def digests(result):
    return result.digest, (result.path / "clients.parquet").read_bytes()


ONE_ACTOR = {"clients_per_actor": 10}
THREE_ACTORS = {"clients_per_actor": 4, "tile_bytes": 4096}


@pytest.mark.parametrize(
    ("model", "defense", "resources"),
    [
        ({"name": "lenet_wang", "width": 0.1}, "layercam_ae", THREE_ACTORS),
        ({"name": "dba_resnet18", "width": 0.1}, "krum", THREE_ACTORS),
        ({"name": "digits_cnn"}, "layercam_ae", ONE_ACTOR),
    ],
    ids=["dropout", "batchnorm", "trained in groups"],
)
def test_ray_and_in_process_agree_for_any_number_of_actors(
    ray_cluster, tiny, tmp_path, model, defense, resources
):
    """One actor, or three of 4, 4 and 2 clients whose updates are cut into small tiles."""
    config = {**tiny, "model": model, "defense": defense}
    here = raysim.run(config, name="here", out=tmp_path, backend="inprocess")
    there = raysim.run({**config, "resources": resources}, name="there", out=tmp_path)
    assert digests(there) == digests(here)


def test_clients_share_a_gpu_and_the_scheduler_knows(ray_cluster, tiny):
    """Ten actors with a tenth of one logical GPU each: all on that GPU, nothing left for an eleventh."""
    import ray

    from raysim.backends.ray_backend import RayBackend
    from raysim.backends.ray_connection import capacity
    from raysim.composition.compose import compose
    from raysim.composition.resources import client_actors
    from raysim.config.schema import ExperimentConfig
    from raysim.engine.simulation import start

    config = ExperimentConfig.from_mapping(
        {**tiny, "population": {"clients": 4}, "attack": None, "defense": "fedavg",
         "resources": {"client_gpus": 0.25, "clients_per_actor": 1, "device": "cpu"}}
    )  # fmt: skip
    experiment = compose(config, capacity())
    backend = RayBackend(client_actors(experiment.config, 2), workers=2)
    try:
        start(experiment.published(backend), backend)
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

    assert refused(client_gpus=0.2).key == "resources.client_gpus"
    assert refused(client_gpus=0.2).nearest == pytest.approx(0.1)
    assert refused(client_cpus=0.5).key == "resources.client_cpus"
    with pytest.raises(ConfigError, match=r"resources.client_gpus: 10 clients with 0.2 each need 2"):
        raysim.run({**tiny, "resources": {"client_gpus": 0.2}}, name="over", out=tmp_path)
    assert not (tmp_path / "over").exists()


def test_clients_whose_host_keeps_dying_are_recorded_as_lost(ray_cluster, tiny, tmp_path):
    config = {
        **tiny, "rounds": 1, "population": {"clients": 4, "malicious": 2}, "defense": "fedavg",
        "attack": "tests.faulty_methods:DieAlways",
        "resources": {"clients_per_actor": 2, "lost_clients": "drop"},
    }  # fmt: skip
    result = raysim.run(config, name="lost", out=tmp_path)
    rows = result.table("clients").to_pylist()
    assert len(rows) == 4
    assert {row["client"] for row in rows if row["reason"].startswith("lost")} == {2, 3}
    assert result.rounds[0]["clients"] == 2
    assert np.isfinite(result.global_vector).all()


def test_an_error_in_a_task_is_raised_as_it_was_there(ray_cluster, tiny, tmp_path):
    tiny["resources"] = ONE_ACTOR
    with pytest.raises(raysim.RunError, match=r"round 0, stage crash: ZeroDivisionError"):
        raysim.run({**tiny, "defense": "tests.faulty_methods:Crash"}, name="crash", out=tmp_path)
    attack = {"name": "tests.faulty_methods:BadUpload", "what": "raise"}
    with pytest.raises(raysim.RunError, match=r"round 0, stage train, client [89]: ZeroDivisionError"):
        raysim.run({**tiny, "attack": attack}, name="upload", out=tmp_path)


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
