"""What attacks that train on poison share: local training of their own, and scaling of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from raysim.attack import Attack, ClientContext
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.options import Positive, PositiveInt

if TYPE_CHECKING:
    from raysim.training.local import LocalTrainer


class TrainingOptions(TypedDict, total=False):
    """What an attack asks of local training beyond the data: see `LocalTrainer.fit`."""

    epochs: int
    learning_rate: float
    decay_epochs: Sequence[int]
    after_backward: Callable[[LocalTrainer], None]
    after_step: Callable[[LocalTrainer, int, bool], None]


@dataclass(frozen=True)
class PoisonTraining(Attack):
    """Base of the attacks whose clients may train longer, or at another learning rate, than honest ones."""

    epochs: PositiveInt | None = None
    """Local epochs of the attackers; null: as the honest clients."""
    learning_rate: Positive | None = None
    """Learning rate of the attackers, decaying from round to round as the honest one; null: as theirs."""
    decay_epochs: Sequence[PositiveInt] = ()
    """Numbers of local epochs after which the attackers' rate is divided by ten (DBA: 2, 8 of 10)."""

    def training_options(self, ctx: ClientContext) -> TrainingOptions:
        """What `honest_train` is to do otherwise than for an honest client."""
        options: TrainingOptions = {"decay_epochs": tuple(self.decay_epochs)}
        if self.epochs is not None:
            options["epochs"] = self.epochs
        if self.learning_rate is not None:
            decay = ctx.learning_rate / ctx.trainer.recipe.learning_rate
            options["learning_rate"] = self.learning_rate * decay
        return options


def replacement_factor(data: ClientData, ctx: ClientContext) -> float:
    """Sum of the cohort's examples over the examples claimed: undoes a data-weighted mean with rate 1.

    1 without data, since there is then nothing to scale.
    """
    return ctx.cohort_examples / len(data) if len(data) else 1.0


def scaled(
    update: np.ndarray, factor: float | np.ndarray, layout: Layout, *, buffers: bool = False
) -> np.ndarray:
    """The update [d + b] float32 with its d parameters times `factor` (a number, or [d] without `buffers`).

    buffers: scale those as well, but never counters.
    """
    result = np.array(update, np.float32)
    result[: layout.dim] *= np.asarray(factor, np.float32)
    if buffers and len(result) > layout.dim:
        columns = np.setdiff1d(np.arange(len(result) - layout.dim), layout.counter_columns())
        result[layout.dim + columns] *= np.float32(factor)
    return result


def check_class(key: str, value: int | None, setting: Setting) -> None:
    """Raise ConfigError unless `value` is a class of the task (or None)."""
    if value is not None and not 0 <= value < setting.num_classes:
        highest = setting.num_classes - 1
        raise ConfigError(key, f"must be a class, 0 to {highest}", value, min(max(value, 0), highest))
