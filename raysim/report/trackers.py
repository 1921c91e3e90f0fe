"""Rounds logged to an experiment tracker as they end: TensorBoard, MLflow, or Weights & Biases.

All of them write to the folder of the run and use no network. They are optional packages:
`pip install raysim-fl[tensorboard]`, `[mlflow]`, `[wandb]`.
"""

from __future__ import annotations

import importlib.util
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raysim.errors import ConfigError

if TYPE_CHECKING:
    from raysim.config.schema import ExperimentConfig
    from raysim.runs.execution import Observer, Progress

TrackerName = Literal["tensorboard", "mlflow", "wandb"]


class Tracker(ABC):
    """Where the numbers of rounds go. Made when the first round has ended."""

    @abstractmethod
    def log(self, number: int, values: Mapping[str, float]) -> None:
        """What was measured in a round."""

    @abstractmethod
    def close(self) -> None:
        """After the last round, also of a run that ends early."""


class TensorBoard(Tracker):
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN`, or the folder of many runs."""

    def __init__(self, path: Path, config: ExperimentConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(log_dir=str(path / "tensorboard"))
        self._writer.add_text("config", f"```yaml\n{config.to_yaml()}\n```")

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self) -> None:
        """See Tracker."""
        self._writer.close()


class MLflow(Tracker):
    """A store of its own, RUN/mlflow.db: `mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db`."""

    def __init__(self, path: Path, config: ExperimentConfig) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        from raysim.report.tables import flatten

        self._client: Any = MlflowClient(tracking_uri=f"sqlite:///{(path / 'mlflow.db').absolute()}")
        known = self._client.get_experiment_by_name("raysim")
        experiment = self._client.create_experiment("raysim") if known is None else known.experiment_id
        self._run: str = self._client.create_run(experiment, run_name=path.name).info.run_id
        for name, value in flatten(config.to_mapping()):
            self._client.log_param(self._run, name, value)

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=number)

    def close(self) -> None:
        """See Tracker."""
        self._client.set_terminated(self._run)


class WandB(Tracker):
    """A run in RUN/wandb, offline: `wandb sync RUN/wandb/offline-run-*` sends it, if that is wanted."""

    def __init__(self, path: Path, config: ExperimentConfig) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._run: Any = wandb.init(
            project="raysim", name=path.name, dir=str(path), config=config.to_mapping(), mode="offline"
        )

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        self._run.log(dict(values), step=number)

    def close(self) -> None:
        """See Tracker."""
        self._run.finish()


KINDS: dict[TrackerName, Callable[[Path, ExperimentConfig], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


@contextmanager
def tracked(name: TrackerName | None, path: Path, config: ExperimentConfig) -> Iterator[Observer]:
    """An observer for `raysim.run` that logs every round of the run at `path`; one that does nothing for None.

    Raises ConfigError for a tracker that is not installed.
    """
    require(name)
    made: list[Tracker] = []

    def observe(event: Progress) -> None:
        if name is not None and event.row:
            if not made:
                made.append(KINDS[name](path, config))
            made[0].log(event.round, numbers(event.row))

    try:
        yield observe
    finally:
        for tracker in made:
            tracker.close()


def both(*observers: Observer) -> Observer:
    """One that tells all of these, in this order."""

    def observe(event: Progress) -> None:
        for observer in observers:
            observer(event)

    return observe


def require(name: TrackerName | None) -> None:
    """ConfigError for a tracker that is not installed."""
    if name is not None and importlib.util.find_spec(name) is None:
        raise ConfigError("tracker", f"needs a package: pip install raysim-fl[{name}]", name)


def numbers(row: Mapping[str, object]) -> dict[str, float]:
    """What of a row of `rounds` is a number and was measured.

    >>> numbers({"round": 3, "recall": 0.5, "fpr": float("nan"), "notes": "{}", "flagged": 2})
    {'recall': 0.5, 'flagged': 2.0}
    """
    return {
        name: float(value)
        for name, value in row.items()
        if name != "round" and isinstance(value, int | float) and not math.isnan(value)
    }
