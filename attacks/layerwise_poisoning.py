"""Layer-wise poisoning: find the few layers that carry the backdoor, and poison nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attacks.trigger import Trigger
from attacks.triggers import stamp, white
from raysim.attack import ClientContext
from raysim.data.client_data import ClientData
from raysim.matrix.layout import Layout
from raysim.options import Positive, PositiveFraction

BATCH = 256
"""Samples of one forward pass."""

Layers = Mapping[str, Sequence[slice]]
"""The columns of each layer's parameters."""


@dataclass(frozen=True)
class LayerwisePoisoning(Trigger):
    """Trigger backdoor in its backdoor-critical layers alone; the others are as honestly trained.

    Zhuang et al., "Backdoor federated learning by poisoning backdoor-critical layers" (ICLR 2024). In every round the client
    trains a benign model from w_G, and from that a malicious one on partly stamped batches. Layer substitution analysis
    (section 3): each layer of the malicious model is in turn replaced by the benign one; layers are ranked by how far the
    backdoor's success falls; in that order malicious layers are put into the benign model until it reaches `threshold`
    times the malicious model's success. These layers, at least one, are critical, L*. Submitted is the benign update, in
    L* strength * malicious + max(0, 1 - strength) * benign (the paper's lambda).

    Success is the share of the client's own samples of other classes that are taken for the target when stamped (of
    samples that it trains on). A layer is a module's parameters; buffers stay with the model that is put together, and are
    submitted as honestly trained. The benign updates of all attackers, whose mean the published code's adaptive attack submits
    outside L*, are stood in for by the client's own. `scale` applies to the whole. The round's notes name L*.

    The published code differs: each parameter tensor is a layer, success is measured on a quarter of the samples, kept for
    that, and the malicious update that is submitted is trained from w_G.
    """

    paper = "Zhuang et al., ICLR 2024"
    threshold: PositiveFraction = 0.95
    """Share of the malicious model's success at which no further layer is taken (tau; published code: 0.8, its
    adaptive attack: 0.95)."""
    strength: Positive = 1.0
    """Factor lambda on the malicious update in the critical layers (published code: 1; its adaptive attack:
    1 on CIFAR-10, else 0.5)."""

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The honest update, with the critical layers of the malicious one."""
        return super().train(lambda own, **options: self._mixed(honest_train, own, ctx, options), data, ctx)

    def _mixed(
        self,
        honest_train: Callable[..., np.ndarray],
        data: ClientData,
        ctx: ClientContext,
        poisoned: Mapping[str, object],
    ) -> np.ndarray:
        """poisoned: what local training on poison is told."""
        benign: np.ndarray = honest_train(data)
        if not len(data):
            return benign
        start, key = ctx.global_vector + benign, ("attack", "layerwise", ctx.round, ctx.client)
        options = {"learning_rate": ctx.learning_rate, **poisoned}
        malicious = benign + ctx.trainer.fit(start, data, key, seed=ctx.seed, **options)  # type: ignore[arg-type]
        layers = layers_of(ctx.layout)
        images = self._stamped(data, ctx)
        critical = critical_layers(
            lambda update: success(ctx, ctx.global_vector + update, images, self.target),
            benign, malicious, layers, self.threshold,
        )  # fmt: skip
        ctx.note(f"critical layers: {', '.join(critical)}")
        update = benign.copy()
        for name in critical:
            for columns in layers[name]:
                kept = max(0.0, 1.0 - self.strength) * benign[columns]
                update[columns] = self.strength * malicious[columns] + kept
        return update

    def _stamped(self, data: ClientData, ctx: ClientContext) -> np.ndarray:
        """The client's samples of other classes than the target, stamped."""
        images: np.ndarray = data.images[data.labels != self.target].copy()
        channels, height, width = images.shape[1:]
        stamp(images, self.pixels(height, width, ctx), white(channels, ctx))
        return images


def layers_of(layout: Layout) -> Layers:
    """The parameters of each module, by its name, in the model's order."""
    found: dict[str, list[slice]] = {}
    for entry in layout.parameters:
        found.setdefault(entry.name.rpartition(".")[0], []).append(slice(entry.start, entry.stop))
    return found


def critical_layers(
    rate: Callable[[np.ndarray], float],
    benign: np.ndarray,
    malicious: np.ndarray,
    layers: Layers,
    threshold: float,
) -> list[str]:
    """The backdoor-critical layers of two updates [d + b], most critical first; rate: the backdoor's success of an update.

    Of layers whose replacement costs equally much the model's first comes first.
    """
    reached = rate(malicious)
    kept = {name: rate(_substituted(malicious, benign, layers[name])) for name in layers}
    order = sorted(layers, key=lambda name: kept[name])  # stable
    mixed, chosen = benign, []
    for name in order:
        mixed = _substituted(mixed, malicious, layers[name])
        chosen.append(name)
        if rate(mixed) >= threshold * reached:
            break
    return chosen


def _substituted(update: np.ndarray, other: np.ndarray, columns: Sequence[slice]) -> np.ndarray:
    mixed = update.copy()
    for part in columns:
        mixed[part] = other[part]
    return mixed


def success(ctx: ClientContext, vector: np.ndarray, images: np.ndarray, target: int) -> float:
    """The share of images that the model [d + b] takes for the target; 0 without images."""
    import torch

    trainer = ctx.trainer
    trainer.load(vector)
    trainer.model.eval()
    hits = 0
    with torch.no_grad():
        for first in range(0, len(images), BATCH):
            batch = torch.from_numpy(images[first : first + BATCH]).to(trainer.device)
            hits += int((trainer.model(batch).argmax(1) == target).sum())
    return hits / len(images) if len(images) else 0.0
