"""`raysim bench attacks`: what crafting costs beside a defense's pass over the same matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from raysim.errors import ConfigError
from raysim.options import Count, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import markdown
from raysim.studies.options import Image, Methods, NamedMethods
from raysim.studies.study import Bench, Cell, OnBackend, Page, Study, columns
from raysim.studies.table import Values, gathered, ordered

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from raysim.studies.matrix import Matrix, MatrixSpec

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
    "gae",
    "gae_code",
)
"""The attacks that make rows from other clients' rows, as `raysim bench attacks` names them."""


class AttacksPlan(OnBackend):
    """The matrix, the attacks, and the defense whose pass is the measure."""

    grid: ClassVar = frozenset({"attack"})
    attack: NamedMethods = Field((), description="default: those that craft their rows")
    defense: Methods = Field(
        ("krum",), description="whose pass over the matrix is the measure; one; default: krum"
    )
    clients: PositiveInt = Field(50, description="K")
    malicious: Count = Field(10, description="how many of them are attackers")
    model: str = Field("leaf_cnn", description="whose parameters make the d columns")
    image: Image = Field((1, 28, 28), description="size of its images")
    classes: PositiveInt = Field(62, description="its classes")
    repeats: PositiveInt = Field(3, description="counted repeats, after one that warms up")
    tile_mib: PositiveInt = Field(64, description="size of K rows in one column shard, in MiB")
    seed: Count = Field(0, description="what the matrix is drawn from")

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

    @property
    def spec(self) -> MatrixSpec:
        """The matrix."""
        from raysim.studies.matrix import MatrixSpec

        tile_bytes = self.tile_mib * 2**20
        return MatrixSpec(
            self.model, self.image, self.classes, self.clients, self.malicious, self.seed, tile_bytes
        )


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
        from raysim.studies.costs.defense_cost import parse_subjects

        parse_attacks(plan.attacks)
        parse_subjects(plan.defense)
        return ()

    @contextlib.contextmanager
    def opened(self, plan: AttacksPlan, bench: Bench) -> Iterator[Matrix]:
        """The matrix, once no attack is found that cannot work on it."""
        from raysim.studies.costs.attack_cost import check_attacks, parse_attacks
        from raysim.studies.costs.defense_cost import parse_subjects
        from raysim.studies.matrix import build_matrix

        matrix = build_matrix(plan.spec, bench.backend)
        (defense,) = parse_subjects(plan.defense)
        check_attacks(parse_attacks(plan.attacks), defense, matrix)
        yield matrix

    def measure(self, plan: AttacksPlan, cell: AttacksCell, bench: Matrix) -> Mapping[str, Rows]:
        """See attack_cost.py."""
        from raysim.studies.costs.attack_cost import measure_attack, parse_attacks
        from raysim.studies.costs.defense_cost import parse_subjects

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
        return Page([markdown.table(head, rows), note], {"ratios": (caption, _figure(ratios, caption))})


def _figure(ratios: Mapping[str, Values], caption: str) -> Figure:
    """A bar an attack, with a line from quartile to quartile."""
    from raysim.report.drawing import GRID, INK
    from raysim.studies.figure import COLOURS, panels

    figure, (axes,) = panels(1, height=1.3 + 0.28 * len(ratios))
    at = range(len(ratios))
    axes.barh(at, [values.median for values in ratios.values()], height=0.7, color=COLOURS[0])
    low, high = zip(*(values.quartiles for values in ratios.values()), strict=True)
    axes.hlines(at, low, high, color=INK, lw=1.6)
    axes.set_yticks(at, list(ratios))
    axes.invert_yaxis()
    axes.yaxis.grid(visible=False)
    axes.xaxis.grid(color=GRID, lw=0.8)
    axes.set_xlabel(caption)
    return figure


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
