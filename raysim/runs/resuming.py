"""Where a run goes on: the checkpoint, what must be as it was when the run began, and what is refused.

A run goes on only with the configuration it began with, from a checkpoint that is whole, and with tables that hold
every round before it. More rounds may be asked for: that extends a run, also a finished one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, RecordError
from raysim.runs import checkpoint
from raysim.runs.directory import COLUMNS, RunDirectory, write_atomically

FREE = ("rounds", "checkpoint.", "resources.", "data.root", "data.download")
"""Keys, or beginnings of keys, that may differ when a run goes on: how long, how often saved, and where it runs."""

BOUND = ("resources.device",)
"""What is not free all the same: devices differ in how they round."""


BEGAN = "began.json"
"""The file with what a run began with."""


def binding(config: ExperimentConfig) -> dict[str, object]:
    """Dotted key -> value, of all that a run must go on with."""
    keys = _flat(config.to_mapping())
    return {key: value for key, value in keys.items() if key in BOUND or not key.startswith(FREE)}


def configuration_digest(config: ExperimentConfig) -> str:
    """SHA-256 of what a run must go on with; checkpoints carry it."""
    return hashlib.sha256(json.dumps(binding(config), sort_keys=True, default=str).encode()).hexdigest()


def write_beginning(directory: RunDirectory, config: ExperimentConfig) -> None:
    """Keep what a run began with: whoever changes config.yaml afterwards is told the key."""
    write_atomically(directory.path / BEGAN, json.dumps(binding(config), indent=1, default=str).encode())


@dataclass(frozen=True)
class Continuation:
    """A run that may go on."""

    config: ExperimentConfig
    first_round: int
    """The next round = rounds done in the checkpoint it goes on from; 0: from the start."""
    finished: int
    """Rounds that are whole in the tables."""
    extended: bool

    @property
    def sentence(self) -> str:
        """What is played again, where something is; otherwise empty."""
        again = self.finished - self.first_round
        if again <= 0:
            return ""
        start = f"the checkpoint after round {self.first_round}" if self.first_round else "the start"
        why = "" if self.first_round else " (no checkpoint is left to go on from)"
        return f"goes on from {start}{why}: {again} finished rounds are played again, to the same bytes"

    def enter(self, directory: RunDirectory) -> None:
        """Drop the checkpoints after the one to go on from, and write down the configuration if it extends."""
        if self.extended:
            write_atomically(directory.path / "config.yaml", self.config.to_yaml().encode())
        for path in _saved(directory):
            if checkpoint.rounds_done(path) > self.first_round:
                shutil.rmtree(path)


def continuation(
    directory: RunDirectory, rounds: int | None = None, from_round: int | None = None
) -> Continuation:
    """How the run in a directory goes on; refused here, before anything is changed, if it cannot.

    rounds: how many in all, to extend the run. from_round: the checkpoint after this many rounds, or 0 for the start;
    default: the newest. Raises RecordError, and ConfigError for a changed configuration.
    """
    stored = load_config(directory.path / "config.yaml")
    _refuse_changes(directory, stored)
    config = stored
    if rounds is not None:
        if rounds < stored.rounds:
            raise ConfigError("rounds", f"must be at least the run's {stored.rounds}", rounds, stored.rounds)
        config = ExperimentConfig.from_mapping({**stored.to_mapping(), "rounds": rounds})
    saved = {checkpoint.rounds_done(path): path for path in _saved(directory)}
    first = max(saved, default=0) if from_round is None else from_round
    if first and first not in saved:
        choices = ", ".join(map(str, [0, *sorted(saved)]))
        nearest = min([0, *saved], key=lambda number: abs(number - first))
        raise ConfigError("--from", f"must be 0 or the number of a checkpoint: {choices}", first, nearest)
    if first:
        try:
            checkpoint.load(saved[first], configuration_digest(config))
        except RecordError as error:
            raise RecordError(f"{error}; {_offer(directory, saved, first, config)}") from error
        require_rounds(directory, first)
        if config.rounds < first:
            raise ConfigError(
                "rounds", f"must be at least the {first} rounds that are done", config.rounds, first
            )
    finished = directory.finished_rounds() if first else _readable_rounds(directory)
    return Continuation(config, first, finished, extended=config.rounds != stored.rounds)


def require_rounds(directory: RunDirectory, count: int) -> None:
    """RecordError unless every table holds the rounds before round `count`."""
    for table in COLUMNS:
        path = directory.path / f"{table}.parquet"
        try:
            held = set(directory.read(table)["round"].to_pylist())
        except RecordError as error:
            raise RecordError(f"{error}; {_ONLY_ALL}") from error
        if lacking := sorted(set(range(count)) - held):
            raise RecordError(
                f"{path} lacks {len(lacking)} of the {count} rounds before the checkpoint, the first is round "
                f"{lacking[0]}; {_ONLY_ALL}"
            )


_ONLY_ALL = "put the file back as it was, or play all rounds again: raysim resume RUN --from 0"


def _refuse_changes(directory: RunDirectory, config: ExperimentConfig) -> None:
    """ConfigError for the first key that is not what it was when the run began."""
    path = directory.path / BEGAN
    if not path.exists():
        return  # checkpoints have the digest still
    try:
        began = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    if not isinstance(began, dict):
        raise RecordError(f"{path} is damaged: it holds no mapping")
    now = json.loads(json.dumps(binding(config), default=str))
    for key in [*began, *(key for key in now if key not in began)]:
        if began.get(key) != now.get(key):
            raise ConfigError(
                key,
                "was changed since the run began, and a run goes on as it began (only rounds may grow): "
                "put it back in config.yaml, or start another run",
                now.get(key),
                began.get(key),
            )


def _offer(directory: RunDirectory, saved: Mapping[int, Path], refused: int, config: ExperimentConfig) -> str:
    """The sentence that names what can be done instead of going on from a refused checkpoint."""
    for number in sorted((number for number in saved if number < refused), reverse=True):
        try:
            checkpoint.load(saved[number], configuration_digest(config))
        except RecordError:
            continue
        return f"the one after round {number} is whole: raysim resume {directory.path} --from {number}"
    return f"no earlier one is whole; to play all rounds again: raysim resume {directory.path} --from 0"


def _readable_rounds(directory: RunDirectory) -> int:
    """Finished rounds, of tables that are about to be written anew and may be damaged."""
    try:
        return directory.finished_rounds()
    except RecordError:
        return 0


def _saved(directory: RunDirectory) -> list[Path]:
    return checkpoint.checkpoints(directory.path / "checkpoints")


def _flat(values: object, prefix: str = "") -> dict[str, object]:
    """Nested dicts, and lists of dicts, by dotted key."""
    if isinstance(values, list) and values and all(isinstance(item, dict) for item in values):
        values = dict(enumerate(values))
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        key: value
        for name, item in values.items()
        for key, value in _flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }
