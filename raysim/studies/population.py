"""`raysim bench population`: what a large population costs when only a cohort of it takes part."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise

from raysim.backends.base import BackendName
from raysim.config.schema import ExperimentConfig
from raysim.runs.execution import Progress
from raysim.runs.runner import run
from raysim.studies.memory import TotalMemory


@dataclass(frozen=True)
class PopulationCost:
    """Peak memory of all processes together, seconds from the request to the first round's end, and of later rounds."""

    peak_bytes: int
    first_round_s: float
    later_rounds_s: list[float]


def population_config(clients: int, cohort: int, rounds: int) -> ExperimentConfig:
    """Digits, ten samples a client, a tenth of the clients malicious (noise), Multi-Krum, evaluated each round."""
    return ExperimentConfig.from_mapping(
        {
            "rounds": rounds,
            "population": {"clients": clients, "cohort": cohort, "malicious": 0.1},
            "data": {"name": "digits", "partition": {"name": "iid", "samples_per_client": 10}},
            "training": {"batch_size": 10},
            "attack": {"name": "noise"},
            "defense": {"name": "multi_krum", "num_byzantine": cohort // 5},
        }
    )


def measure(config: ExperimentConfig, backend: BackendName) -> PopulationCost:
    """Run it once and watch."""
    ends: list[float] = []

    def observe(event: Progress) -> None:
        if event.row:
            ends.append(event.at_s)

    began = time.time()
    with tempfile.TemporaryDirectory() as folder, TotalMemory() as watch:
        run(config, name="population", out=folder, backend=backend, observe=observe)
    later = [after - before for before, after in pairwise(ends)]
    return PopulationCost(watch.peak_bytes, ends[0] - began, later)
