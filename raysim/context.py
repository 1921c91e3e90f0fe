"""What an attack or a defense is given to work with: the round, the model, the server's data, and tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from raysim import rng
from raysim.backends.base import Backend, Needs, Reference
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.pairs import largest_array
from raysim.requirement import Requirement
from raysim.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from raysim.models.factory import ModelFactory

Answer = TypeVar("Answer")

State = dict[str, Any]
"""What a method remembers from round to round: a tree of dicts (string keys), lists, arrays, numbers,
strings, booleans and None, so that a checkpoint holds it without pickle. Per-client memory is keyed by
`str(client id)`, or stored as arrays beside an array of client ids. A tree that is too large for this process may lie
where a task left it, as `backends.left_behind.LeftBehind`; resumed from a checkpoint, it comes back as the tree itself.
Of what type a value is knows its method alone."""


@dataclass(frozen=True)
class ServerData:
    """What the server itself holds: images ready for the model [s, C, H, W] float32 and labels [s] int64.

    No client holds any of these samples, and they are not part of the test set.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> dict[int, int]:
        """Number of samples per class, for the classes present, in ascending order."""
        return _class_counts(self.labels)


@dataclass(frozen=True)
class Setting:
    """The experiment a method is put into, for checks before anything starts."""

    population: int
    cohort: int
    num_malicious: int
    rounds: int
    num_classes: int
    server_samples: int = 0
    server_classes: Mapping[int, int] | None = None
    """How many samples the server holds of each class that it has; None: not known."""
    input_shape: tuple[int, ...] | None = None
    """(C, H, W) of images, or the shape of another input; None: not known."""
    tokens: bool = False
    """Whether inputs are tokens, which cannot be drawn or added to."""
    cam_layer: str | None = None
    """Path of the model's activation map, empty if it has none; None: not known."""
    head: str | None = None
    """Path of the model's last linear layer, empty if it has none; None: not known."""
    buffer: int = 0
    """Updates in the buffer of an asynchronous round, which began from different global models; 0: rounds are synchronous."""

    def require(self, needed: Collection[Requirement], method: str) -> None:
        """ConfigError for the first requirement that this experiment does not meet."""
        if Requirement.CLASS_ACTIVATION in needed:
            self.require_maps(method)
        if self.head == "" and not {Requirement.LAST_LAYER, Requirement.REPRESENTATIONS}.isdisjoint(needed):
            rule = f"{method} looks at the last linear layer, and the model has none"
            raise ConfigError("name", rule, method)
        held = {Requirement.SERVER_DATA: "looks at", Requirement.SERVER_TRAINING: "trains on"}
        for requirement, does in held.items():
            if requirement in needed and self.server_samples < 1:
                rule = f"must be at least 1: {method} {does} the server's data"
                raise ConfigError("server_data.samples", rule, self.server_samples, 1)

    def require_images(self, method: str) -> None:
        """ConfigError unless inputs are images."""
        if self.input_shape is not None and len(self.input_shape) != 3:
            raise ConfigError(
                "name", f"{method} works on images, and inputs are {self.input_shape} here", method
            )

    def require_maps(self, method: str) -> None:
        """ConfigError unless the model has activation maps, which a convolution of images gives."""
        self.require_images(method)
        if self.cam_layer == "":
            rule = f"{method} looks at activation maps, and the model has no convolution"
            raise ConfigError("name", rule, method)

    def require_all_pairs(self, method: str) -> None:
        """ConfigError unless one process may hold a K x K of float64 for this cohort."""
        most = largest_array()
        if self.cohort > most:
            rule = f"must be at most {most:,} for {method}, which holds all pairs of clients in one process"
            raise ConfigError("population.cohort", rule, self.cohort, most)

    def require_numbers(self, method: str) -> None:
        """ConfigError if inputs are tokens."""
        if self.tokens:
            raise ConfigError("name", f"{method} draws inputs, and tokens cannot be drawn", method)

    @classmethod
    def of(
        cls,
        cohort: int,
        *,
        population: int | None = None,
        num_malicious: int,
        rounds: int,
        num_classes: int,
        server_labels: np.ndarray | None = None,
    ) -> Setting:
        """The setting of a run, or of one matrix of K = cohort rows (population None: those are all clients).

        server_labels [s]: of the samples that the server holds; None: it holds none.
        """
        labels = np.zeros(0, np.int64) if server_labels is None else server_labels
        return cls(
            cohort if population is None else population,
            cohort,
            num_malicious,
            rounds,
            num_classes,
            len(labels),
            _class_counts(labels),
        )


@dataclass(frozen=True)
class Context:
    """One round, as an attack or a defense sees it."""

    backend: Backend
    seed: int
    role: str
    """What the generators are keyed by besides the round: "attack" or "defense"."""
    round: int
    rounds: int
    layout: Layout
    published: Reference
    """A reference to the global vector [d + b] float32 that the round began with, for tasks."""
    global_vector: np.ndarray
    """The same [d + b] float32, in this process."""
    factory: ModelFactory | None = None
    server_data: ServerData | None = None
    recipe: TrainingRecipe = TrainingRecipe()
    truth: np.ndarray | None = None
    """Ids of the true attackers [m]; None for every method but the calibration oracle."""

    @property
    def global_parameters(self) -> np.ndarray:
        """w_G [d] float32, without the buffers."""
        return self.global_vector[: self.layout.dim]

    @property
    def model(self) -> ModelFactory:
        """The model's recipe; ConfigError if a matrix came without a model."""
        if self.factory is None:
            raise ConfigError("model", "this method needs the model behind the updates", None)
        return self.factory

    def require_server_data(self, samples: int = 1) -> ServerData:
        """The server's data; ConfigError if there is none, or too little."""
        if self.server_data is None or len(self.server_data) < samples:
            held = 0 if self.server_data is None else len(self.server_data)
            raise ConfigError(
                "server_data.samples", f"must be at least {samples} for this method", held, samples
            )
        return self.server_data

    def generator(self, *key: rng.Key) -> np.random.Generator:
        """A generator of this round's own, for (seed, role, round, key)."""
        return rng.generator(self.seed, self.role, self.round, *key)

    def lasting_generator(self, *key: rng.Key) -> np.random.Generator:
        """A generator that is the same in every round, for (seed, role, key)."""
        return rng.generator(self.seed, self.role, *key)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time work that this process does itself."""
        with self.backend.telemetry.stage(name):
            yield

    def put(self, value: object) -> Reference:
        """Publish a value once for many tasks."""
        return self.backend.put(value)

    def run(self, stage: str, fn: Callable[..., Answer], *args: object, needs: Needs = Needs()) -> Answer:
        """fn(*args) as one task."""
        return self.backend.run(stage, fn, *args, needs=needs)

    def map(
        self,
        stage: str,
        fn: Callable[..., Answer],
        items: Sequence[object],
        *shared: object,
        needs: Needs = Needs(),
    ) -> list[Answer]:
        """[fn(item, *shared) for item in items], a task per item."""
        return self.backend.map(stage, fn, [(item, *shared) for item in items], needs=needs)

    def map_pairs(
        self,
        stage: str,
        fn: Callable[..., Answer],
        blocks: Sequence[object],
        *shared: object,
        needs: Needs = Needs(),
    ) -> dict[tuple[int, int], Answer]:
        """{(i, j): fn(blocks[i], blocks[j], *shared)} for i <= j, a task per pair of blocks."""
        held = [self.backend.put(block) for block in blocks]
        pairs = list(combinations_with_replacement(range(len(blocks)), 2))
        items = [(held[i], held[j], *shared) for i, j in pairs]
        answers = self.backend.map(stage, fn, items, needs=needs)
        return dict(zip(pairs, answers, strict=True))


def _class_counts(labels: np.ndarray) -> dict[int, int]:
    classes, counts = np.unique(labels, return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))
