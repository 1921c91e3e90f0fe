"""Print what a measurement found, with what is needed to repeat it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from rich.console import Console

from raysim.runs.directory import environment


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
