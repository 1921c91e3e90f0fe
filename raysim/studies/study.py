"""What a study is: a plan, the cells that follow from it, what is measured in each, and the page that shows it.

    class Squares(Study[SquaresPlan, SquaresCell]):
        "Squares of numbers."            the help of `raysim bench squares`; its options are the fields of the plan
        name, title, plan, tables
        def cells(self, plan)            in the order in which they are measured
        def measure(self, plan, cell, bench)      -> table -> rows
        def page(self, plan, tables)     -> Page

`runner.py` does the rest: clusters, what is finished already, progress, tables, the page. Numbers are reported, not
graded: what they must be is said by tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from raysim import rng
from raysim.config.schema import Group
from raysim.config.validation import refusal
from raysim.errors import ConfigError
from raysim.options import Count, Positive, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.options import Numbers

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from raysim.backends.base import Backend

Kind = Literal["local", "raylets", "namespaces", "address"]


About = dict[str, Any]
"""What plan.json says: the plan, environment and dates of a measurement."""


class Plan(Group):
    """What a study measures. Its fields are the options of its command, the head of its page, and what plan.json holds.

    grid: the fields that only say which cells there are: a measurement may go on with others.
    """

    grid: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise refusal(error, lambda place: str(place[0]) if place else "", type(self)) from None

    def beside_grid(self) -> dict[str, Any]:
        """Everything but the grid: what must be the same for cells to stand in one table."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in self.grid}


class OnBackend(Plan):
    """Measured in one process, or by tasks on a Ray cluster that is brought up for it."""

    backend: Literal["ray", "inprocess"] = Field("ray", description="inprocess: threads, not tasks")
    workers: PositiveInt = Field(2, description="Ray CPUs, or threads")


class OnCluster(Plan):
    """Measured on clusters, one for each number of nodes; see `cluster.bring_up`."""

    nodes: Numbers = Field((1,), description="numbers of nodes, with commas between")
    kind: Kind = Field("raylets", description="what nodes are made of")
    address: str | None = Field(None, description="with kind address: of the cluster that is up")
    bandwidth: str | None = Field(None, description="with kind namespaces: of each link, 100mbit or 1gbit")
    cpus_per_node: PositiveInt | None = Field(
        None, description="default: an equal part of this machine's", validate_default=True
    )
    gpus_per_node: Count = Field(0, description="whole GPUs of each node")
    object_store: Positive | None = Field(
        None, description="GiB of each node; default: an equal part of what there is"
    )
    backend: Literal["ray", "inprocess"] = Field("ray", description="inprocess: one worker, on one node")

    @model_validator(mode="before")
    @classmethod
    def _one_process_is_one_node(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Whatever number of nodes a study has by default."""
        if values.get("backend") == "inprocess" and values.get("nodes") is None:
            return {**values, "nodes": (1,)}
        return values

    @field_validator("cpus_per_node")
    @classmethod
    def _equal_part(cls, value: int | None, info: ValidationInfo) -> int:
        most = max(info.data.get("nodes") or (1,))
        return value or max(1, len(os.sched_getaffinity(0)) // most)

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        if self.backend == "inprocess" and self.nodes != (1,):
            raise ConfigError("nodes", "must be 1 with backend inprocess", self.nodes, 1)
        if self.kind == "address" and len(self.nodes) != 1:
            rule = "must be one number with kind address: that of the nodes that the cluster has"
            raise ConfigError("nodes", rule, self.nodes)
        return self

    @property
    def cluster(self) -> dict[str, Any]:
        """What `cluster.bring_up` and `cluster.make_plan` take beside the number of nodes."""
        store = None if self.object_store is None else int(self.object_store * 2**30)
        shared = ("kind", "cpus_per_node", "gpus_per_node", "bandwidth")
        return {**{name: getattr(self, name) for name in shared}, "object_store_bytes": store}


class InProcesses(Plan):
    """Measured in processes side by side, a cell in each."""

    workers: PositiveInt = Field(2, description="cells at a time, a process each")


@dataclass(frozen=True)
class Cell:
    """What is measured in one go and kept as one file. Its fields are columns of every table that has them; `nodes`, where
    it has one, says how large a cluster it needs.
    """

    @property
    def name(self) -> str:
        """The name of its file: fields and values, what no file can be called by a digest."""
        return "-".join(f"{key}{_file_word(value)}" for key, value in dataclasses.asdict(self).items())

    def __str__(self) -> str:
        return ", ".join(
            str(value)
            if isinstance(value, str)
            else f"{key} {value:,}"
            if isinstance(value, int)
            else f"{key} {value}"
            for key, value in dataclasses.asdict(self).items()
        )


@dataclass(frozen=True)
class Bench:
    """Where cells are measured. workers: of the backend. cpus: of each node. out: the study's folder."""

    backend: Backend
    workers: int = 1
    cpus: int = 1
    out: Path = Path()


@dataclass(frozen=True)
class Page:
    """Markdown sections, and the figures they refer to by `picture`. The first figure leads the page."""

    sections: Sequence[str]
    figures: Mapping[str, tuple[str, Figure]] = field(default_factory=dict)
    """Name -> (what it shows, figure)."""
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    """What was worked out for the page, to be kept beside it: name -> table."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The same as texts: name of the file -> content."""


P = TypeVar("P", bound=Plan)
C = TypeVar("C", bound=Cell)
T = TypeVar("T")


class Study(ABC, Generic[P, C]):
    """One study. Instances hold nothing: a driver on another host makes its own."""

    name: ClassVar[str]
    title: ClassVar[str]
    plan: type[P]
    tables: ClassVar[Mapping[str, TableSchema]]
    """The first one is written last: a cell that has its rows is finished."""
    replaces: ClassVar[bool] = False
    """Whether cells that are finished already are measured anew unless `--resume` says that they are kept."""

    @abstractmethod
    def cells(self, plan: P) -> Sequence[C]:
        """Every cell, in the order in which they are measured."""

    @abstractmethod
    def measure(self, plan: P, cell: C, bench: Any) -> Mapping[str, Rows]:
        """Table -> rows of one cell. bench: what `opened` gives."""

    @abstractmethod
    def page(self, plan: P, tables: Mapping[str, pa.Table]) -> Page:
        """The page from the tables, those of the plan's cells first."""

    def check(self, plan: P) -> Iterable[str]:
        """Refuse what cannot be carried out, before anything starts; remarks that the user is to read then."""
        return ()

    def around(self, plan: P) -> contextlib.AbstractContextManager[P]:
        """What is up while all cells are measured, in whatever process; the plan with what follows from it."""
        return contextlib.nullcontext(plan)

    def opened(self, plan: P, bench: Bench) -> contextlib.AbstractContextManager[Any]:
        """What all cells on one cluster share: watches, warmed-up workers."""
        return contextlib.nullcontext(bench)

    def told(self, rows: Mapping[str, Rows]) -> str:
        """What is said of a finished cell beside its name."""
        return ""


def shuffled(cells: Sequence[T], seed: int, *key: int | str) -> list[T]:
    """The cells, or what they are made of, in an order of their own: neighbours in a table are not measured one after the other."""
    order = rng.generator(seed, "bench", *key).permutation(len(cells))
    return [cells[place] for place in order]


def nodes_of(cell: Cell) -> int:
    """How large a cluster a cell needs."""
    nodes: int = getattr(cell, "nodes", 1)
    return nodes


def columns(**described: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Column -> (type, meaning)."""
    return described


def picture(name: str, caption: str) -> str:
    """Where a figure stands in a section; the runner knows its file."""
    return f"![{caption}]({{{name}}})"


def _file_word(value: object) -> str:
    word = f"{value:g}" if isinstance(value, float) else str(value)
    if re.fullmatch(r"[A-Za-z0-9_.%=, -]{0,80}", word):
        return word.replace(" ", "+")
    start = re.match(r"[A-Za-z0-9_]{0,80}", word)
    return f"{start.group() if start else ''}_{hashlib.sha256(word.encode()).hexdigest()[:8]}"
