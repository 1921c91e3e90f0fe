"""`raysim bench defenses`: what a defense's `apply` costs on a matrix that is there already, whole and by stage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.costs.plan import MatrixPlan
from raysim.studies.options import NamedMethods
from raysim.studies.store import SPANS, span_rows
from raysim.studies.study import Bench, Cell, Page, Study, columns

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.studies.matrix import Matrix

RFA_ITERATIONS = 4

OWN, PEER = "raysim", "byzfl"

DEFAULTS = (
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

UNMEASURED = dict.fromkeys(("copy_s", "gram_s", "gram32_s", "resident_bytes", "task_memory_bytes"))
"""The columns that a peer's rows leave open."""


class DefensesPlan(MatrixPlan):
    """The matrix and the defenses."""

    grid: ClassVar = frozenset({"defense", "peers"})
    defense: NamedMethods = Field((), description="default: rules of distances, angles and order statistics")
    peers: bool = Field(False, description="also ByzFL's rules")

    @property
    def defenses(self) -> tuple[str, ...]:
        """Those that are measured."""
        return self.defense or DEFAULTS


@dataclass(frozen=True)
class DefensesCell(Cell):
    """A defense of this package, or a peer's rule."""

    defense: str
    package: str = OWN


class Defenses(Study[DefensesPlan, DefensesCell]):
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
    tables: ClassVar = {
        "defenses": TableSchema(
            "defenses",
            columns(
                defense=("string", "with the options it was given, or the rule of a peer"),
                package=("string", "raysim, or the peer"),
                arrays=("string", "of the peer's matrix: numpy or torch; empty: tiles"),
                repeat=("int32", "from 0"),
                wall_s=("float64", "seconds of the whole apply"),
                copy_s=("float64", "of one copy of the matrix, before that"),
                gram_s=("float64", "of one Gram product in float64"),
                gram32_s=("float64", "of one in float32"),
                resident_bytes=("int64", "largest resident memory of any process, in a pass of its own"),
                task_memory_bytes=(
                    "int64",
                    "most private memory that one process took in it, and its largest task's tiles",
                ),
                dim=("int64", "d"),
                row_blocks=("int32", "of the matrix"),
                column_shards=("int32", "of the matrix"),
            ),
        ),
        "spans": TableSchema("spans", SPANS),
    }

    def cells(self, plan: DefensesPlan) -> list[DefensesCell]:
        """The defenses, then the peer's rules."""
        from raysim.studies.costs.peers import RULES

        peers = [DefensesCell(rule, PEER) for rule in RULES] if plan.peers else []
        return [*map(DefensesCell, plan.defenses), *peers]

    def check(self, plan: DefensesPlan) -> Iterable[str]:
        """Refuse names and options that do not exist, and a peer that is not installed."""
        from raysim.studies.costs.peers import byzfl_rules
        from raysim.studies.costs.subjects import parse_subjects

        parse_subjects(plan.defenses)
        if plan.peers:
            byzfl_rules(plan.clients, RFA_ITERATIONS)
        return ()

    @contextlib.contextmanager
    def opened(self, plan: DefensesPlan, bench: Bench) -> Iterator[Matrix]:
        """The matrix, once no defense is found that cannot work on it."""
        from raysim.studies.costs.subjects import check_subjects, parse_subjects
        from raysim.studies.limits import gram_product
        from raysim.studies.matrix import build_matrix

        matrix = build_matrix(plan.spec, bench.backend)
        check_subjects(parse_subjects(plan.defenses), matrix)
        gram_product(matrix.updates, np.float32)
        yield matrix

    def measure(self, plan: DefensesPlan, cell: DefensesCell, bench: Matrix) -> Mapping[str, Rows]:
        """One warm-up, timed rounds with the limits before each, one round whose memory is watched."""
        updates = bench.updates
        size = {
            "dim": updates.dim,
            "row_blocks": len(updates.blocks),
            "column_shards": len(updates.bounds) - 1,
        }
        if cell.package == PEER:
            from raysim.studies.costs.peers import rows_of_rule

            rows = rows_of_rule(cell.defense, updates.to_array(), plan.repeats, plan.workers, RFA_ITERATIONS)
            return {"defenses": [{**size, **UNMEASURED, **row} for row in rows]}
        rows, spans = measure_defense(cell, bench, plan.repeats)
        return {"defenses": [{**size, "arrays": "", **row} for row in rows], "spans": spans}

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Median seconds of the whole."""
        return f"{np.median([row['wall_s'] for row in rows['defenses']]):.3f} s"

    def page(self, plan: DefensesPlan, tables: Mapping[str, pa.Table]) -> Page:
        """See defenses_page.py."""
        from raysim.studies.costs.defenses_page import page_of

        return page_of(plan, tables)


def measure_defense(cell: DefensesCell, matrix: Matrix, repeats: int) -> tuple[list[dict[str, object]], Rows]:
    """(A row a repeat, the spans of all of them).

    The state goes on from round to round, as in a run, whose round FIRST_ROUND comes first. What needs more rounds of
    history than that (FLDetector's clusters) does not run.
    """
    from raysim.defense import judged
    from raysim.studies.costs.subjects import FIRST_ROUND, parse_subjects
    from raysim.studies.limits import copy_matrix, gram_product
    from raysim.studies.memory import task_memory
    from raysim.studies.timing import Clock, seconds

    (subject,) = parse_subjects([cell.defense])
    updates, telemetry = matrix.updates, matrix.updates.backend.telemetry
    context = replace(matrix.context, round=FIRST_ROUND)
    if subject.defense.calibration:
        context = replace(context, truth=updates.client_ids[matrix.truth])
    state = subject.defense.init(context)
    _, state = judged(subject.defense, state, updates, context)
    rows: list[dict[str, object]] = []
    spans: list[Mapping[str, object]] = []
    for repeat in range(repeats):
        gc.collect()
        limits = {
            "gram32_s": seconds(gram_product, updates, np.float32),
            "copy_s": seconds(copy_matrix, updates),
            "gram_s": seconds(gram_product, updates),
        }
        telemetry.drain()
        clock = Clock()
        now = replace(context, round=FIRST_ROUND + repeat + 1)
        _, state = judged(subject.defense, state, updates, now, clock)
        rows.append({"repeat": repeat, "wall_s": clock.seconds, **limits})
        spans += span_rows(cell, telemetry.drain(), round=repeat)
    last = replace(context, round=FIRST_ROUND + repeats + 1)
    peak, taken = task_memory(
        updates.backend, lambda watch: judged(subject.defense, state, updates, last, watch)
    )
    memory = {"resident_bytes": peak, "task_memory_bytes": taken}
    return [{**row, **memory} for row in rows], spans
