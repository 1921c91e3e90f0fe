"""`raysim bench attacks`: what crafting costs beside a defense's pass over the same matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from raysim.errors import ConfigError
from raysim.options import Count
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import markdown
from raysim.studies.costs.plan import MatrixPlan
from raysim.studies.options import Methods, NamedMethods
from raysim.studies.study import Bench, Cell, Page, Study, columns
from raysim.studies.table import Values, gathered, ordered

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.studies.matrix import Matrix

MIB = 2**20

CRAFTING = (
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
"""The attacks that make rows from other clients' rows, as `raysim bench attacks` names them."""


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

    @property
    def attacks(self) -> tuple[str, ...]:
        """Those that are measured."""
        return self.attack or CRAFTING


@dataclass(frozen=True)
class AttacksCell(Cell):
    """One attack."""

    attack: str


class Attacks(Study[AttacksPlan, AttacksCell]):
    """Time what attacks that see other clients' updates do with them, beside a defense's pass over the same matrix.

    \b
    raysim bench attacks                               all of them, K = 50, d = 6,603,710, beside Krum
    raysim bench attacks fang_krum min_max,direction=sign --defense median

    The matrix is drawn, not trained, and lies in tiles as a run would leave it. Ratios are taken repeat by repeat.
    """

    name = "attacks"
    title = "What attacks cost"
    plan = AttacksPlan
    tables: ClassVar = {
        "attacks": TableSchema(
            "attacks",
            columns(
                attack=("string", "with the options it was given"),
                repeat=("int32", "from 0"),
                craft_s=("float64", "seconds of craft"),
                defense_s=("float64", "of the defense's pass, directly before"),
                gram_s=("float64", "of one Gram product of the matrix, before that"),
                task_memory_bytes=(
                    "int64",
                    "most private memory one process took, and its largest task's tiles",
                ),
                said=("string", "what the attack says of its last round"),
            ),
        )
    }

    def cells(self, plan: AttacksPlan) -> list[AttacksCell]:
        """See Study."""
        return [AttacksCell(label) for label in plan.attacks]

    def check(self, plan: AttacksPlan) -> Iterable[str]:
        """Refuse names and options that do not exist, and attacks that craft nothing."""
        from raysim.studies.costs.attack_cost import parse_attacks
        from raysim.studies.costs.subjects import parse_subjects

        parse_attacks(plan.attacks)
        parse_subjects(plan.defense)
        return ()

    @contextlib.contextmanager
    def opened(self, plan: AttacksPlan, bench: Bench) -> Iterator[Matrix]:
        """The matrix, once no attack is found that cannot work on it."""
        from raysim.studies.costs.attack_cost import check_attacks, parse_attacks
        from raysim.studies.costs.subjects import parse_subjects
        from raysim.studies.matrix import build_matrix

        matrix = build_matrix(plan.spec, bench.backend)
        (defense,) = parse_subjects(plan.defense)
        check_attacks(parse_attacks(plan.attacks), defense, matrix)
        yield matrix

    def measure(self, plan: AttacksPlan, cell: AttacksCell, bench: Matrix) -> Mapping[str, Rows]:
        """See attack_cost.py."""
        from raysim.studies.costs.attack_cost import measure_attack, parse_attacks
        from raysim.studies.costs.subjects import parse_subjects

        ((label, attack),) = parse_attacks([cell.attack])
        (defense,) = parse_subjects(plan.defense)
        cost = measure_attack(label, attack, defense, bench, plan.repeats)
        said = ", ".join(f"{key} {_short(value)}" for key, value in cost.said.items() if key != "bases")
        common = {"task_memory_bytes": cost.task_memory, "said": said}
        spent = zip(cost.craft_s.tolist(), cost.defense_s.tolist(), cost.gram_s.tolist(), strict=True)
        return {
            "attacks": [
                {"repeat": n, "craft_s": craft, "defense_s": judged, "gram_s": gram, **common}
                for n, (craft, judged, gram) in enumerate(spent)
            ]
        }

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Median seconds of craft."""
        return f"{np.median([row['craft_s'] for row in rows['attacks']]):.3f} s"

    def page(self, plan: AttacksPlan, tables: Mapping[str, pa.Table]) -> Page:
        """Each attack: seconds, ratios to the defense's pass and to the Gram product, memory, what it says."""
        from raysim.studies.figure import bars

        table = tables["attacks"]
        names = ("craft_s", "defense_s", "gram_s", "task_memory_bytes")
        found = {name: gathered(table, name, "attack") for name in names}
        said = dict(zip(table["attack"].to_pylist(), table["said"].to_pylist(), strict=True))
        (defense,) = plan.defense
        ratios: dict[str, Values] = {}
        rows = []
        for label in ordered(table, "attack"):
            craft, judged, gram, memory = (found[name][label] for name in names)
            ratios[label] = Values(craft.all / judged.all)
            grams = Values(craft.all / gram.all)
            cells = [f"{craft.median:.3f}", f"{ratios[label].median:.2f}", f"{grams.median:.2f}"]
            rows.append([label, *cells, f"{memory.median / MIB:.0f}", said[label]])
        passes, grams = (Values.of(table[name].to_pylist()) for name in ("defense_s", "gram_s"))
        head = ["attack", "craft s", f"x {defense}", "x Gram", "process MiB", "says"]
        note = (
            f"{defense}'s pass {passes.median:.3f} s, one Gram product {grams.median:.3f} s (medians). Ratios: medians over the"
            " repeats of the ratio in one repeat."
        )
        caption = f"Seconds of craft as a multiple of {defense}'s pass"
        return Page([markdown.table(head, rows), note], {"ratios": (caption, bars(ratios, x=caption))})


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
