"""The matrices of `raysim bench scaling`: drawn from a seed, or the first rows of a recorded round."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from raysim.backends.base import Backend
from raysim.backends.capacity import Capacity
from raysim.composition.compose import compose
from raysim.config.load import load_config
from raysim.context import Context
from raysim.engine import recording
from raysim.engine.experiment import Experiment
from raysim.engine.recording import Recording
from raysim.errors import ConfigError, RecordError
from raysim.matrix.row_blocks import RowBlock, maxima_of
from raysim.matrix.updates import Updates
from raysim.models.recipe import ModelRecipe
from raysim.studies.matrix import ROUNDS, Matrix, MatrixSpec, build_matrix, server_labels
from raysim.studies.scaling.plan import (
    SYNTHETIC,
    ParameterCount,
    ScalingPlan,
    check_subjects,
    sizes_of,
)


class Source(Protocol):
    """Where matrices come from."""

    @property
    def sizes(self) -> tuple[ParameterCount, ...]:
        """The numbers of parameters, and the model's widths that have them."""

    @property
    def model(self) -> str:
        """Whose parameters the columns are."""

    def check(self) -> None:
        """Raise ConfigError if a matrix does not exist or a defense cannot run on it."""

    def matrix(self, clients: int, size: ParameterCount, backend: Backend) -> Matrix:
        """One of them, on a backend."""


@functools.lru_cache(maxsize=1)
def source_of(plan: ScalingPlan) -> Source:
    """The source that a plan names; the same for the same plan, since a run takes a while to be read."""
    if plan.updates == SYNTHETIC:
        return Drawn(plan)
    return Recorded.of(plan)


@dataclass(frozen=True)
class Drawn:
    """Updates of synthetic_updates.py."""

    plan: ScalingPlan

    @property
    def sizes(self) -> tuple[ParameterCount, ...]:
        """See Source."""
        plan = self.plan
        return sizes_of(plan.parameters, plan.model, plan.image, plan.classes)

    @property
    def model(self) -> str:
        """See Source."""
        return self.plan.model

    def check(self) -> None:
        """See Source."""
        classes = self.plan.classes
        check_subjects(self.plan, self.plan.num_malicious, classes, server_labels(classes))

    def matrix(self, clients: int, size: ParameterCount, backend: Backend) -> Matrix:
        """See Source."""
        plan = self.plan
        spec = MatrixSpec(
            plan.model,
            plan.image,
            plan.classes,
            clients,
            plan.num_malicious(clients),
            plan.seed,
            plan.tile_bytes,
            size.width,
            plan.rows_per_block,
        )
        return build_matrix(spec, backend)


@dataclass(frozen=True)
class Recorded:
    """The first recorded round of a run: its first K usable rows, its model and its server's data.

    They lie in tiles as wide as those of the run; rows are put into blocks by tasks, as drawn ones are.
    """

    plan: ScalingPlan
    experiment: Experiment
    round: Path
    truth: np.ndarray
    """[K] bool: of the usable rows."""

    @classmethod
    def of(cls, plan: ScalingPlan) -> Recorded:
        """Raises RecordError if the directory holds no run or no recorded round."""
        run = Path(plan.updates)
        if not (run / "config.yaml").exists():
            raise RecordError(f"{run} holds no run: config.yaml is missing")
        found = recording.recorded_rounds(run / "updates")
        if not found:
            raise RecordError(f"{run} has no recorded updates; run it with record.updates=true")
        experiment = compose(load_config(run / "config.yaml"), Capacity())
        return cls(plan, experiment, found[0], _truth(found[0]))

    @property
    def recipe(self) -> ModelRecipe:
        """The run's model."""
        factory = self.experiment.setup.factory
        assert isinstance(factory, ModelRecipe), "compose makes no other"
        return factory

    @property
    def sizes(self) -> tuple[ParameterCount, ...]:
        """See Source."""
        return (ParameterCount(self.experiment.setup.layout.dim),)

    @property
    def model(self) -> str:
        """See Source."""
        return self.recipe.name

    def check(self) -> None:
        """See Source."""
        most = len(self.truth)
        if max(self.plan.clients) > most:
            rule = (
                f"must be at most {most}, the usable rows of the first recorded round of {self.plan.updates}"
            )
            raise ConfigError("clients", rule, max(self.plan.clients), most)
        held = self.experiment.server_data
        labels = None if held is None else held.labels
        count = lambda clients: int(self.truth[:clients].sum())  # noqa: E731
        check_subjects(self.plan, count, self.recipe.num_classes, labels)

    def matrix(self, clients: int, size: ParameterCount, backend: Backend) -> Matrix:
        """See Source."""
        experiment = self.experiment
        recorded = recording.read(self.round, experiment.setup.layout, backend)
        usable = np.flatnonzero(recorded.usable)[:clients]
        updates = in_blocks(recorded.updates.select(usable), self.plan.rows_per_block)
        return Matrix(
            updates,
            self.truth[:clients],
            self._context(recorded, backend),
            MatrixSpec(self.model, self.plan.image, self.recipe.num_classes, clients),
        )

    def _context(self, recorded: Recording, backend: Backend) -> Context:
        experiment = self.experiment
        return Context(
            backend=backend,
            seed=experiment.config.seed,
            role="defense",
            round=0,
            rounds=ROUNDS,
            layout=experiment.setup.layout,
            published=backend.put(recorded.global_vector),
            global_vector=recorded.global_vector,
            factory=experiment.setup.factory,
            server_data=experiment.server_data,
            recipe=experiment.setup.recipe,
        )


def _truth(folder: Path) -> np.ndarray:
    """Which of a recorded round's usable rows are malicious; no tile is read."""
    try:
        about = json.loads((folder / "recording.json").read_text())
        truth: np.ndarray = np.array(about["truth"], bool)[np.array(about["usable"], bool)]
        return truth
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise RecordError(f"recording {folder} is damaged: {type(error).__name__}: {error}") from error


def in_blocks(updates: Updates, rows_per_block: int | None) -> Updates:
    """The same rows in new blocks (default: two a worker), each left where the task that copies it runs."""
    count = updates.num_clients
    per_block = rows_per_block or max(1, -(-count // (2 * updates.backend.workers)))
    places = [np.arange(first, min(first + per_block, count)) for first in range(0, count, per_block)]
    items = []
    for place in places:
        pieces = updates.select(place).blocks
        tiles = [tile for piece in pieces for tile in piece.tiles]
        items.append(([piece.positions for piece in pieces], [piece.rows for piece in pieces], *tiles))
    kept = updates.backend.map("rows", _copy_rows, items, keep=len(updates.bounds))
    blocks = tuple(
        RowBlock(place, np.arange(len(place)), tiles, maxima)
        for place, (tiles, maxima) in zip(places, kept, strict=True)
    )
    return replace(updates, blocks=blocks)


def _copy_rows(positions: list[np.ndarray], rows: list[np.ndarray], *tiles: np.ndarray) -> tuple[object, ...]:
    """The rows of several old blocks' tiles [old block x shard], one new tile per shard."""
    shards = len(tiles) // len(rows)
    count = sum(map(len, rows))
    out = []
    for shard in range(shards):
        tile = np.empty((count, tiles[shard].shape[1]), np.float32)
        for number, (place, row) in enumerate(zip(positions, rows, strict=True)):
            tile[place] = tiles[number * shards + shard][row]
        out.append(tile)
    return (*out, maxima_of(out))
