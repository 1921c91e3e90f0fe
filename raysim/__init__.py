"""raysim: federated learning under attack, simulated on Ray; what a defense costs and what it catches.

    import raysim

    config = raysim.ExperimentConfig(
        rounds=5,
        population={"clients": 24, "malicious": 3},
        attack={"name": "noise"},
        defense={"name": "krum", "num_byzantine": 3},
    )
    result = raysim.run(config, backend="inprocess")
    result.rounds[-1]["main_accuracy"]

`ExperimentConfig` (and `load_config` for YAML files, presets and overrides) validates a request and refuses a
mistake with `ConfigError`, naming the key, the rule, the value and the nearest valid choice. `run` carries
it out and returns a `RunResult`; `resume` continues a run that was killed. `Attack`, `Defense`,
`PreAggregation`, `Verdict`, `Visibility` and `Updates` are the contracts for methods of your own, which a
configuration names by import path (`defense.name=mypackage.mymodule:MyDefense`).

Importing raysim imports neither ray nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raysim.attack import Attack, Visibility
from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.defense import Defense, PreAggregation, Verdict, chain
from raysim.errors import ConfigError, DataError, RaysimError, RecordError, RunError
from raysim.matrix.updates import Updates

if TYPE_CHECKING:
    from raysim.runs.execution import Observer
    from raysim.runs.runner import RunResult

__all__ = [
    "Attack",
    "ConfigError",
    "DataError",
    "Defense",
    "ExperimentConfig",
    "PreAggregation",
    "RaysimError",
    "RecordError",
    "RunError",
    "Updates",
    "Verdict",
    "Visibility",
    "chain",
    "load_config",
    "resume",
    "run",
]


def run(
    config: ExperimentConfig | Mapping[str, Any],
    *,
    name: str | None = None,
    out: str | Path = "runs",
    backend: Literal["ray", "inprocess"] = "ray",
    address: str | None = None,
    observe: Observer | None = None,
) -> RunResult:
    """Run one experiment and leave its results in the folder `out/name` (default name: date and time).

    backend: `ray` (a cluster on this machine, or the one at `address`) or `inprocess` (this process, no Ray);
    the results are the same bytes. observe: called with every `raysim.runs.execution.Progress`. Raises
    ConfigError or DataError before anything starts, RunError when the run fails.
    """
    from raysim.runs.runner import run as carry_out

    return carry_out(config, name=name, out=out, backend=backend, address=address, observe=observe)


def resume(
    path: str | Path,
    *,
    backend: Literal["ray", "inprocess"] = "ray",
    address: str | None = None,
    observe: Observer | None = None,
) -> RunResult:
    """Continue the run in folder `path` from its newest checkpoint; the result is that of an undisturbed run."""
    from raysim.runs.runner import resume as carry_on

    return carry_on(path, backend=backend, address=address, observe=observe)
