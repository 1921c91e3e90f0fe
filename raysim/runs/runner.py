"""Run an experiment from a configuration, on Ray or in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from raysim.backends import devices
from raysim.backends.base import BackendName, InProcessBackend
from raysim.backends.capacity import Capacity
from raysim.composition.compose import Prepared, compose, place, prepare
from raysim.composition.given import Given
from raysim.config.schema import ExperimentConfig
from raysim.engine.experiment import Experiment
from raysim.errors import ConfigError
from raysim.runs.directory import RunDirectory, environment
from raysim.runs.execution import Observer, Progress, execute
from raysim.runs.naming import claimed
from raysim.runs.result import RunResult
from raysim.runs.resuming import BEGAN, Continuation, continuation, write_beginning


def run(
    config: ExperimentConfig | Mapping[str, object],
    *,
    name: str | None = None,
    out: str | Path = "runs",
    backend: BackendName = "ray",
    address: str | None = None,
    observe: Observer | None = None,
    given: Given = Given(),
) -> RunResult:
    """Run one experiment and leave its results in `out/name`; name: by default the date and time.

    backend: `ray` (the cluster at `address` or RAY_ADDRESS, else a new one on this machine) or `inprocess` (no
    Ray). observe is called with every Progress. Raises ConfigError or DataError before anything starts, RunError when the run fails. given: objects in place of what the configuration names.
    """
    if not isinstance(config, ExperimentConfig):
        config = ExperimentConfig.from_mapping(config)
    with claimed(Path(out), name) as path:
        if (path / "config.yaml").exists():
            rule = f"{path} already holds a run; resume it or choose another name"
            raise ConfigError("name", rule, path.name)
        return _carry_out(config, path, backend, address, observe or _unobserved, given, None)


def resume(
    path: str | Path,
    *,
    rounds: int | None = None,
    from_round: int | None = None,
    backend: BackendName = "ray",
    address: str | None = None,
    observe: Observer | None = None,
    given: Given = Given(),
) -> RunResult:
    """Continue a run from its newest checkpoint; the result is that of an undisturbed run.

    rounds: how many in all, to extend the run, also a finished one. from_round: the checkpoint after this many rounds,
    where a newer one is damaged; 0: play all rounds again. Raises RecordError for a damaged or foreign checkpoint and
    for tables that lack rounds, ConfigError for a configuration that is not the one the run began with; what was
    there then stays.
    """
    directory = RunDirectory(Path(path))
    directory.require()
    resumed = continuation(directory, rounds, from_round)
    return _carry_out(resumed.config, Path(path), backend, address, observe or _unobserved, given, resumed)


def _carry_out(
    config: ExperimentConfig,
    path: Path,
    backend: BackendName,
    address: str | None,
    observe: Observer,
    given: Given,
    resumed: Continuation | None,
) -> RunResult:
    path = path.absolute()
    if backend == "inprocess":
        if address is not None:
            raise ConfigError("address", "belongs to backend ray", address)
        if config.resources.client_gpus or config.resources.client_cpus:
            raise ConfigError(
                "resources", "client_gpus and client_cpus are reservations with Ray: use backend ray, or leave them at 0",
                {"client_gpus": config.resources.client_gpus, "client_cpus": config.resources.client_cpus},
            )  # fmt: skip
        if config.resources.metrics:
            raise ConfigError(
                "resources.metrics", "needs backend ray, which Prometheus asks for them", True, False
            )
        _in_process(config, path, observe, given, resumed)
    elif backend == "ray":
        _on_ray(config, path, address, observe, given, resumed)
    else:
        raise ConfigError("backend", "must be ray or inprocess", backend, "ray")
    return RunResult(path)


def _in_process(
    config: ExperimentConfig, path: Path, observe: Observer, given: Given, resumed: Continuation | None
) -> None:
    experiment = compose(config, this_process(), given)
    directory = RunDirectory(path)
    _enter(directory, experiment, resumed, backend="inprocess")
    backend = in_process_backend(experiment.config)
    with _put_together(directory):
        execute(experiment.published(backend), backend, directory, observe)


def this_process() -> Capacity:
    """What work in this process has: one task at a time, and the GPUs that torch finds."""
    import torch

    return Capacity(gpus=float(torch.cuda.device_count()))


def in_process_backend(config: ExperimentConfig) -> InProcessBackend:
    """The backend of this process for a resolved configuration."""
    resources = config.resources
    device = devices.decided(resources.device)
    accelerator = devices.CPU if resources.server_gpus == 0 else device
    return InProcessBackend(threads=resources.threads, device=device, accelerator=accelerator)


def _on_ray(
    config: ExperimentConfig,
    path: Path,
    address: str | None,
    observe: Observer,
    given: Given,
    resumed: Continuation | None,
) -> None:
    from raysim.backends import ray_connection as ray_cluster

    if config.resources.metrics:
        ray_cluster.check_metrics()
    prepared = prepare(config, given)  # mistakes and missing data cost no start-up
    address = address or os.environ.get("RAY_ADDRESS")
    if awaited := ray_cluster.what_starts(address):
        observe(Progress(0, config.rounds, awaited=awaited))
    with ray_cluster.connected(address, config.resources.runtime_env):
        from raysim.backends.shipping import by_value
        from raysim.runs.ray_driver import drive
        from raysim.runs.shard_holders import beside_shards

        capacity = ray_cluster.capacity()
        experiment = beside_shards(place(prepared, capacity))
        directory = RunDirectory(path)
        _enter(directory, experiment, resumed, backend="ray", nodes=ray_cluster.nodes())
        with _put_together(directory), by_value(_parts(prepared)):
            drive(experiment, path, capacity, observe)


@contextmanager
def _put_together(directory: RunDirectory) -> Iterator[None]:
    """The tables of a run, also of one that ends early; a full disk must not hide why it ends."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the parts can be read as they are
            directory.finish()
        raise
    directory.finish()


def _parts(prepared: Prepared) -> list[object]:
    """What may be of the caller's own among the things that workers are sent."""
    methods, factory = prepared.methods, prepared.factory
    network = getattr(factory, "module", getattr(factory, "call", factory))
    return [*methods.defenses, *methods.attacks, network, prepared.model, prepared.fleet]


def _enter(
    directory: RunDirectory, experiment: Experiment, resumed: Continuation | None, **about: object
) -> None:
    """Begin a run's directory, or make that of a resumed one ready."""
    config = experiment.config

    def describe() -> dict[str, object]:
        return environment(**about, **experiment.titles(), seed=config.seed, notes=experiment.notes)

    if resumed is None:
        directory.start(config.to_yaml(), describe())
        write_beginning(directory, config)
        return
    resumed.enter(directory)
    if not directory.described:  # killed just after its folder was claimed
        directory.describe(describe())
    if not resumed.first_round and not (directory.path / BEGAN).exists():
        write_beginning(directory, config)


def _unobserved(event: Progress) -> None:
    """For callers that do not follow the run."""
