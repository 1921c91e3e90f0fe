"""FedGrad's similarities of K clients in four ways side by side: seconds and error against K.

`pair`, `batch` and `matrix` measure all K x K cosines; `transitive` (FedGrad, section 6.2) measures none and estimates
those of clients that have not met from earlier rounds' cosines with third clients. What is compared is what FedGrad
compares: one vector a client, by default as long as the by-class sums of LEAF CNN's last layer.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raysim import rng
from raysim.backends.base import ThreadLimit
from raysim.errors import ConfigError
from raysim.options import Count, NotNegative, PositiveFraction, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.curves import by_size, curves_of, growth
from raysim.studies.options import Sizes
from raysim.studies.study import Bench, Cell, Page, Plan, Study, columns
from raysim.studies.table import Row, Values, ordered
from raysim.studies.timing import seconds

if TYPE_CHECKING:
    import pyarrow as pa

DIRECT: tuple[Literal["pair", "batch", "matrix"], ...] = ("pair", "batch", "matrix")
WAYS = (*DIRECT, "transitive")
SCALED = "pair, scaled up"


class SimilarityPlan(Plan):
    """Sizes and the history. Vectors have a shared part and an own one, each of expected squared norm 1 (times spread^2),
    so that cosines lie around 1 / (1 + spread^2).
    """

    grid: ClassVar = frozenset({"clients"})
    clients: Sizes = Field((50, 100, 200, 500, 1000, 2000, 5000), description="K, with commas between")
    columns: PositiveInt = Field(
        62, description="values compared per client; FedGrad compares one a class, 62 for LEAF CNN"
    )
    spread: NotNegative = Field(1.0, description="a client's own part beside the shared one")
    repeats: PositiveInt = Field(3, description="counted repeats, after one that warms up")
    pair_limit: PositiveInt = Field(
        1000,
        description="above this many clients `pair` is not run but scaled up, by K^2, from the largest size below",
    )
    history_rounds: PositiveInt = Field(20, description="earlier rounds that `transitive` knows")
    share: PositiveFraction = Field(0.1, description="of the clients that took part in each of them")
    threads: PositiveInt = Field(1, description="of BLAS")
    seed: Count = Field(0, description="what everything is drawn from")

    @model_validator(mode="after")
    def _something_to_scale_up_from(self) -> Self:
        if self.pair_limit < self.clients[0]:
            rule = "must be at least the smallest number of clients, to scale up from"
            raise ConfigError("pair_limit", rule, self.pair_limit, self.clients[0])
        return self


@dataclass(frozen=True)
class SimilarityCell(Cell):
    """K clients, by every way."""

    clients: int


def vectors_of(plan: SimilarityPlan, clients: int) -> np.ndarray:
    """One vector a client, a shared direction plus spread times its own: [K, c] float32. Client i's are the same for
    every K.
    """
    shared = rng.generator(plan.seed, "bench", "similarity", "shared").standard_normal(
        plan.columns, np.float32
    )
    own = rng.generator(plan.seed, "bench", "similarity", "own")
    vectors = own.standard_normal((clients, plan.columns), np.float32)
    vectors *= np.float32(plan.spread)
    vectors += shared
    return vectors


def met_before(plan: SimilarityPlan, clients: int) -> np.ndarray:
    """Which clients met in the earlier rounds: [K, K] bool; nobody meets itself."""
    draw = rng.generator(plan.seed, "bench", "similarity", "history", clients)
    met = np.zeros((clients, clients), bool)
    cohort = min(max(2, round(plan.share * clients)), clients)
    for _ in range(plan.history_rounds):
        members = draw.choice(clients, cohort, replace=False)
        met[members[:, None], members] = True
    np.fill_diagonal(met, False)
    return met


class Similarity(Study[SimilarityPlan, SimilarityCell]):
    """FedGrad's similarities by `pair`, `batch`, `matrix` and `transitive`: seconds and error against K.

    \b
    raysim bench similarity --out similarity
    raysim bench similarity --columns 126976 --clients 50,100,200,500 --out whole-layer
    """

    name = "similarity"
    title = "FedGrad's similarities in four ways"
    plan = SimilarityPlan
    tables: ClassVar = {
        "similarity": TableSchema(
            "similarity",
            columns(
                clients=("int32", "K"),
                way=("string", "pair, batch, matrix or transitive"),
                repeat=("int32", "from 0"),
                wall_s=("float64", "seconds; null if the way was not run"),
                cosine_mean=("float64", "over all pairs of different clients"),
                error_max=("float64", "largest absolute error; the same in every repeat"),
                error_mean=("float64", "mean absolute error"),
                known_share=("float64", "of all pairs, those that met in the history"),
                covered_share=("float64", "of the others, those that share a third client"),
            ),
        )
    }

    def cells(self, plan: SimilarityPlan) -> list[SimilarityCell]:
        """See Study."""
        return [SimilarityCell(clients) for clients in plan.clients]

    @contextlib.contextmanager
    def opened(self, plan: SimilarityPlan, bench: Bench) -> Iterator[Bench]:
        """BLAS limited, and everything once at the smallest size."""
        with ThreadLimit(plan.threads)():
            rows_at(plan, plan.clients[0], 1)
            yield bench

    def measure(self, plan: SimilarityPlan, cell: SimilarityCell, bench: Bench) -> Mapping[str, Rows]:
        """Every way at one K."""
        gc.collect()
        return {"similarity": rows_at(plan, cell.clients, plan.repeats)}

    def page(self, plan: SimilarityPlan, tables: Mapping[str, pa.Table]) -> Page:
        """See Study."""
        from raysim.studies.figure import labelled_curves

        table = tables["similarity"]
        spent = curves_of(table, "wall_s", "clients", "way")
        scaled = scaled_up(spent["pair"], ordered(table, "clients"))
        largest, mean = (curves_of(table, f"error_{which}", "clients", "way") for which in ("max", "mean"))
        shares = {
            heading: {k: f"{values.median:.1%}" for k, values in points.items()}
            for heading, column in (("pairs that met", "known_share"), ("others covered", "covered_share"))
            for points in curves_of(table, column, "clients", "way").values()
        }
        errors = {
            **{f"{way}, largest error": points for way, points in largest.items() if way != "matrix"},
            "transitive, mean error": mean.get("transitive", {}),
        }
        short = {
            name: {k: f"{values.median:.2g}" for k, values in points.items()}
            for name, points in errors.items()
        }
        seconds_of = {**spent, **({SCALED: scaled} if scaled else {})}
        panels = {"Seconds": seconds_of, "Error against one float64 matrix product": errors}
        figure = labelled_curves(panels, x="clients, K", y="", quiet=[SCALED])
        return Page(
            [
                by_size("K; seconds", seconds_of, short, shares),
                growth("way", "K", spent),
                _notes(plan, table),
            ],
            {"cost": (self.title, figure)},
        )


def scaled_up(pair: Mapping[int, Values], clients: Sequence[int]) -> dict[int, Values]:
    """The largest size measured, and those above it with its seconds times the ratio of K^2; empty where all were measured."""
    last = max(pair)
    more = {k: Values.of([pair[last].median * (k / last) ** 2]) for k in clients if k > last}
    return {last: Values.of([pair[last].median]), **more} if more else {}


def direct_errors(similarities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The largest and the mean absolute error over all pairs of different clients."""
    errors = np.abs(similarities - truth)
    np.fill_diagonal(errors, 0.0)
    count = len(truth)
    return {"error_max": float(errors.max()), "error_mean": float(errors.sum() / (count * (count - 1)))}


def estimate_errors(
    estimate: np.ndarray, shared: np.ndarray, met: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Errors over the pairs that have not met but share a third client; NaN if there is none.

    known_share: of all pairs, those that met. covered_share: of the others, those that share a third.
    """
    unknown = ~met
    np.fill_diagonal(unknown, False)
    covered = unknown & shared
    errors = np.abs(estimate[covered] - truth[covered])
    pairs = len(met) * (len(met) - 1)
    return {
        "error_max": float(errors.max()) if len(errors) else float("nan"),
        "error_mean": float(errors.mean()) if len(errors) else float("nan"),
        "known_share": float(met.sum() / pairs),
        "covered_share": float(covered.sum() / unknown.sum()) if unknown.any() else float("nan"),
    }


def rows_at(plan: SimilarityPlan, clients: int, repeats: int) -> list[Row]:
    """The rows of one K; `pair` above its limit has one without seconds."""
    from defenses.cosine import cosine_similarities, transitive_similarities

    vectors = vectors_of(plan, clients)
    truth = cosine_similarities(vectors, "matrix")
    nothing = dict.fromkeys(("error_max", "error_mean", "known_share", "covered_share"), float("nan"))
    size: Row = {
        **nothing,
        "cosine_mean": float((truth.sum() - clients) / (clients * (clients - 1))),
    }
    rows: list[Row] = []
    for way in DIRECT:
        if way == "pair" and clients > plan.pair_limit:
            rows.append({**size, "way": way, "repeat": 0, "wall_s": None})
            continue
        spent = _spent(repeats, partial(cosine_similarities, vectors, way))
        errors = direct_errors(cosine_similarities(vectors, way), truth)
        rows += [{**size, **errors, "way": way, "repeat": n, "wall_s": s} for n, s in enumerate(spent)]
    met = met_before(plan, clients)
    history = np.where(met, truth, 0.0).astype(np.float32)
    spent = _spent(repeats, partial(transitive_similarities, history, met))
    errors = estimate_errors(*transitive_similarities(history, met), met, truth)
    rows += [{**size, **errors, "way": "transitive", "repeat": n, "wall_s": s} for n, s in enumerate(spent)]
    return rows


def _spent(repeats: int, work: Callable[[], object]) -> list[float]:
    return [seconds(work) for _ in range(repeats)]


def _notes(plan: SimilarityPlan, table: pa.Table) -> str:
    mean = table["cosine_mean"][-1].as_py()
    return (
        f"Seconds: median of {plan.repeats} (first to third quartile), {plan.threads} thread(s), {plan.columns} values"
        f" a client. What is scaled up is so by K^2 from the largest size at or below {plan.pair_limit:,}"
        " clients. Errors are absolute, over pairs of different clients, against one float64 matrix product (`matrix`"
        f" itself). transitive: knows the cosines of clients that met in {plan.history_rounds} rounds of"
        f" {plan.share:.0%} of the clients; its errors are over the pairs that did not meet but share a third client"
        " (others covered), and its seconds are those of estimating all pairs. Vectors do not change between rounds,"
        " so the error is that of the estimate alone. The middle of the interval of two equal cosines s is s^2: an"
        f" estimate of clients that all have cosines s is off by s - s^2, at most 1/4; here the mean cosine is {mean:.2f}."
    )
