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
`PreAggregation`, `ModelFactory`, `Partitioner`, `Devices`), what they are handed (`Context`, `ClientContext`, `View`, `Updates`, ...)
and what they return (`Verdict`, `FederatedData`, ...). Everything in `__all__` is the public interface and changes
with a line in the changelog; every other module may change without one.

Importing raysim imports neither ray nor torch; the names that need them are imported at their first use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raysim import _moved
from raysim.attack import Attack, ClientContext, Diagnostics, View, Visibility
from raysim.backends import devices
from raysim.backends.base import ACCELERATED, InProcessBackend, Needs, Reference
from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.context import Context, ServerData, Setting, State
from raysim.data.assignment import Partition
from raysim.data.client_data import ClientData, DataPool
from raysim.data.dataset import Dataset, FederatedData, normalise
from raysim.data.partition import Partitioner
from raysim.data.shard_writer import write_shards
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
from raysim.fleet.completion import Speeds
from raysim.fleet.contract import Devices, Fleet
from raysim.matrix.column_tasks import Columns
from raysim.matrix.distances import krum_scores, squared_distances
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.new_rows import rows_from
from raysim.matrix.pair_distances import nearest_scores, pair_distances
from raysim.matrix.pairs import Pairs, is_whole
from raysim.matrix.row_blocks import RowBlock
from raysim.matrix.row_products import products_with, squared_norms, squares_about
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.options import AtLeastTwo, Count, Fraction, NotNegative, Positive, PositiveFraction, PositiveInt
from raysim.own_packages import share_names, take_names
from raysim.requirement import Requirement
from raysim.rng import torch_generator, torch_randomness
from raysim.training.recipe import TrainingRecipe
from raysim.version import __version__

share_names()

if TYPE_CHECKING:
    from raysim.composition.evaluate import evaluate, evaluate_round
    from raysim.models.factory import ModelFactory, ModuleFactory, find_layers
    from raysim.runs.execution import Observer, Progress
    from raysim.runs.result import RunResult
    from raysim.training.flat_optimizer import FlatOptimizer
    from raysim.training.local import LocalTrainer

__all__ = [
    "ACCELERATED",
    "AtLeastTwo",
    "Attack",
    "ClientContext",
    "ClientData",
    "Columns",
    "ConfigError",
    "Context",
    "Count",
    "DataError",
    "DataPool",
    "Dataset",
    "Defense",
    "Devices",
    "Diagnostics",
    "Entry",
    "ExperimentConfig",
    "FederatedData",
    "FlatOptimizer",
    "Fleet",
    "Fraction",
    "InProcessBackend",
    "Layout",
    "LocalTrainer",
    "ModelFactory",
    "ModuleFactory",
    "Needs",
    "NotNegative",
    "Observer",
    "Pairs",
    "Partition",
    "Partitioner",
    "Positive",
    "PositiveFraction",
    "PositiveInt",
    "PreAggregation",
    "Progress",
    "RaysimError",
    "RecordError",
    "Reference",
    "Requirement",
    "RowBlock",
    "RowStage",
    "RunError",
    "RunResult",
    "ServerData",
    "Setting",
    "Speeds",
    "State",
    "TrainingRecipe",
    "Updates",
    "Verdict",
    "View",
    "Visibility",
    "__version__",
    "accepted_mean",
    "chain",
    "devices",
    "evaluate",
    "evaluate_round",
    "find_layers",
    "is_whole",
    "krum_scores",
    "load_config",
    "nearest_name",
    "nearest_scores",
    "normalise",
    "pair_distances",
    "products_with",
    "resume",
    "rows_from",
    "run",
    "session",
    "squared_distances",
    "squared_norms",
    "squares_about",
    "torch_generator",
    "torch_randomness",
    "unknown_name",
    "write_shards",
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
    config: ExperimentConfig | Mapping[str, object] | None = None,
    *,
    model: object = None,
    data: object = None,
    defense: Defense | Sequence[Defense] | None = None,
    attack: Attack | Sequence[Attack] | None = None,
    partition: object = None,
    name: str | None = None,
    out: str | Path = "runs",
    backend: Literal["ray", "inprocess"] = "ray",
    address: str | None = None,
    observe: Observer | None = None,
) -> RunResult:
    """Run one experiment and leave its results in the folder `out/name` (default name: date and time).

    config: as checked already, or as nested dicts; what it leaves out has defaults. backend: `ray` (a cluster on
    this machine, or the one at `address`) or `inprocess` (this process, no Ray); the results are the same bytes.
    observe: called with every `raysim.runs.execution.Progress`. Raises ConfigError or DataError before anything
    starts, RunError when the run fails.

    Objects of your own stand in place of what the configuration names in their group:

    model: a torch module (copied with its values), its class, or a function that builds it, called with `num_classes`
    and `input_shape` where it has such parameters. It returns scores [n, classes]. Defenses look at its last
    nn.Linear and its last convolution, or at those that its text attributes `head` and `cam_layer` name.
    data: (train, test), each a pair of arrays (inputs [n, ...], labels [n] from 0), a map-style torch Dataset of
    (input, label), or a Hugging Face `datasets.Dataset`. Images are [n, C, H, W], uint8 divided by 255; features
    [n, f] of floats and tokens [n, t] of integers reach the model as they are. data.limit and data.partition apply.
    defense, attack: instances, or lists of them for a chain or several attacks, which keep the schedules and clients
    of as many attacks in config. partition: an object with `split(labels, num_clients, rng, owners)`.

    On Ray their code is sent to the workers by value, also from `__main__`, a notebook, and modules beside the script;
    an installed package must be installed on all nodes. The run's config.yaml names them `object:MyDefense` with their
    options, data and model with a digest of their values. `resume` must be given the same again.
    """
    take_names()
    from raysim.composition.given import Given
    from raysim.runs.runner import run as carry_out

    given = Given(model=model, data=data, defense=defense, attack=attack, partition=partition)
    wanted = {} if config is None else config
    return carry_out(
        wanted, name=name, out=out, backend=backend, address=address, observe=observe, given=given
    )


def resume(
    path: str | Path,
    *,
    model: object = None,
    data: object = None,
    defense: Defense | Sequence[Defense] | None = None,
    attack: Attack | Sequence[Attack] | None = None,
    partition: object = None,
    rounds: int | None = None,
    from_round: int | None = None,
    backend: Literal["ray", "inprocess"] = "ray",
    address: str | None = None,
    observe: Observer | None = None,
) -> RunResult:
    """Continue the run in folder `path` from its newest checkpoint; the result is that of an undisturbed run.

    rounds: how many in all, to extend the run. from_round: an earlier checkpoint, or 0 for the start.
    model, data, defense, attack, partition: the objects that `run` was given, again. Raises RecordError where
    checkpoint or tables are damaged, ConfigError if config.yaml was changed, or if one of the objects is missing,
    has other options, or, for data and models, other values.
    """
    take_names()
    from raysim.composition.given import Given
    from raysim.runs.runner import resume as carry_on

    given = Given(model=model, data=data, defense=defense, attack=attack, partition=partition)
    return carry_on(
        path,
        rounds=rounds,
        from_round=from_round,
        backend=backend,
        address=address,
        observe=observe,
        given=given,
    )


@contextmanager
def session(address: str | None = None, runtime_env: Mapping[str, object] | None = None) -> Iterator[None]:
    """A Ray cluster that stays up for all runs inside the block, on this machine or the one at `address`.

    `with raysim.session(): ...` saves every `raysim.run` but the first the cluster's start. Their results are those
    of runs alone. A connection that there is already is used, and kept afterwards. runtime_env: as
    `resources.runtime_env`, for all of these runs.
    """
    from raysim.backends.ray_connection import connected

    with connected(address or os.environ.get("RAY_ADDRESS"), runtime_env):
        yield
