"""How long stages of defenses and local training take on a GPU, beside the CPU of the same machine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raysim import rng
from raysim.backends import devices
from raysim.backends.base import InProcessBackend, ThreadLimit
from raysim.backends.telemetry import WHOLE_STAGE
from raysim.data.client_data import ClientData
from raysim.defense import judged
from raysim.matrix.layout import Layout
from raysim.models.recipe import ModelRecipe
from raysim.studies.costs.subjects import FIRST_ROUND, Judging, check_subjects
from raysim.studies.gpus.verdicts import difference
from raysim.studies.matrix import MatrixSpec, build_matrix
from raysim.studies.timing import Clock, seconds
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe
from raysim.training.stacked import CohortTrainer


@dataclass(frozen=True)
class Pair:
    """Median seconds of the same work on the CPU and on the device."""

    what: str
    cpu_s: float
    device_s: float

    @property
    def ratio(self) -> float:
        """How many times as long the CPU takes."""
        return self.cpu_s / self.device_s


def stage_pairs(
    subject: Judging, spec: MatrixSpec, device: str, threads: int, repeats: int
) -> tuple[list[Pair], Pair]:
    """Every stage of a defense that runs on the device, and its whole `apply`; copies to and from it included."""
    on_cpu, whole_cpu = _stages(subject, spec, InProcessBackend(threads=threads), repeats)
    gc.collect()
    backend = InProcessBackend(threads=threads, accelerator=device)
    on_device, whole_device = _stages(subject, spec, backend, repeats)
    gc.collect()
    pairs = [
        Pair(stage, on_cpu[stage][0], taken)
        for stage, (taken, where) in on_device.items()
        if where != devices.CPU
    ]
    return pairs, Pair("whole apply", whole_cpu, whole_device)


def _stages(
    subject: Judging, spec: MatrixSpec, backend: InProcessBackend, repeats: int
) -> tuple[dict[str, tuple[float, str]], float]:
    """Stage -> (median seconds, device), and the median seconds of `apply`, after one round that warms up."""
    matrix = build_matrix(spec, backend)
    check_subjects([subject], matrix)
    context = replace(matrix.context, round=FIRST_ROUND)
    state = subject.defense.init(context)
    taken: dict[str, list[float]] = {}
    where: dict[str, str] = {}
    whole = []
    for repeat in range(repeats + 1):
        backend.telemetry.drain()
        now, clock = replace(context, round=FIRST_ROUND + repeat), Clock()
        _, state = judged(subject.defense, state, matrix.updates, now, clock)
        whole.append(clock.seconds)
        sums: dict[str, float] = {}
        for span in backend.telemetry.drain():
            if span.task == WHOLE_STAGE:
                sums[span.stage] = sums.get(span.stage, 0.0) + span.wall_s
                where[span.stage] = span.device
        for stage, spent in sums.items():
            taken.setdefault(stage, []).append(spent)
    medians = {stage: float(np.median(spent[1:] or spent)) for stage, spent in taken.items()}
    return {stage: (spent, where[stage]) for stage, spent in medians.items()}, float(np.median(whole[1:]))


@dataclass(frozen=True)
class TrainingCase:
    """Clients that train a small network on images drawn from the seed, by plain SGD."""

    model: str = "digits_cnn"
    input_shape: tuple[int, int, int] = (1, 8, 8)
    clients: int = 50
    together: int = 10
    samples: int = 100
    batch_size: int = 10
    seed: int = 0


@dataclass(frozen=True)
class TrainingTimes:
    """Median seconds for all clients: one after another and in stacks, on the CPU and on the device.

    apart: the largest difference between updates, of all ways from those of one after another on the CPU, in its
    largest value.
    """

    alone: Pair
    stacked: Pair
    apart: float


def training_times(case: TrainingCase, device: str, threads: int, repeats: int) -> TrainingTimes:
    """The same clients trained in four ways."""
    shape, size = case.input_shape, (case.clients, case.samples)
    draw = rng.generator(case.seed, "bench", "clients")
    images, labels = draw.random((*size, *shape), np.float32), draw.integers(0, 10, size)
    data = [ClientData(own, classes) for own, classes in zip(images, labels, strict=True)]
    found: dict[tuple[str, int], np.ndarray] = {}
    spent: dict[tuple[str, int], float] = {}
    for place in (devices.CPU, device):
        for together in (1, case.together):
            train = _trainer(case, data, together)
            key = (place, together)
            with ThreadLimit(threads)(), devices.working_on(place):
                found[key] = train()
                spent[key] = float(np.median([seconds(train) for _ in range(repeats)]))
    reference = found[devices.CPU, 1]
    alone, stacked = (
        Pair(what, spent[devices.CPU, together], spent[device, together])
        for what, together in (("one after another", 1), (f"in stacks of {case.together}", case.together))
    )
    apart = max(difference(reference, updates) or 0.0 for updates in found.values())
    return TrainingTimes(alone, stacked, apart)


def _trainer(case: TrainingCase, data: Sequence[ClientData], together: int) -> Callable[[], np.ndarray]:
    """What trains all clients on the device under way and returns their updates [K, d]."""
    factory = ModelRecipe(case.model, 10, case.input_shape, rng.torch_seed(case.seed, "model"), {})
    built = factory.build()
    layout = Layout.of(built)
    vector = layout.vector(built)
    recipe = TrainingRecipe(batch_size=case.batch_size)
    keys = [("train", 0, client) for client in range(len(data))]

    def train() -> np.ndarray:
        trainer = LocalTrainer(factory, layout, recipe, devices.here())
        if together == 1:
            alone = [
                trainer.fit(vector, own, key, seed=case.seed) for own, key in zip(data, keys, strict=True)
            ]
            return np.stack(alone)[:, : layout.dim]
        stack = CohortTrainer(trainer)
        parts = [
            stack.fit(
                vector,
                data[first : first + together],
                keys[first : first + together],
                seed=case.seed,
                learning_rate=recipe.learning_rate,
            )[0]
            for first in range(0, len(data), together)
        ]
        return np.concatenate(parts)

    return train
