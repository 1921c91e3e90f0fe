"""Replay defenses on recorded updates: the same rows, the same server data, the same random draws.

A replayed defense starts from its state before round 0 and sees the recorded rounds in order. Where every
round was recorded, its verdicts are those it would have given live, byte for byte, as long as the recorded run
is its own and the kind of device the same; another defense sees the rounds that the recorded run's defense led to.

    replays/krum/             what krum found: rounds, clients and spans with the columns of a run; the notes of a
                              round hold the SHA-256 of the verdict's aggregate
    replays/krum@2nodes/      the same on two nodes
    replays/replay.md         all of them side by side (raysim.studies.replays)
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from raysim.backends.base import Backend, BackendName
from raysim.composition.compose import compose
from raysim.composition.methods import make_defense
from raysim.config.load import load_config
from raysim.config.schema import Component, ExperimentConfig
from raysim.engine import recording
from raysim.engine.cohort import Arrivals
from raysim.engine.experiment import Experiment, RoundRecord, Uploads
from raysim.engine.round_record import record_round
from raysim.engine.simulation import initial_state, judge
from raysim.errors import ConfigError, RecordError
from raysim.runs.directory import RunDirectory, digest, environment
from raysim.runs.runner import in_process_backend, this_process

Observe = Callable[[str, int, int], None]
"""Told after every round: the replay's name, rounds done, rounds in all."""

FOLDER = "replays"
"""Where a run keeps its replays."""

REASON = "rejected by the engine when recorded"


def replay(
    run: Path,
    defenses: Sequence[Component],
    *,
    rounds: tuple[int, int] | None = None,
    backend: BackendName = "inprocess",
    address: str | None = None,
    suffix: str = "",
    out: Path | None = None,
    warm_up: bool = False,
    observe: Observe = lambda name, done, total: None,
) -> list[Path]:
    """Run every defense on the recorded rounds of `run` (all, or first..last), one directory each.

    Writes rounds, clients and spans in `out` (default: run/replays), in `<label><suffix>/`, with the columns of a run (accuracies are
    NaN: nothing is trained or evaluated), replacing an earlier replay of that name. warm_up: judge the first
    of them once before, so that starting processes and loading libraries is not timed. Returns the directories.
    """
    planned, found = prepared(run, defenses, rounds)
    folder = out or run / FOLDER
    directories = [folder / (label + suffix) for label in labels(defenses)]
    if backend == "inprocess":
        if address is not None:
            raise ConfigError("address", "belongs to backend ray", address)
        for wanted, directory in zip(planned, directories, strict=True):
            experiment = compose(wanted, this_process())
            local = in_process_backend(experiment.config)
            records = replayed(experiment, local, local, found, warm_up)
            _keep(experiment, records, len(found), directory, environment(replay=True), observe)
    else:
        _replay_on_ray(planned, found, directories, address, warm_up, observe)
    return directories


def prepared(
    run: Path, defenses: Sequence[Component], rounds: tuple[int, int] | None
) -> tuple[list[ExperimentConfig], list[Path]]:
    """The run's configuration with each of the defenses, and the recorded rounds; refuses what cannot work."""
    config = load_config(run / "config.yaml")
    found = recording.recorded_rounds(run / "updates")
    if rounds is not None:
        found = [path for path in found if rounds[0] <= int(path.name.removeprefix("round-")) <= rounds[1]]
    if not found:
        raise RecordError(f"{run} has no recorded updates in that range; run it with record.updates=true")
    planned = [with_defense(config, component) for component in defenses]
    for wanted in planned:
        make_defense(wanted)
    return planned, found


def _replay_on_ray(
    planned: Sequence[ExperimentConfig],
    found: Sequence[Path],
    directories: Sequence[Path],
    address: str | None,
    warm_up: bool,
    observe: Observe,
) -> None:
    from raysim.backends import ray_connection as ray_cluster

    with ray_cluster.connected(address):
        from raysim.backends.capacity import ClientActors
        from raysim.backends.ray_backend import RayBackend
        from raysim.composition.resources import detection_actors

        available = ray_cluster.capacity()
        about = environment(replay=True, nodes=ray_cluster.nodes())
        for wanted, directory in zip(planned, directories, strict=True):
            experiment = compose(wanted, available)
            resources = experiment.config.resources
            threads = resources.threads
            workers = available.workers(threads)
            backend = RayBackend(
                detection_actors(experiment.config, available),
                workers=workers,
                threads=threads,
                placement=resources.placement,
                device=resources.device,
            )
            # Row blocks come to lie on all nodes, as they do where clients train.
            loader = RayBackend(
                ClientActors(0),
                workers=workers,
                threads=threads,
                placement="spread",
                telemetry=backend.telemetry,
            )
            with closing(backend):
                records = replayed(experiment, backend, loader, found, warm_up)
                _keep(experiment, records, len(found), directory, about, observe)


def parse_rounds(text: str | None) -> tuple[int, int] | None:
    """`3-7` or `5` as (first, last); None for all.

    >>> parse_rounds("3-7"), parse_rounds("5")
    ((3, 7), (5, 5))
    """
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not first.isdigit() or (last and not last.isdigit()):
        raise ConfigError("--rounds", "must have the form FIRST-LAST", text, "0-9")
    return int(first), int(last or first)


def labels(defenses: Sequence[Component]) -> list[str]:
    """A directory name for each: its name and options, `krum,num_byzantine=3`. ConfigError for one that comes twice."""
    texts = [
        ",".join([component.name, *(f"{key}={value}" for key, value in component.options.items())])
        for component in defenses
    ]
    found = [re.sub(r"[^\w,.=+-]", ".", text) for text in texts]
    if len(set(found)) < len(found):
        raise ConfigError("defense", "must name every method once", texts)
    return found


def with_defense(config: ExperimentConfig, component: Component) -> ExperimentConfig:
    """The configuration of the recorded run with another defense, and without what clients reserve: none trains."""
    values = config.to_mapping()
    resources = {**values["resources"], "client_cpus": 0.0, "client_gpus": 0.0, "clients_per_actor": "auto"}
    replayed = {**values, "defense": component.model_dump(), "resources": resources}
    return ExperimentConfig.from_mapping(replayed)


def replayed(
    experiment: Experiment,
    backend: Backend,
    loader: Backend,
    found: Sequence[Path],
    warm_up: bool = False,
) -> Iterator[RoundRecord]:
    """The defense's verdict on every recorded round, in order.

    loader: runs the tasks that read them. warm_up: the first is judged once before, and forgotten.
    """
    if warm_up:
        next(replayed(experiment, backend, loader, found))
    state = initial_state(experiment, backend)
    for path in found:
        judged = recording.read(path, experiment.setup.layout, backend, loader)
        state = replace(state, round=judged.round, global_vector=judged.global_vector)
        published = backend.put(judged.global_vector)
        verdict, defense_state = judge(experiment, backend, state, published, judged.updates, judged.usable)
        state = replace(state, defense=defense_state)
        unusable = judged.updates.client_ids[~judged.usable]
        uploads = Uploads(judged.updates, dict.fromkeys(unusable.tolist(), REASON), float("nan"), {})
        notes = {"aggregate": digest(verdict.aggregate)}
        ids, stale = judged.updates.client_ids, judged.staleness
        versions = None if stale is None else judged.round - stale
        arrivals = Arrivals(ids, asked=ids, versions=versions, round=judged.round)
        yield record_round(experiment, backend, arrivals, uploads, judged, verdict, notes)


def _keep(
    experiment: Experiment,
    records: Iterator[RoundRecord],
    count: int,
    path: Path,
    about: dict[str, object],
    observe: Observe,
) -> None:
    """Write a replay's directory, round by round."""
    shutil.rmtree(path, ignore_errors=True)
    directory = RunDirectory(path)
    directory.start(experiment.config.to_yaml(), {**about, **experiment.titles()})
    for number, record in enumerate(records):
        directory.write_artifacts(record.number, record.artifacts)
        directory.write_round(record.number, record.row, record.clients, record.spans)
        observe(path.name, number + 1, count)
    directory.finish()
