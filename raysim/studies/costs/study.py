"""`raysim bench defenses`, `raysim bench attacks`: what methods cost on a matrix that is there already, whole and by stage."""

from __future__ import annotations

import contextlib
import gc
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from raysim.errors import ConfigError
from raysim.options import Count, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.options import Image, Methods, NamedMethods
from raysim.studies.store import SPANS, span_rows
from raysim.studies.study import Bench, Cell, OnBackend, Page, Study, columns
from raysim.studies.table import Row

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.backends.telemetry import Span
    from raysim.studies.costs.subjects import Judging, Subject
    from raysim.studies.matrix import Matrix, MatrixSpec

RFA_ITERATIONS = 4

OWN, PEER = "raysim", "byzfl"

DEFENSES_MEASURED = (
    "krum",
    "multi_krum",
    "flame",
    "foolsgold",
    "foolsgold,features=all",
    f"rfa,max_iterations={RFA_ITERATIONS},tolerance=0",  # without its early stop: as many iterations as its peer's
    "trimmed_mean",
    "median",
    "pdrr,rule=trimmed_mean",
    "pdrr,rule=median",
)

ATTACKS_MEASURED = (
    "noise",
    "sign_flip,mean=benign",
    "fang_krum",
    "fang_krum,knowledge=partial",
    "fang_trimmed_mean",
    "fang_trimmed_mean,knowledge=partial",
    "fang_median",
    "alie",
    "min_max",
    "min_sum",
    "ipm",
    "alie_optimised",
    "ipm_optimised",
    "mimic",
    "poisoned_fl",
    "gae",
    "gae_code",
)
"""The attacks that make rows from other clients' rows."""

UNMEASURED = dict.fromkeys(("copy_s", "gram_s", "gram32_s", "pass_s", "resident_bytes", "task_memory_bytes"))
"""The columns that a peer's rows leave open."""


class MatrixPlan(OnBackend):
    """K rows of a network's d parameters, drawn, and how often is measured on them."""

    clients: PositiveInt = Field(50, description="K")
    malicious: Count = Field(5, description="how many of them are planted as malicious")
    model: str = Field("leaf_cnn", description="whose parameters make the d columns")
    image: Image = Field((1, 28, 28), description="size of its images")
    classes: PositiveInt = Field(62, description="its classes")
    repeats: PositiveInt = Field(3, description="counted repeats, after one that warms up")
    tile_mib: PositiveInt = Field(64, description="size of K rows in one column shard, in MiB")
    seed: Count = Field(0, description="what the matrix is drawn from")

    @property
    def spec(self) -> MatrixSpec:
        """The matrix."""
        from raysim.studies.matrix import MatrixSpec

        size = (self.model, self.image, self.classes, self.clients, self.malicious)
        return MatrixSpec(*size, self.seed, self.tile_mib * 2**20)


class DefensesPlan(MatrixPlan):
    """The matrix and the defenses."""

    grid: ClassVar = frozenset({"defense", "peers"})
    defense: NamedMethods = Field((), description="default: rules of distances, angles and order statistics")
    peers: bool = Field(False, description="also ByzFL's rules")


class AttacksPlan(MatrixPlan):
    """The matrix, the attacks, and the defense whose pass is the measure."""

    grid: ClassVar = frozenset({"attack"})
    attack: NamedMethods = Field((), description="default: those that craft their rows")
    defense: Methods = Field(
        ("krum",), description="whose pass over the matrix is the measure; one; default: krum"
    )
    malicious: Count = Field(10, description="how many of them are attackers")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if len(self.defense) != 1:
            raise ConfigError("defense", "must name one defense", ",".join(self.defense), "krum")
        if not 0 < self.malicious < self.clients:
            raise ConfigError("malicious", f"must be from 1 to {self.clients - 1}", self.malicious)
        return self


@dataclass(frozen=True)
class CostCell(Cell):
    """A method of this package, or a peer's rule."""

    method: str
    package: str = OWN


def schema(name: str) -> Mapping[str, TableSchema]:
    """The tables of a study whose first one has this name."""
    described = columns(
        method=("string", "with the options it was given, or the rule of a peer"),
        package=("string", "raysim, or the peer"),
        arrays=("string", "of the peer's matrix: numpy or torch; empty: tiles"),
        repeat=("int32", "from 0"),
        wall_s=("float64", "seconds of the whole apply, or craft"),
        copy_s=("float64", "of one copy of the matrix, before that"),
        gram_s=("float64", "of one Gram product in float64"),
        gram32_s=("float64", "of one in float32"),
        pass_s=("float64", "of a defense's pass over the same matrix; null beside a defense"),
        resident_bytes=("int64", "largest resident memory of any process, in a pass of its own"),
        task_memory_bytes=(
            "int64",
            "most private memory that one process took in it, and its largest task's tiles",
        ),
        said=("string", "what an attack says of its last round"),
        dim=("int64", "d"),
        row_blocks=("int32", "of the matrix"),
        column_shards=("int32", "of the matrix"),
    )
    return {name: TableSchema(name, described), "spans": TableSchema("spans", SPANS)}


P = TypeVar("P", bound=MatrixPlan)


class Costs(Study[P, CostCell]):
    """What both studies have in common."""

    @abstractmethod
    def subjects(self, plan: P) -> Sequence[Subject]:
        """The methods, made."""

    def beside(self, plan: P) -> Judging | None:
        """The defense whose pass is taken before each."""
        return None

    def check(self, plan: P) -> Iterable[str]:
        """Refuse names and options that do not exist."""
        self.subjects(plan)
        self.beside(plan)
        return ()

    @contextlib.contextmanager
    def opened(self, plan: P, bench: Bench) -> Iterator[Matrix]:
        """The matrix, once no method is found that cannot work on it."""
        from raysim.studies.costs.subjects import check_subjects
        from raysim.studies.limits import gram_product
        from raysim.studies.matrix import build_matrix

        matrix = build_matrix(plan.spec, bench.backend)
        beside = self.beside(plan)
        check_subjects([*self.subjects(plan), *([beside] if beside else [])], matrix)
        gram_product(matrix.updates, np.float32)
        yield matrix

    def measure(self, plan: P, cell: CostCell, bench: Matrix) -> Mapping[str, Rows]:
        """One warm-up, timed rounds with the limits before each, one round whose memory is watched."""
        updates, name = bench.updates, self.name
        shards = len(updates.bounds) - 1
        size = {"dim": updates.dim, "row_blocks": len(updates.blocks), "column_shards": shards}
        if cell.package == PEER:
            from raysim.studies.costs.peers import rows_of_rule

            rows = rows_of_rule(cell.method, updates.to_array(), plan.repeats, plan.workers, RFA_ITERATIONS)
            return {name: [{**size, **UNMEASURED, "said": "", **row} for row in rows]}
        (subject,) = [subject for subject in self.subjects(plan) if subject.label == cell.method]
        found, spans = measure_subject(subject, bench, plan.repeats, self.beside(plan))
        kept = [row for repeat, of_it in enumerate(spans) for row in span_rows(cell, of_it, round=repeat)]
        return {name: [{**size, "arrays": "", **row} for row in found], "spans": kept}

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Median seconds of the whole."""
        return f"{np.median([row['wall_s'] for row in rows[self.name]]):.3f} s"

    def page(self, plan: P, tables: Mapping[str, pa.Table]) -> Page:
        """See page.py."""
        from raysim.studies.costs.page import page_of

        beside = self.beside(plan)
        return page_of(plan, tables[self.name], tables["spans"], beside.label if beside else "")


class Defenses(Costs[DefensesPlan]):
    """Time what defenses do on a matrix of updates, stage by stage, beside limits taken in the same run.

    \b
    raysim bench defenses --peers                      K = 50, d = 6,603,710, beside ByzFL
    raysim bench defenses krum bulyan --clients 100
    raysim bench defenses pdrr,rule=median,q=0.9
    raysim bench defenses fedgrad --model digits_cnn --image 1x8x8 --classes 10 --clients 2000

    The matrix is drawn, not trained, and lies in tiles as a run would leave it. The limits: one copy of it, and one
    K x K Gram product in float64 by tasks that do nothing else. Ratios are taken repeat by repeat.
    """

    name = "defenses"
    title = "What defenses cost"
    plan = DefensesPlan
    tables = schema("defenses")

    def cells(self, plan: DefensesPlan) -> list[CostCell]:
        """The defenses, then the peer's rules."""
        from raysim.studies.costs.peers import RULES

        peers = [CostCell(rule, PEER) for rule in RULES] if plan.peers else []
        return [*map(CostCell, plan.defense or DEFENSES_MEASURED), *peers]

    def subjects(self, plan: DefensesPlan) -> Sequence[Subject]:
        """See Costs."""
        from raysim.studies.costs.subjects import parse_subjects

        return parse_subjects(plan.defense or DEFENSES_MEASURED)

    def check(self, plan: DefensesPlan) -> Iterable[str]:
        """Also a peer that is not installed."""
        from raysim.studies.costs.peers import byzfl_rules

        if plan.peers:
            byzfl_rules(plan.clients, RFA_ITERATIONS)
        return super().check(plan)


class Attacks(Costs[AttacksPlan]):
    """Time what attacks that see other clients' updates do with them, beside a defense's pass over the same matrix.

    \b
    raysim bench attacks                               all of them, K = 50, d = 6,603,710, beside Krum
    raysim bench attacks fang_krum min_max,direction=sign --defense median

    The matrix is drawn, not trained, and lies in tiles as a run would leave it. Ratios are taken repeat by repeat.
    """

    name = "attacks"
    title = "What attacks cost"
    plan = AttacksPlan
    tables = schema("attacks")

    def cells(self, plan: AttacksPlan) -> list[CostCell]:
        """See Study."""
        return list(map(CostCell, plan.attack or ATTACKS_MEASURED))

    def subjects(self, plan: AttacksPlan) -> Sequence[Subject]:
        """See Costs."""
        from raysim.studies.costs.subjects import parse_attacks

        return parse_attacks(plan.attack or ATTACKS_MEASURED)

    def beside(self, plan: AttacksPlan) -> Judging:
        """See Costs."""
        from raysim.studies.costs.subjects import parse_subjects

        (defense,) = parse_subjects(plan.defense)
        return defense


def measure_subject(
    subject: Subject, matrix: Matrix, repeats: int, beside: Judging | None = None
) -> tuple[list[Row], list[list[Span]]]:
    """(A row, and the spans, of each repeat).

    The state goes on from round to round, as in a run, whose round FIRST_ROUND comes first. What needs more rounds of
    history than that (FLDetector's clusters) does not run.
    """
    from raysim.studies.costs.subjects import FIRST_ROUND
    from raysim.studies.limits import copy_matrix, gram_product
    from raysim.studies.memory import task_memory
    from raysim.studies.timing import Clock, seconds

    updates, telemetry = matrix.updates, matrix.updates.backend.telemetry
    _, state = subject.once(subject.begin(matrix), matrix, FIRST_ROUND)
    if beside is not None:
        _, passed = beside.once(beside.begin(matrix), matrix, FIRST_ROUND)
    rows: list[Row] = []
    spans = []
    for repeat in range(repeats):
        number = FIRST_ROUND + repeat + 1
        gc.collect()
        limits: Row = {
            "gram32_s": seconds(gram_product, updates, np.float32),
            "copy_s": seconds(copy_matrix, updates),
            "gram_s": seconds(gram_product, updates),
            "pass_s": None,
        }
        if beside is not None:
            passing = Clock()
            _, passed = beside.once(passed, matrix, number, passing)
            limits["pass_s"] = passing.seconds
        telemetry.drain()
        clock = Clock()
        _, state = subject.once(state, matrix, number, clock)
        rows.append({"repeat": repeat, "wall_s": clock.seconds, **limits})
        spans.append(telemetry.drain())
    last = FIRST_ROUND + repeats + 1
    peak, taken = task_memory(updates.backend, lambda watch: subject.once(state, matrix, last, watch))
    more = {"resident_bytes": peak, "task_memory_bytes": taken, "said": subject.said(state)}
    return [{**row, **more} for row in rows], spans
