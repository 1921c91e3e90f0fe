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
it out and returns a `RunResult`; `resume` continues a run that was killed.

What a method, a model, a data set or a study of your own needs is here by name: the contracts (`Attack`, `Defense`,
`PreAggregation`, `ModelFactory`, `Partitioner`), what they are handed (`Context`, `ClientContext`, `View`, `Updates`, ...)
and what they return (`Verdict`, `FederatedData`, ...). Everything in `__all__` is the public interface and changes
with a line in the changelog; every other module may change without one.

Importing raysim imports neither ray nor torch; the names that need them are imported at their first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raysim import _moved
from raysim.attack import Attack, ClientContext, View, Visibility
from raysim.backends.base import InProcessBackend, Needs, Reference
from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.context import Context, ServerData, Setting, State
from raysim.data.assignment import Partition
from raysim.data.client_data import ClientData, DataPool
from raysim.data.dataset import Dataset, FederatedData, normalise
from raysim.data.partition import Partitioner
from raysim.defense import Defense, PreAggregation, Verdict, accepted_mean, chain
from raysim.errors import (
    ConfigError,
    DataError,
    RaysimError,
    RecordError,
    RunError,
    nearest_name,
    unknown_name,
)
from raysim.matrix.distances import krum_scores, squared_distances, squared_norms
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.row_blocks import RowBlock
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.rng import torch_generator, torch_randomness
from raysim.training.recipe import TrainingRecipe
from raysim.version import __version__

if TYPE_CHECKING:
    from raysim.composition.evaluate import evaluate, evaluate_round
    from raysim.models.factory import ModelFactory, ModuleFactory, find_layers
    from raysim.runs.execution import Observer, Progress
    from raysim.runs.result import RunResult
    from raysim.training.flat_optimizer import FlatOptimizer
    from raysim.training.local import LocalTrainer

__all__ = [
    "Attack",
    "ClientContext",
    "ClientData",
    "ConfigError",
    "Context",
    "DataError",
    "DataPool",
    "Dataset",
    "Defense",
    "Entry",
    "ExperimentConfig",
    "FederatedData",
    "FlatOptimizer",
    "InProcessBackend",
    "Layout",
    "LocalTrainer",
    "ModelFactory",
    "ModuleFactory",
    "Needs",
    "Observer",
    "Partition",
    "Partitioner",
    "PreAggregation",
    "Progress",
    "RaysimError",
    "RecordError",
    "Reference",
    "RowBlock",
    "RowStage",
    "RunError",
    "RunResult",
    "ServerData",
    "Setting",
    "State",
    "TrainingRecipe",
    "Updates",
    "Verdict",
    "View",
    "Visibility",
    "__version__",
    "accepted_mean",
    "chain",
    "evaluate",
    "evaluate_round",
    "find_layers",
    "krum_scores",
    "load_config",
    "nearest_name",
    "normalise",
    "resume",
    "run",
    "squared_distances",
    "squared_norms",
    "torch_generator",
    "torch_randomness",
    "unknown_name",
]

_AT_FIRST_USE: Mapping[str, str] = {
    "FlatOptimizer": "raysim.training.flat_optimizer",
    "LocalTrainer": "raysim.training.local",
    "ModelFactory": "raysim.models.factory",
    "ModuleFactory": "raysim.models.factory",
    "Observer": "raysim.runs.execution",
    "Progress": "raysim.runs.execution",
    "RunResult": "raysim.runs.result",
    "evaluate": "raysim.composition.evaluate",
    "evaluate_round": "raysim.composition.evaluate",
    "find_layers": "raysim.models.factory",
}
"""Public names whose modules need torch, or are above the contracts, and where they are."""


_moved.install()


def __getattr__(name: str) -> Any:
    if name in _AT_FIRST_USE:
        return getattr(import_module(_AT_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
