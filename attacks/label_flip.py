"""Label flipping: train honestly on wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from attacks.poison_training import check_class
from raysim.attack import Attack, ClientContext
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset
from raysim.errors import ConfigError
from raysim.options import PositiveFraction


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Train honestly on flipped labels: inverse, one class to another, all to one, or random.

    The middle class of an odd number stays under `inverse`; `random` draws uniformly, once for the whole run. FLPoison
    flips all source samples whatever its ratio (the default here). A client without a sample to flip behaves honestly
    and notes it. Attack success is measured for `pair`, on test images of the source, and for `all_to_one`, on those of
    other classes than the target.
    """

    paper = "Biggio et al., ICML 2012"
    mode: Literal["inverse", "pair", "all_to_one", "random"] = "inverse"
    """Flip: `inverse` (C - 1 - y), `pair` (source to target), `all_to_one` (to target), `random`
    (another class)."""
    source: int | None = None
    """Class that `pair` flips (FLPoison: 2); null with other modes."""
    target: int | None = None
    """Class that `pair` and `all_to_one` flip to (FLPoison: 7); null with other modes."""
    ratio: PositiveFraction = 1.0
    """Share of the samples concerned that is flipped, rounded; drawn once for the whole run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, used in (("source", self.mode == "pair"), ("target", self.mode in ("pair", "all_to_one"))):
            value = getattr(self, key)
            if used and value is None:
                raise ConfigError(key, f"must be given with mode={self.mode}", value)
            if not used and value is not None:
                raise ConfigError(key, f"has no meaning with mode={self.mode}", value)
        if self.mode == "pair" and self.source == self.target:
            raise ConfigError("target", "must differ from source", self.target)

    def check(self, setting: Setting) -> None:
        """Classes must exist, and be two at least."""
        check_class("source", self.source, setting)
        check_class("target", self.target, setting)
        if setting.num_classes < 2:
            raise ConfigError("mode", "needs at least 2 classes to flip between", setting.num_classes)

    def poison_data(self, data: ClientData, ctx: ClientContext) -> ClientData:
        """The same images with some labels changed; the same in every round."""
        generator = ctx.shared_generator("label flip", ctx.client)
        if self.mode == "pair":
            eligible = np.flatnonzero(data.labels == self.source)
        elif self.mode == "all_to_one":
            eligible = np.flatnonzero(data.labels != self.target)
        else:
            eligible = np.arange(len(data))
        count = int(self.ratio * len(eligible) + 0.5)
        if not count:
            ctx.note("no label to flip")
            return data
        chosen = generator.choice(eligible, count, replace=False)
        labels = data.labels.copy()
        if self.mode == "inverse":
            labels[chosen] = ctx.num_classes - 1 - labels[chosen]
        elif self.mode == "random":
            labels[chosen] = (
                labels[chosen] + generator.integers(1, ctx.num_classes, count)
            ) % ctx.num_classes
        else:
            labels[chosen] = self.target
        return ClientData(data.images, labels)

    def triggered_test(self, test: Dataset) -> Dataset | None:
        """The inputs that should become the target: of the source class, or of every other class."""
        if self.target is None:
            return None
        wrong = test.labels == self.source if self.mode == "pair" else test.labels != self.target
        if not wrong.any():
            key = "source" if self.mode == "pair" else "target"
            raise ConfigError(key, "must leave test images that could be taken for it", getattr(self, key))
        return Dataset(test.images[wrong], np.full(int(wrong.sum()), self.target, np.int64))
