"""What `raysim bench scaling` is to measure: the plan, its cells in the order they are measured, and its refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from annotated_types import Ge, Lt
from pydantic import Field, field_validator, model_validator

from raysim.errors import ConfigError, unknown_name
from raysim.options import Count, PositiveInt
from raysim.studies.options import AnyNumbers, Image, Methods, Numbers
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.study import Cell, OnCluster, shuffled

if TYPE_CHECKING:
    from raysim.studies.costs.subjects import Subject

SYNTHETIC = "synthetic"
INPROCESS = "inprocess"
HALVINGS = 50
"""Of an interval of widths: until neighbours differ by less than any layer's rounding."""


@dataclass(frozen=True)
class ParameterCount:
    """A number of parameters d, and the width of the model that has it (None: the model's own)."""

    parameters: int
    width: float | None = None


class ScalingPlan(OnCluster):
    """The grid defenses x clients x sizes x nodes x repeats, and how it is measured."""

    grid: ClassVar = frozenset({"defense", "attack", "clients", "parameters", "nodes", "repeats"})
    defense: Methods = Field(
        (), description="with commas between; a part KEY=VALUE belongs to the name before it"
    )
    attack: Methods = Field((), description="that make their rows from other clients'")
    clients: Numbers = Field((24, 48, 72, 100), description="K, with commas between")
    parameters: AnyNumbers = Field(
        (),
        description="d, with commas between: the model's width follows; default: the model's own",
    )
    repeats: PositiveInt = Field(5, description="of every cell; each after a round that warms up")
    updates: str = Field(
        SYNTHETIC, description="synthetic, or the directory of a run with record.updates=true"
    )
    model: str = Field("leaf_cnn", description="whose parameters make the d columns")
    image: Image = Field((1, 28, 28), description="size of its images")
    classes: PositiveInt = Field(62, description="its classes")
    malicious: Annotated[float, Ge(0), Lt(1)] = Field(
        0.1, description="share of clients that are planted as malicious"
    )
    rows_per_block: PositiveInt | None = Field(
        None, description="rows in a tile; default: two blocks a worker"
    )
    tile_mib: PositiveInt = Field(64, description="size of K rows in one column shard, in MiB")
    seed: Count = Field(0, description="what matrices and orders are drawn from")

    @field_validator("updates")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return value if value == SYNTHETIC else str(Path(value).resolve())

    @model_validator(mode="after")
    def _known(self) -> Self:
        from raysim.models import MODELS

        if not self.subjects:  # which refuses names and options that do not exist
            raise ConfigError("defense", "must name at least one defense, or attack one attack", ())
        if self.updates != SYNTHETIC and self.parameters:
            rule = "belongs to synthetic updates; a run has its own model"
            raise ConfigError("parameters", rule, self.parameters)
        if self.model not in MODELS:
            raise unknown_name("model", self.model, MODELS)
        return self

    @property
    def subjects(self) -> list[Subject]:
        """The defenses and attacks, made."""
        from raysim.studies.costs.subjects import parse_attacks, parse_subjects

        return [*parse_subjects(self.defense), *parse_attacks(self.attack)]

    @property
    def tile_bytes(self) -> int:
        """Of K rows in one column shard."""
        return self.tile_mib * 2**20

    def num_malicious(self, clients: int) -> int:
        """How many of that many synthetic clients are malicious."""
        return int(self.malicious * clients + 0.5)


@dataclass(frozen=True)
class ScalingCell(Cell):
    """One defense, or an attack, or the limits, on one matrix, in one repeat."""

    nodes: int
    clients: int
    parameters: int
    repeat: int
    defense: str


def cells_of(plan: ScalingPlan, sizes: Sequence[ParameterCount]) -> list[ScalingCell]:
    """All cells: in every repeat the matrices, and the limits and defenses on each, come in a new order."""
    found: list[ScalingCell] = []
    for nodes in plan.nodes:
        for repeat in range(plan.repeats):
            every = [(clients, size.parameters) for clients in plan.clients for size in sizes]
            for clients, parameters in shuffled(every, plan.seed, "matrices", nodes, repeat):
                at = (nodes, clients, parameters, repeat)
                there = [ScalingCell(*at, label) for label in (LIMITS, *plan.defense, *plan.attack)]
                found += shuffled(there, plan.seed, "defenses", nodes, repeat, clients, parameters)
    return found


def sizes_of(
    wanted: Sequence[int], model: str, image: tuple[int, int, int], classes: int
) -> tuple[ParameterCount, ...]:
    """The model at the widths whose numbers of parameters come nearest to those wanted; none wanted: as it is.

    Raises ConfigError for a model without a width.
    """

    import torch

    from raysim.models import MODELS, build_model

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


def check_subjects(
    plan: ScalingPlan, malicious: Callable[[int], int], classes: int, held: np.ndarray | None
) -> None:
    """Refuse a method that cannot work on one of the matrices. held [s]: labels of the server's samples."""
    from raysim.context import Setting
    from raysim.studies.matrix import ROUNDS

    for clients in plan.clients:
        setting = Setting.of(
            clients,
            num_malicious=malicious(clients),
            rounds=ROUNDS,
            num_classes=classes,
            server_labels=held,
        )
        for subject in plan.subjects:
            try:
                subject.check(setting)
            except ConfigError as error:
                where = f"{subject.name}.{error.key}, K = {clients}"
                raise ConfigError(where, error.rule, error.value, error.nearest) from None
