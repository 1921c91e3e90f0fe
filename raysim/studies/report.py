"""Print what a measurement found, with what is needed to repeat it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from rich.console import Console
from rich.table import Table

from raysim.config.schema import ExperimentConfig
from raysim.runs.directory import environment
from raysim.studies.population import PopulationCost
from raysim.studies.rounds.measure import RoundTimes


def machine_lines(**settings: object) -> list[str]:
    """Machine, versions, commit, date, and the settings of a measurement."""
    about = environment()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    values = ", ".join(f"{name} {value}" for name, value in settings.items())
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [
        f"{about['processor']}, {about['cpus']} CPUs, Python {about['python']}; {versions}",
        f"{date}, commit {(about['commit'] or 'none')[:12]}, {values}",
    ]


def print_machine(console: Console, **settings: object) -> None:
    """The lines of `machine_lines`, each on one line of its own."""
    for line in machine_lines(**settings):
        console.print(line, soft_wrap=True)


def spread(values: np.ndarray, unit: float = 1.0) -> tuple[str, str, str]:
    """Minimum, median and maximum, for three columns."""
    return tuple(f"{value / unit:.3f}" for value in (values.min(), np.median(values), values.max()))  # type: ignore[return-value]


def print_rounds(case: str, config: ExperimentConfig, times: RoundTimes, backend: str) -> None:
    """The two times, their ratio to the ideal, and where a simulated round's time went."""
    console = Console(width=110)
    training = config.training
    console.print(
        f"{case}: {config.population.clients} clients, model {config.model.name}, {training.epochs} epoch of batches"
        f" of {training.batch_size}, defense {config.defense[0].name}, backend {backend}",
        style="bold",
    )
    repeats = len(times.bare_s)
    print_machine(
        console, seed=config.seed, repeats=repeats, workers=times.workers, threads=config.resources.threads
    )
    table = Table(box=None, pad_edge=False)
    for name in ("", "min", "median", "max"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("bare PyTorch loop, one process, one thread (s)", *spread(times.bare_s))
    table.add_row("bare PyTorch loop, one process, as many threads as workers (s)", *spread(times.threaded_s))
    table.add_row(f"ideal: bare / {times.workers} workers (s)", *spread(times.bare_s / times.workers))
    table.add_row("simulated round (s)", *spread(times.simulated_s))
    table.add_row("simulated / ideal, pair by pair", *spread(times.ratios), style="bold")
    table.add_row("bare loop on the same cores / simulated round", *spread(times.speed_ups), style="bold")
    console.print(table)
    parts = ", ".join(f"{stage} {seconds * 1e3:.1f}" for stage, seconds in times.stages.items())
    console.print(f"stages (ms a round, mean): {parts}\n", soft_wrap=True)


def print_population(config: ExperimentConfig, cost: PopulationCost, backend: str) -> None:
    """Memory and seconds of a large population."""
    console = Console(width=110)
    population = config.population
    console.print(
        f"{population.clients:,} clients, cohort {population.cohort}, backend {backend}", style="bold"
    )
    print_machine(console, seed=config.seed, rounds=config.rounds)
    console.print(f"peak memory of all processes: {cost.peak_bytes / 2**30:.2f} GiB (proportional set size)")
    later = ", ".join(f"{seconds:.2f}" for seconds in cost.later_rounds_s)
    console.print(f"first round after {cost.first_round_s:.1f} s, start-up included; later rounds: {later} s")
