"""Run an experiment from a configuration, on Ray or in this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysim.backends.base import BackendName, InProcessBackend
from raysim.backends.capacity import Capacity
from raysim.composition.compose import Prepared, compose, place, prepare
from raysim.composition.given import Given
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError
from raysim.runs.directory import RunDirectory, claimed, environment
from raysim.runs.execution import Observer, Progress, execute
from raysim.runs.result import RunResult


def run(
    config: ExperimentConfig | Mapping[str, Any],
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
        return _carry_out(config, path, backend, address, observe or _unobserved, given, new=True)


def resume(
    path: str | Path,
    *,
    backend: BackendName = "ray",
    address: str | None = None,
    observe: Observer | None = None,
    given: Given = Given(),
) -> RunResult:
    """Continue a run that was killed, from its newest checkpoint; the result is that of an undisturbed run."""
    directory = RunDirectory(Path(path))
    directory.require()
    config = RunResult(Path(path)).config
    return _carry_out(config, Path(path), backend, address, observe or _unobserved, given, new=False)


def _carry_out(
    config: ExperimentConfig,
    path: Path,
    backend: BackendName,
    address: str | None,
    observe: Observer,
    given: Given,
    *,
    new: bool,
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
        _in_process(config, path, observe, given, new=new)
    elif backend == "ray":
        _on_ray(config, path, address, observe, given, new=new)
    else:
        raise ConfigError("backend", "must be ray or inprocess", backend, "ray")
    return RunResult(path)


def _in_process(config: ExperimentConfig, path: Path, observe: Observer, given: Given, *, new: bool) -> None:
    experiment = compose(config, Capacity(gpus=_visible_gpus()), given)
    directory = RunDirectory(path)
    if new:
        about = environment(backend="inprocess", seed=config.seed, notes=experiment.notes)
        directory.start(experiment.config.to_yaml(), about)
    backend = InProcessBackend(threads=config.resources.threads)
    try:
        execute(experiment.published(backend), backend, directory, observe)
    finally:
        directory.finish()


def _on_ray(
    config: ExperimentConfig, path: Path, address: str | None, observe: Observer, given: Given, *, new: bool
) -> None:
    from raysim.backends import ray_connection as ray_cluster

    prepared = prepare(config, given)  # mistakes and missing data cost no start-up
    with ray_cluster.connected(address or os.environ.get("RAY_ADDRESS")):
        from raysim.backends.shipping import by_value
        from raysim.runs.ray_driver import drive

        capacity = ray_cluster.capacity()
        experiment = place(prepared, capacity)
        directory = RunDirectory(path)
        if new:
            about = environment(
                backend="ray", seed=config.seed, nodes=ray_cluster.nodes(), notes=experiment.notes
            )
            directory.start(experiment.config.to_yaml(), about)
        try:
            with by_value(_parts(prepared)):
                drive(experiment, path, capacity.workers(config.resources.threads), observe)
        finally:
            directory.finish()


def _parts(prepared: Prepared) -> list[Any]:
    """What may be of the caller's own among the things that workers are sent."""
    methods, factory = prepared.methods, prepared.factory
    network = getattr(factory, "module", getattr(factory, "call", factory))
    return [*methods.defenses, *methods.attacks, network, prepared.model]


def _visible_gpus() -> float:
    import torch

    return float(torch.cuda.device_count())


def _unobserved(event: Progress) -> None:
    """For callers that do not follow the run."""
