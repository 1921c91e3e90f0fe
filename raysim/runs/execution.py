"""Carry an experiment through: rounds, files, checkpoints, progress. The same on every backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from raysim.backends.base import Backend
from raysim.backends.telemetry import WHOLE_STAGE, Span, peak_memory_bytes
from raysim.engine import recording
from raysim.engine.experiment import Experiment, RoundRecord, RunState
from raysim.engine.simulation import initial_state, rounds, start
from raysim.errors import LostWork, RecordError, RunError
from raysim.runs import checkpoint
from raysim.runs.client_places import common_places, keep_places, remarks
from raysim.runs.directory import RunDirectory, digest, write_atomically
from raysim.runs.resuming import configuration_digest, require_rounds


@dataclass(frozen=True)
class Progress:
    """A progress event: a stage advanced, (with `row`) a round ended, (with `remark`) the user must be told something,
    or (with `awaited`) rounds cannot begin before something else is there.
    """

    round: int
    rounds: int
    stage: str = ""
    done: int = 0
    total: int = 0
    row: dict[str, object] = field(default_factory=dict)
    remark: str = ""
    awaited: str = ""
    at_s: float = field(default_factory=time.time)


STOPPING = "stopping; the last finished round is being saved (a second Ctrl-C does not wait for that)"
"""The remark that answers an interrupt."""

GOES_ON = "the run goes on from the state after {} rounds"
"""The end of the remark that tells of a return to a checkpoint."""

MOST_RETURNS = 3
"""How often a run goes back to a checkpoint for what was lost with a node."""

Observer = Callable[[Progress], None]
"""What `run` and `resume` call with every progress event, in the process that called them."""


class Keeper:
    """Writes what finished rounds leave behind: tables, artifacts, checkpoints.

    Where a run ends early, `stop`, also from another thread, saves the last finished round.
    """

    def __init__(
        self,
        experiment: Experiment,
        backend: Backend,
        directory: RunDirectory,
        tell: Callable[[Sequence[Span]], None] = lambda spans: None,
    ) -> None:
        """tell: called with the spans of every round that is kept."""
        self.experiment, self.backend, self.directory, self.tell = experiment, backend, directory, tell
        self.state: RunState | None = None
        self._saved = 0
        self._stopped = False
        self._lock = (
            threading.RLock()
        )  # an interrupt may come between taking it and the block it is taken for

    def begin(self, state: RunState) -> None:
        """The state that rounds go on from, which a checkpoint holds, or the one before round 0."""
        with self._lock:
            self.state, self._saved = state, state.round

    def keep(self, state: RunState, record: RoundRecord) -> None:
        """Write what a finished round leaves behind, and a checkpoint when one is due."""
        config, telemetry = self.experiment.config, self.backend.telemetry
        with self._lock:
            if self._stopped:
                raise RunError("the run was stopped", round=record.number)
            with telemetry.stage("record"), _written(self.directory.path, "record", record.number):
                if config.record.updates and record.number % config.record.every == 0:
                    recording.write(self.directory.path / "updates", record.judged)
                self.directory.write_artifacts(record.number, record.artifacts)
                self.directory.write_round(record.number, record.row, record.clients, record.spans)
            self.tell(record.spans)
            self.state = state
            if state.round % config.checkpoint.every == 0 or state.round == config.rounds:
                with (
                    telemetry.stage("checkpoint"),
                    _written(self.directory.path, "checkpoint", record.number),
                ):
                    self._save(state)

    def stop(self) -> None:
        """Save the last finished round, unless a checkpoint holds it. Nothing is kept afterwards."""
        with self._lock:
            self._stopped = True
            if self.state is not None and self.state.round > self._saved:
                self._save(self.state)

    def _save(self, state: RunState) -> None:
        config, folder = self.experiment.config, self.directory.path / "checkpoints"
        belongs_to = configuration_digest(config)
        try:
            checkpoint.save(folder, state.round, state.tree(), config.checkpoint.keep, belongs_to)
        except TypeError as error:
            raise RunError(str(error), stage="checkpoint", round=state.round - 1) from error
        self._saved = state.round


@contextmanager
def _written(path: Path, stage: str, round: int) -> Iterator[None]:
    """A RunError that says what stands in the way of writing, and what to do."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be written to {path}: {error}; make it writable or make room, then resume the run"
        raise RunError(problem, stage=stage, round=round) from error


def execute(
    experiment: Experiment,
    backend: Backend,
    directory: RunDirectory,
    observe: Observer,
    keeper: Keeper | None = None,
) -> str:
    """Run all rounds that are not done yet, from the newest checkpoint; the digest of the final global vector.

    If what the rounds go on from is lost with a node, they go on from the newest checkpoint again. A run that ends
    early, by an error or an interrupt, leaves a checkpoint of its last finished round. keeper: given where another
    thread may stop it.
    """
    config = experiment.config
    keeper = keeper or Keeper(experiment, backend, directory)
    state = resume_state(experiment, backend, directory)
    keeper.begin(state)
    directory.write_layout(experiment.setup.layout)
    for note in experiment.notes:
        observe(Progress(state.round, config.rounds, remark=note))

    def on_progress(stage: str, done: int, total: int) -> None:
        observe(Progress(backend.telemetry.round, config.rounds, stage, done, total))

    backend.telemetry.round = state.round
    backend.telemetry.on_progress = on_progress
    try:
        if state.round < config.rounds:
            start(experiment, backend)
            places = common_places(backend.client_places())
            keep_places(directory, places, state.round)
            for remark in remarks(config, places):
                observe(Progress(state.round, config.rounds, remark=remark))
        returns = 0
        while state.round < config.rounds:
            try:
                with closing(rounds(experiment, backend, state)) as playing:
                    for after, record in playing:
                        state = after
                        keeper.keep(state, record)
                        observe(Progress(record.number, config.rounds, row=record.row))
                        del record  # and with it the rows that were to be recorded
            except LostWork as error:
                if returns == MOST_RETURNS:
                    raise
                returns, missed_at = returns + 1, time.time()
                state = resume_state(experiment, backend, directory)
                keeper.begin(state)
                backend.telemetry.spans.append(restart_span(backend, missed_at, returns))
                observe(
                    Progress(state.round, config.rounds, remark=f"{error}; {GOES_ON.format(state.round)}")
                )
    except BaseException as end:
        if isinstance(end, KeyboardInterrupt):
            observe(Progress(state.round, config.rounds, remark=STOPPING))
        with suppress(Exception):  # the next run then goes on from an earlier checkpoint
            keeper.stop()
        raise
    final = digest(state.global_vector)
    with _written(directory.path, "record", config.rounds - 1):
        directory.finish()
        write_atomically(directory.path / "digest.txt", f"{final}  global parameters\n".encode())
    return final


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


def restart_span(backend: Backend, missed_at: float, restarts: int) -> Span:
    """Of going on from a checkpoint, which begins when something is missed (seconds since the epoch) and ends now."""
    return Span(
        stage="restart",
        task=WHOLE_STAGE,
        node=backend.telemetry.node,
        start_s=missed_at,
        wall_s=max(time.time() - missed_at, 0.0),
        cpu_s=0.0,
        bytes_in=0,
        bytes_out=0,
        peak_memory_bytes=peak_memory_bytes(),
        retries=restarts,
    )
