"""Carry an experiment through: rounds, files, checkpoints, progress. The same on every backend."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raysim.backends.base import Backend
from raysim.engine import recording
from raysim.engine.experiment import Experiment, RoundRecord, RunState
from raysim.engine.simulation import initial_state, rounds, start
from raysim.errors import RecordError, RunError
from raysim.runs import checkpoint
from raysim.runs.directory import RunDirectory, digest, write_atomically
from raysim.runs.resuming import configuration_digest, require_rounds


@dataclass(frozen=True)
class Progress:
    """A progress event: a stage advanced, (with `row`) a round ended, or (with `remark`) the user must be told something."""

    round: int
    rounds: int
    stage: str = ""
    done: int = 0
    total: int = 0
    row: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    at_s: float = field(default_factory=time.time)


Observer = Callable[[Progress], None]
"""What `run` and `resume` call with every progress event, in the process that called them."""


def execute(experiment: Experiment, backend: Backend, directory: RunDirectory, observe: Observer) -> str:
    """Run all rounds that are not done yet, from the newest checkpoint; the digest of the final global vector."""
    config = experiment.config
    state = resume_state(experiment, backend, directory)
    directory.write_layout(experiment.setup.layout)
    for note in experiment.notes:
        observe(Progress(state.round, config.rounds, remark=note))

    def on_progress(stage: str, done: int, total: int) -> None:
        observe(Progress(backend.telemetry.round, config.rounds, stage, done, total))

    backend.telemetry.round = state.round
    backend.telemetry.on_progress = on_progress
    if state.round < config.rounds:
        start(experiment, backend)
    for after, record in rounds(experiment, backend, state):
        state = after
        keep_round(experiment, backend, directory, state, record)
        observe(Progress(record.number, config.rounds, row=record.row))
    directory.finish()
    final = digest(state.global_vector)
    write_atomically(directory.path / "digest.txt", f"{final}  global parameters\n".encode())
    return final


def keep_round(
    experiment: Experiment, backend: Backend, directory: RunDirectory, state: RunState, record: RoundRecord
) -> None:
    """Write what a finished round leaves behind, and a checkpoint when one is due."""
    config = experiment.config
    with backend.telemetry.stage("record"):
        if config.record.updates and record.number % config.record.every == 0:
            recording.write(directory.path / "updates", record.judged)
        directory.write_artifacts(record.number, record.artifacts)
        directory.write_round(record.number, record.row, record.clients, record.spans)
    if state.round % config.checkpoint.every == 0 or state.round == config.rounds:
        try:
            with backend.telemetry.stage("checkpoint"):
                folder = directory.path / "checkpoints"
                belongs_to = configuration_digest(config)
                checkpoint.save(folder, state.round, state.tree(), config.checkpoint.keep, belongs_to)
        except TypeError as error:
            raise RunError(str(error), stage="checkpoint", round=record.number) from error


def resume_state(experiment: Experiment, backend: Backend, directory: RunDirectory) -> RunState:
    """The state in the newest checkpoint, or the one before round 0; later rounds' files are dropped."""
    saved = checkpoint.checkpoints(directory.path / "checkpoints")
    if not saved:
        directory.forget_rounds_from(0)
        return initial_state(experiment, backend)
    state = RunState.from_tree(checkpoint.load(saved[-1], configuration_digest(experiment.config)))
    if state.global_vector.shape != experiment.initial.shape:
        raise RecordError(
            f"checkpoint {saved[-1]} holds {state.global_vector.size} values, this model {experiment.initial.size}"
        )
    require_rounds(directory, state.round)
    directory.forget_rounds_from(state.round)
    return state
