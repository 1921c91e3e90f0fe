"""What a stage, a defense, an attack costs in seconds a round: the one definition that every table uses.

Seconds are wall-clock seconds as the server saw them, waiting and transfer included. Those of one round are added up.
A cost is then the **median over the rounds that ran it, without the first of them**: in its first round a stage
imports libraries and starts processes. That first round stands beside it, and how many rounds ran it at all. What ran
in one round only has no median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysim.backends.telemetry import OWNERS, WHOLE_STAGE
from raysim.report.finished_run import Columns

UNKNOWN = "not recorded"
"""The owner of stages that runs of earlier versions recorded without one."""

KEEPING = ("record", "checkpoint", "load")
"""Stages that keep or read a run's files: no part of a round of federated learning."""


@dataclass(frozen=True)
class Cost:
    """Seconds a round. first_s: in the first round that ran it; median_s: over the others; both NaN if there is none.

    total_s: over the whole run.
    """

    first_s: float
    median_s: float
    rounds: int
    total_s: float


@dataclass(frozen=True)
class StageCost:
    """One stage over the whole run. NaN are bytes moved, spilled and restored if the run was recorded before they were measured,
    and peak_gpu_bytes if nothing ran on a GPU.
    """

    stage: str
    owner: str
    cost: Cost
    cpu_s: float
    bytes_in: int
    bytes_out: int
    bytes_moved: float
    bytes_spilled: float
    bytes_restored: float
    peak_memory_bytes: int
    tasks: int
    retries: int
    peak_gpu_bytes: float = float("nan")


def cost(seconds: Sequence[float] | NDArray[np.float64]) -> Cost:
    """The cost of a stage from its seconds in each round that ran it, in the order of rounds.

    >>> cost([2.5, 0.25, 0.5, 0.75])
    Cost(first_s=2.5, median_s=0.5, rounds=4, total_s=4.0)
    """
    known = np.asarray(seconds, np.float64)
    nan = float("nan")
    return Cost(
        first_s=float(known[0]) if known.size else nan,
        median_s=float(np.median(known[1:])) if known.size > 1 else nan,
        rounds=int(known.size),
        total_s=float(known.sum()),
    )


def stage_costs(spans: Columns) -> list[StageCost]:
    """Every stage of every owner, the longest in all first (equal ones by name)."""
    whole, owners = spans["task"] == WHOLE_STAGE, _owners(spans)
    found = []
    for stage, owner in sorted(set(zip(spans["stage"], owners, strict=True))):
        of_stage = (spans["stage"] == stage) & (owners == owner)
        here = {name: column[whole & of_stage] for name, column in spans.items()}
        if not here["round"].size:
            continue
        found.append(
            StageCost(
                stage=stage,
                owner=owner,
                cost=cost(_by_round(here["round"], here["wall_s"])),
                cpu_s=float(here["cpu_s"].sum()),
                bytes_in=int(here["bytes_in"].sum()),
                bytes_out=int(here["bytes_out"].sum()),
                bytes_moved=float(here["bytes_moved"].sum()),
                bytes_spilled=float(here["bytes_spilled"].sum()),
                bytes_restored=float(here["bytes_restored"].sum()),
                peak_memory_bytes=int(here["peak_memory_bytes"].max()),
                tasks=int(np.count_nonzero(of_stage & ~whole)),
                retries=int(here["retries"].sum()),
                peak_gpu_bytes=float(np.fmax.reduce(here["peak_gpu_bytes"])),
            )
        )
    return sorted(found, key=lambda entry: (-entry.cost.total_s, entry.stage))


def owner_costs(spans: Columns) -> dict[str, Cost]:
    """Owner -> the cost of all its stages; owners without a stage are left out."""
    seconds = owner_seconds(spans)
    return {owner: cost(values[~np.isnan(values)]) for owner, values in seconds.items()}


def recorded_rounds(spans: Columns) -> NDArray[np.int64]:
    """The rounds with a stage, ascending [R]."""
    return np.unique(spans["round"][spans["task"] == WHOLE_STAGE])


def owner_seconds(spans: Columns) -> dict[str, NDArray[np.float64]]:
    """Owner -> seconds of all its stages in each recorded round [R], NaN in rounds without any."""
    whole, owners, rounds = spans["task"] == WHOLE_STAGE, _owners(spans), recorded_rounds(spans)
    found = {}
    for owner in (*OWNERS, UNKNOWN):
        here = whole & (owners == owner)
        if here.any():
            values = np.full(rounds.size, np.nan)
            ran = np.unique(spans["round"][here])
            values[np.searchsorted(rounds, ran)] = _by_round(spans["round"][here], spans["wall_s"][here])
            found[owner] = values
    return found


def round_cost(spans: Columns, *, leave_out: Sequence[str] = ()) -> Cost:
    """The cost of all stages together but those left out."""
    here = (spans["task"] == WHOLE_STAGE) & ~np.isin(spans["stage"], leave_out)
    return cost(_by_round(spans["round"][here], spans["wall_s"][here]))


def owner_cost(spans: Columns, owner: str) -> Cost:
    """The cost of one owner's stages; of no round if it has none."""
    return owner_costs(spans).get(owner, cost([]))


def owner_share(spans: Columns, owner: str) -> float:
    """An owner's part of the seconds of all stages: the median over the rounds it worked in, the first left out.

    NaN if there is no such round.
    """
    seconds = owner_seconds(spans)
    if owner not in seconds:
        return float("nan")
    every = np.nansum(list(seconds.values()), axis=0)
    ran = ~np.isnan(seconds[owner]) & (every > 0)
    return cost(seconds[owner][ran] / every[ran]).median_s


def _owners(spans: Columns) -> NDArray[np.object_]:
    return np.where(spans["owner"] == "", UNKNOWN, spans["owner"])


def _by_round(rounds: NDArray[np.int64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds added up for each of the rounds, in their order."""
    _, place = np.unique(rounds, return_inverse=True)
    return np.bincount(place, weights=seconds).astype(np.float64)
