"""`raysim bench gpu`: checks first, then timings until the time is up; what was found, printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console
from rich.table import Table

from defenses.table import DEFENSES
from raysim.backends import devices
from raysim.errors import ConfigError, RunError
from raysim.studies.costs.subjects import parse_subjects
from raysim.studies.gpus.timings import Pair, TrainingCase, stage_pairs, training_times
from raysim.studies.gpus.verdicts import TOLERANCE, Agreement, agreement
from raysim.studies.markdown import about_lines
from raysim.studies.matrix import MatrixSpec
from raysim.studies.store import about_now

LEAF = MatrixSpec()
"""50 updates of 6,603,710 parameters."""

ENLARGED = MatrixSpec("resnet18", (3, 224, 224), 10, clients=24)
"""Networks that see images of the size to which the published code enlarges them."""

TIMED: tuple[tuple[str, MatrixSpec], ...] = (
    ("krum", LEAF),
    ("median", LEAF),
    ("trimmed_mean", LEAF),
    ("flame", LEAF),
    ("fltrust", LEAF),
    ("flare_code", LEAF),
    ("layercam_ae,map_size=input", ENLARGED),
    ("deepsight,samples=500", LEAF),
)
"""Defenses whose stages are timed: at least one for every kind of stage that uses a GPU."""

SHORTER = {
    "deepsight": "deepsight,samples=1000",
    "vae": "vae,num_snapshots=20",
    "dagmm": "dagmm,num_snapshots=20",
    "smea": "smea,num_byzantine=3",
}
"""Options of the defenses that are slow by default, where only verdicts are compared."""


VERDICTS = "verdicts of "


@dataclass(frozen=True)
class GpuPlan:
    """What is compared: verdicts on one matrix, stages of defenses on others, and local training.

    limit_s: seconds after which no other part is begun.
    """

    device: str
    threads: int
    judged: tuple[str, ...] = tuple(SHORTER.get(name, name) for name in sorted(DEFENSES))
    matrix: MatrixSpec = MatrixSpec("digits_cnn", (1, 8, 8), 10, clients=24, malicious=3)
    timed: tuple[tuple[str, MatrixSpec], ...] = TIMED
    training: TrainingCase | None = TrainingCase()
    repeats: int = 3
    limit_s: float = 400.0

    def only(self, names: tuple[str, ...]) -> GpuPlan:
        """The verdicts of these defenses, and nothing else."""
        return replace(self, judged=names, timed=(), training=None)


@dataclass
class Findings:
    """What was measured; left_out: parts that were not begun in time."""

    agreements: list[Agreement] = field(default_factory=list)
    stages: list[tuple[str, Pair]] = field(default_factory=list)
    training: list[Pair] = field(default_factory=list)
    training_apart: float = 0.0
    left_out: list[str] = field(default_factory=list)

    def failures(self) -> list[str]:
        """What is not as it must be, a sentence each."""
        rule = f"more than {TOLERANCE:g} apart"
        found = [f"{one.defense} judges otherwise on the device" for one in self.agreements if not one.holds]
        if self.training_apart > TOLERANCE:
            found.append(f"updates trained in other ways are {self.training_apart:.1e}, {rule}")
        if missed := [part for part in self.left_out if part.startswith(VERDICTS)]:
            found.append(f"{len(missed)} defenses were not compared in time")
        return found


def device_to_measure(rehearse: bool) -> str:
    """The GPU, or with `rehearse` the CPU in its place. ConfigError if there is no GPU."""
    if rehearse:
        return devices.REHEARSAL
    if reason := devices.obstacle():
        rule = f"must be a GPU, and {reason}; --rehearse takes the same paths on the CPU"
        raise ConfigError("device", rule, devices.CPU)
    return devices.decided("cuda")


def measure(plan: GpuPlan, tell: Callable[[str], None]) -> Findings:
    """All parts in order, as far as the time goes; tell: called with what is begun."""
    found, began = Findings(), time.monotonic()

    def due(part: str) -> bool:
        if time.monotonic() - began > plan.limit_s:
            found.left_out.append(part)
            return False
        tell(part)
        return True

    for subject in parse_subjects(plan.judged):
        if due(VERDICTS + subject.label):
            found.agreements.append(agreement(subject, plan.matrix, plan.device, plan.threads))
    if plan.training is not None and due("local training"):
        times = training_times(plan.training, plan.device, plan.threads, plan.repeats)
        found.training, found.training_apart = [times.alone, times.stacked], times.apart
    for label, spec in plan.timed:
        if due(f"seconds of {label}"):
            (subject,) = parse_subjects([label])
            pairs, whole = stage_pairs(subject, spec, plan.device, plan.threads, plan.repeats)
            found.stages += [(label, pair) for pair in [*pairs, whole]]
    return found


def bench_gpu(plan: GpuPlan, tell: Callable[[str], None]) -> None:
    """Measure and print; RunError if a verdict differs, or if not all verdicts could be compared in time."""
    console = Console(width=110)
    console.print(f"{devices.name(plan.device)} ({plan.device}) beside the CPU", style="bold")
    settings = {"threads": plan.threads, "repeats": plan.repeats, "seed": plan.matrix.seed}
    for line in about_lines(about_now(settings)):
        console.print(line, soft_wrap=True)
    found = measure(plan, tell)
    _print_agreements(console, found.agreements)
    _print_pairs(console, "local training", [("all clients", pair) for pair in found.training])
    _print_pairs(console, "stages, copies to and from the device included", found.stages)
    for part in found.left_out:
        console.print(f"left out, the time was up: {part}")
    if failures := found.failures():
        raise RunError("; ".join(failures))
    console.print(
        f"all {len(found.agreements)} defenses judge alike: the same flags, numbers within {TOLERANCE:g}"
    )


def _print_agreements(console: Console, agreements: Sequence[Agreement]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("defense", "flags that differ", "scores", "weights", "aggregate", "stages on the device"):
        table.add_column(name, justify="right" if name in ("scores", "weights", "aggregate") else "left")
    for one in agreements:
        flags = "-" if one.flags is None else str(one.flags)
        parts = ["-" if part is None else f"{part:.1e}" for part in (one.scores, one.weights, one.aggregate)]
        table.add_row(
            one.defense, flags, *parts, ", ".join(one.stages), style=None if one.holds else "bold red"
        )
    console.print(table)


def _print_pairs(console: Console, title: str, pairs: Sequence[tuple[str, Pair]]) -> None:
    if not pairs:
        return
    table = Table(box=None, pad_edge=False)
    for name in (title, "", "CPU (s)", "device (s)", "CPU / device"):
        table.add_column(name, justify="left" if name in (title, "") else "right")
    for label, pair in pairs:
        table.add_row(label, pair.what, f"{pair.cpu_s:.3f}", f"{pair.device_s:.3f}", f"{pair.ratio:.2f}")
    console.print(table)
