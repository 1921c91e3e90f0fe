"""What `raysim bench scaling` is to measure: the plan, its cells in the order they are measured, and its refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from raysim import rng
from raysim.context import Setting
from raysim.defense import check_setting
from raysim.errors import ConfigError, unknown_name
from raysim.models import MODELS, build_model
from raysim.studies.costs.defense_cost import Subject, parse_subjects
from raysim.studies.matrix import ROUNDS, server_labels
from raysim.studies.option_lists import at_least_one
from raysim.studies.scaling.tables import LIMITS

SYNTHETIC = "synthetic"
INPROCESS = "inprocess"
HALVINGS = 50
"""Of an interval of widths: until neighbours differ by less than any layer's rounding."""


@dataclass(frozen=True)
class ParameterCount:
    """A number of parameters d, and the width of the model that has it (None: the model's own)."""

    parameters: int
    width: float | None = None


@dataclass(frozen=True)
class ScalingPlan:
    """The grid defenses x clients x sizes x nodes x repeats, and how it is measured.

    malicious: share of the clients. updates: `synthetic`, or the directory of a recorded run. nodes and what
    follows it: see `cluster.bring_up`. rows_per_block, tile_bytes: how a matrix is cut.
    """

    defenses: tuple[str, ...]
    clients: tuple[int, ...]
    sizes: tuple[ParameterCount, ...]
    nodes: tuple[int, ...] = (1,)
    repeats: int = 5
    model: str = "leaf_cnn"
    image: tuple[int, int, int] = (1, 28, 28)
    classes: int = 62
    malicious: float = 0.1
    updates: str = SYNTHETIC
    backend: str = "ray"
    kind: str = "raylets"
    address: str | None = None
    bandwidth: str | None = None
    cpus_per_node: int = 1
    object_store_bytes: int | None = None
    rows_per_block: int | None = None
    tile_bytes: int = 2**26
    seed: int = 0

    def to_mapping(self) -> dict[str, Any]:
        """For plan.json."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> ScalingPlan:
        """The inverse of `to_mapping`, also after a passage through JSON."""
        lists = ("defenses", "clients", "nodes", "image")
        sizes = tuple(ParameterCount(**size) for size in values["sizes"])
        return cls(**{**values, **{key: tuple(values[key]) for key in lists}, "sizes": sizes})

    def method(self) -> dict[str, Any]:
        """Everything but the grid: what must be the same for cells to stand in one table."""
        grid = ("defenses", "clients", "sizes", "nodes", "repeats")
        values = json.loads(json.dumps(self.to_mapping()))
        return {key: value for key, value in values.items() if key not in grid}

    @property
    def subjects(self) -> list[Subject]:
        """The defenses, made."""
        return parse_subjects(self.defenses, ())

    def num_malicious(self, clients: int) -> int:
        """How many of that many synthetic clients are malicious."""
        return int(self.malicious * clients + 0.5)

    def matrices(self, nodes: int, repeat: int) -> list[tuple[int, ParameterCount]]:
        """(clients, size) of every matrix, in this repeat's order."""
        every = [(clients, size) for clients in self.clients for size in self.sizes]
        order = rng.generator(self.seed, "bench", "matrices", nodes, repeat).permutation(len(every))
        return [every[place] for place in order]

    def cells(self, nodes: int, repeat: int, clients: int, size: ParameterCount) -> list[ScalingCell]:
        """The limits and every defense on one matrix, in an order of its own."""
        labels = [LIMITS, *self.defenses]
        draw = rng.generator(self.seed, "bench", "defenses", nodes, repeat, clients, size.parameters)
        order = draw.permutation(len(labels))
        return [ScalingCell(labels[place], clients, size.parameters, nodes, repeat) for place in order]

    def every_cell(self) -> list[ScalingCell]:
        """All cells of all node counts."""
        return [
            cell
            for nodes in self.nodes
            for repeat in range(self.repeats)
            for clients, size in self.matrices(nodes, repeat)
            for cell in self.cells(nodes, repeat, clients, size)
        ]


@dataclass(frozen=True)
class ScalingCell:
    """One defense (or the limits) on one matrix, in one repeat."""

    label: str
    clients: int
    parameters: int
    nodes: int
    repeat: int

    @property
    def name(self) -> str:
        """The name of its file."""
        label = self.label.strip("()")
        if not label.isidentifier():
            label = f"{label.partition(',')[0]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        return (
            f"nodes{self.nodes}-clients{self.clients}-parameters{self.parameters}-repeat{self.repeat}-{label}"
        )

    def __str__(self) -> str:
        return (
            f"nodes {self.nodes}, K = {self.clients:,}, d = {self.parameters:,}, repeat {self.repeat},"
            f" {self.label}"
        )


def split_labels(texts: Sequence[str]) -> list[str]:
    """Defenses from lists with commas, where a part with "=" is an option of the defense before it.

    >>> split_labels(["krum,pdrr,rule=median,q=0.9", "median"])
    ['krum', 'pdrr,rule=median,q=0.9', 'median']
    """
    labels: list[str] = []
    for text in texts:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if parts and "=" in parts[0]:
            raise ConfigError("defense", "must begin with a defense's name", text)
        for part in parts:
            if "=" in part:
                labels[-1] += f",{part}"
            else:
                labels.append(part)
    if not labels:
        raise ConfigError("defense", "must name at least one defense", list(texts))
    labels = [subject.label for subject in parse_subjects(labels, ())]
    if len(set(labels)) < len(labels):
        raise ConfigError("defense", "must name every defense once", ",".join(labels))
    return labels


def sizes_of(
    wanted: Sequence[int], model: str, image: tuple[int, int, int], classes: int
) -> tuple[ParameterCount, ...]:
    """The model at the widths whose numbers of parameters come nearest to those wanted; none wanted: as it is.

    Raises ConfigError for a model without a width.
    """

    def count(**options: float) -> int:
        with torch.device("meta"):  # shapes only, nothing is drawn
            network = build_model(model, num_classes=classes, input_shape=image, seed=0, **options)
        return sum(parameter.numel() for parameter in network.parameters())

    own = count()
    if not wanted:
        return (ParameterCount(own),)
    if "width" not in MODELS[model].options:
        able = ", ".join(name for name, found in MODELS.items() if "width" in found.options)
        raise ConfigError(
            "parameters", f"needs a model with a `width` option ({able}); {model} has none", wanted
        )
    sizes = [ParameterCount(own) if number == own else _nearest_size(number, count) for number in wanted]
    return tuple({size.parameters: size for size in sizes}.values())


def _nearest_size(wanted: int, count: Callable[..., int]) -> ParameterCount:
    """The width by bisection: the number of parameters never falls as it grows."""
    low, high = 2.0**-20, 1.0
    while count(width=high) < wanted:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if count(width=middle) < wanted:
            low = middle
        else:
            high = middle
    return min(
        (ParameterCount(count(width=width), width) for width in (low, high)),
        key=lambda size: abs(size.parameters - wanted),
    )


def check_grid(plan: ScalingPlan) -> None:
    """Refuse numbers out of range, before anything else is looked at."""
    counts = {
        "repeats": plan.repeats,
        "cpus-per-node": plan.cpus_per_node,
        "tile-mib": plan.tile_bytes,
        "rows-per-block": 1 if plan.rows_per_block is None else plan.rows_per_block,
        "classes": plan.classes,
    }
    for key, value in counts.items():
        at_least_one(key, value)
    if not 0 <= plan.malicious < 1:
        raise ConfigError("malicious", "must be a share from 0 to below 1", plan.malicious)
    if plan.backend not in ("ray", INPROCESS):
        raise unknown_name("backend", plan.backend, ("ray", INPROCESS))
    if plan.backend == INPROCESS and plan.nodes != (1,):
        raise ConfigError("nodes", "must be 1 with backend inprocess", plan.nodes, 1)
    if plan.kind == "address" and len(plan.nodes) != 1:
        rule = "must be one number with kind address: that of the nodes that the cluster has"
        raise ConfigError("nodes", rule, plan.nodes)


def check_defenses(plan: ScalingPlan, malicious: Callable[[int], int], held: np.ndarray | None) -> None:
    """Refuse a defense that cannot work on one of the matrices. held [s]: labels of the server's samples."""
    for clients in plan.clients:
        setting = Setting.of(
            clients,
            num_malicious=malicious(clients),
            rounds=ROUNDS,
            num_classes=plan.classes,
            server_labels=held,
        )
        for subject in plan.subjects:
            try:
                check_setting(subject.defense, setting)
            except ConfigError as error:
                where = f"{subject.name}.{error.key}, K = {clients}"
                raise ConfigError(where, error.rule, error.value, error.nearest) from None


def check_synthetic(plan: ScalingPlan) -> None:
    """The defenses, on drawn updates."""
    check_defenses(plan, plan.num_malicious, server_labels(plan.classes))
