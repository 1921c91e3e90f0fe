"""The edge-case backdoor: rare inputs, a wrong label, ordinary training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attacks.edge_inputs import EdgeInputs, Source, edge_generator
from attacks.poison_training import PoisonTraining
from raysim.attack import ClientContext, Visibility
from raysim.context import Setting
from raysim.data.client_data import ClientData, DataPool
from raysim.data.dataset import Dataset
from raysim.data.edge_cases import ARDIS_TARGET, SOUTHWEST_TARGET
from raysim.options import PositiveInt

USUAL_TARGETS = {"southwest": SOUTHWEST_TARGET, "ardis": ARDIS_TARGET}


@dataclass(frozen=True)
class PoisonedData(ClientData):
    """Local data whose first `clean` samples are as they were and whose rest is poison."""

    clean: int = 0


@dataclass(frozen=True)
class EdgeCase(PoisonTraining):
    """Black-box edge-case backdoor: train on a clean sample and rare inputs with a wrong label.

    H. Wang et al., "Attack of the tails" (NeurIPS 2020); FedGrad's main attack, which takes 100 + 100 samples on EMNIST,
    from the first 20 % of the sevens (here from all of them). Inverted images are the default, since they need no file.
    D' is the same in every round, and its size is what the attacker claims to hold.
    If no image is eligible, D' is the clean sample, and the client trains honestly on it and notes it.
    """

    paper = "H. Wang et al., NeurIPS 2020"
    source: Source = "inverted"
    """Where the rare inputs come from (attacks.edge_inputs): altered images of the data set, or a
    published set's files."""
    root: str | None = None
    """Folder of the published set's files; null if `source` needs none."""
    source_class: int | None = None
    """Class whose images are altered or looked through; null: every class but the target."""
    target: int | None = None
    """Label the rare inputs get; null: 9 for southwest, 1 for ardis, else 0."""
    clean_samples: PositiveInt = 400
    """Clean samples in D', or as many as there are (Wang et al. on CIFAR-10 and FedGrad: 400)."""
    edge_samples: PositiveInt = 100
    """Rare inputs in D', or as many as there are (Wang et al. on CIFAR-10: 100; FedGrad: 200)."""
    distinct_poison: bool = False
    """Whether every attacker draws D' from its own samples; false, as published: all share one set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.inputs  # refuses what it cannot work with

    @property
    def inputs(self) -> EdgeInputs:
        """The source of the rare inputs, with the label they get."""
        target = USUAL_TARGETS.get(self.source, 0) if self.target is None else self.target
        return EdgeInputs(self.source, self.root, self.source_class, target)

    @property
    def visibility(self) -> Visibility:
        """COLLUDING, because D' is built from all colluders' data, unless each draws its own."""
        return Visibility.OWN if self.distinct_poison else Visibility.COLLUDING

    def check(self, setting: Setting) -> None:
        """Inputs must be images; classes must exist."""
        setting.require_images(type(self).__name__)
        self.inputs.check(setting)

    def poison_data(self, data: ClientData, ctx: ClientContext) -> ClientData:
        """D': the clean sample, then the edge inputs."""
        pool = DataPool.of(data) if self.distinct_poison else ctx.colluders_data()
        generator = edge_generator(ctx, self.distinct_poison)
        edges, used = self.inputs.training(pool, self.edge_samples, ctx, generator)
        unused = np.setdiff1d(np.arange(len(pool)), used)
        count = min(self.clean_samples, len(unused))
        clean = pool.take(generator.choice(unused, count, replace=False))
        if not len(edges):
            ctx.note("no image to make an edge case of")
        labels = np.full(len(edges), self.inputs.target, np.int64)
        return PoisonedData(
            np.concatenate([clean.images, edges]), np.concatenate([clean.labels, labels]), clean=count
        )

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """Ordinary training on D'."""
        if isinstance(data, PoisonedData) and data.clean == len(data):
            return honest_train(data)
        return self.train_on_poison(honest_train, data, ctx)

    def train_on_poison(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The update of an attacker that has edge inputs."""
        return honest_train(data, **self.training_options(ctx))

    def triggered_test(self, test: Dataset) -> Dataset | None:
        """Edge inputs that no attacker trains on, labelled with the target."""
        return self.inputs.testing(test, self.edge_samples)
