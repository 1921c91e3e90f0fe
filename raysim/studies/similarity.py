"""FedGrad's similarities of K clients in four ways side by side: seconds and error against K.

`pair`, `batch` and `matrix` measure all K x K cosines; `transitive` (FedGrad, section 6.2) measures none and estimates
those of clients that have not met from earlier rounds' cosines with third clients. What is compared is what FedGrad
compares: one vector a client, by default as long as the by-class sums of LEAF CNN's last layer.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raysim import rng
from raysim.backends.base import ThreadLimit
from raysim.errors import ConfigError
from raysim.formats import UNDEFINED, significant
from raysim.studies.costs.defense_cost import seconds
from raysim.studies.study import (
    Study,
    Times,
    finish,
    growth_text,
    markdown_table,
    panels,
    settings_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIRECT: tuple[Literal["pair", "batch", "matrix"], ...] = ("pair", "batch", "matrix")
WAYS = (*DIRECT, "transitive")


@dataclass(frozen=True)
class SimilarityPlan:
    """Sizes and the history.

    columns: values compared per client. spread: a client's own part beside the shared one, each of expected squared
    norm 1, so that cosines lie around 1 / (1 + spread^2). pair_limit: above so many clients `pair` is not run; its
    seconds are scaled up from the largest size that was, by K^2. history_rounds, share: the estimate knows the
    cosines of clients that met in so many earlier rounds, each of a cohort of this share of the K.
    """

    clients: tuple[int, ...] = (50, 100, 200, 500, 1000, 2000, 5000)
    columns: int = 62
    spread: float = 1.0
    repeats: int = 3
    pair_limit: int = 1000
    history_rounds: int = 20
    share: float = 0.1
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for key, least in (
            ("columns", 1),
            ("spread", 0),
            ("repeats", 1),
            ("history_rounds", 1),
            ("threads", 1),
        ):
            if not getattr(self, key) >= least:
                raise ConfigError(key, f"must be at least {least}", getattr(self, key), least)
        if not 0 < self.share <= 1:
            raise ConfigError("share", "must be above 0 and at most 1", self.share, 0.1)
        if self.clients[0] < 2:
            raise ConfigError("clients", "must be at least 2 each", self.clients[0], 2)
        if self.pair_limit < self.clients[0]:
            rule = "must be at least the smallest number of clients, to scale up from"
            raise ConfigError("pair_limit", rule, self.pair_limit, self.clients[0])


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


def measure(plan: SimilarityPlan, tell: Callable[[str], None] = lambda line: None) -> Study:
    """Every way at every K; `tell` hears of each K as it begins."""
    rows: list[dict[str, Any]] = []
    with ThreadLimit(plan.threads)():
        _at_one_size(plan, plan.clients[0], 1)  # warms up
        for clients in plan.clients:
            tell(f"{clients} clients")
            gc.collect()
            rows += _at_one_size(plan, clients, plan.repeats)
    _scale_up_pairs(plan, rows)
    title = "FedGrad's similarities in four ways"
    sections = [_table(plan, rows), _growth(plan, rows), _notes(plan, rows)]
    return Study("similarity", title, settings_of(plan), rows, sections, _figure(plan, rows))


def direct_errors(similarities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The largest and the mean absolute error over all pairs of different clients."""
    errors = np.abs(similarities - truth)
    np.fill_diagonal(errors, 0.0)
    count = len(truth)
    return {"error_max": float(errors.max()), "error_mean": float(errors.sum() / (count * (count - 1)))}


def estimate_errors(
    estimate: np.ndarray, shared: np.ndarray, met: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Errors over the pairs that have not met but share a third client; NaN where there is none.

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


def _at_one_size(plan: SimilarityPlan, clients: int, repeats: int) -> list[dict[str, Any]]:
    """The rows of one K; `pair` above its limit is left for _scale_up_pairs."""
    from defenses.cosine import cosine_similarities, transitive_similarities

    vectors = vectors_of(plan, clients)
    truth = cosine_similarities(vectors, "matrix")
    size = {"clients": clients, "cosine_mean": float((truth.sum() - clients) / (clients * (clients - 1)))}
    rows = []
    for way in DIRECT:
        row: dict[str, Any] = {**size, "way": way, "extrapolated": False}
        if way == "pair" and clients > plan.pair_limit:
            nothing = {"wall_s": [], "median_s": float("nan"), "q1_s": float("nan"), "q3_s": float("nan")}
            rows.append({**row, **nothing, **_no_errors(), "extrapolated": True})
            continue
        times = _times(repeats, cosine_similarities, vectors, way)
        errors = direct_errors(cosine_similarities(vectors, way), truth)
        rows.append({**row, **times.columns(), **_no_errors(), **errors})
    met = met_before(plan, clients)
    history = np.where(met, truth, 0.0).astype(np.float32)
    times = _times(repeats, transitive_similarities, history, met)
    errors = estimate_errors(*transitive_similarities(history, met), met, truth)
    row = {**size, "way": "transitive", "extrapolated": False}
    rows.append({**row, **times.columns(), **errors})
    return rows


def _times(repeats: int, fn: Callable[..., Any], *args: Any) -> Times:
    return Times(tuple(seconds(fn, *args) for _ in range(repeats)))


def _no_errors() -> dict[str, float]:
    return dict.fromkeys(("error_max", "error_mean", "known_share", "covered_share"), float("nan"))


def _scale_up_pairs(plan: SimilarityPlan, rows: Sequence[dict[str, Any]]) -> None:
    """Give `pair` above its limit the seconds of the largest size measured, times the ratio of K^2."""
    known = [row for row in rows if row["way"] == "pair" and not row["extrapolated"]][-1]
    for row in rows:
        if row["extrapolated"]:
            factor = (row["clients"] / known["clients"]) ** 2
            for column in ("median_s", "q1_s", "q3_s"):
                row[column] = known[column] * factor


def _of(rows: Sequence[dict[str, Any]], way: str, measured: bool = False) -> list[dict[str, Any]]:
    return [row for row in rows if row["way"] == way and not (measured and row["extrapolated"])]


def _table(plan: SimilarityPlan, rows: Sequence[dict[str, Any]]) -> str:
    head = ["K", *(f"{way} (s)" for way in WAYS), "pair, batch: largest error", "transitive: mean error"]
    head += ["largest error", "pairs that met", "others covered"]
    lines = []
    for clients in plan.clients:
        found = {row["way"]: row for row in rows if row["clients"] == clients}
        cells = [f"{clients:,}"]
        for way in WAYS:
            row = found[way]
            if row["extrapolated"]:
                cells.append(f"*{significant(row['median_s'])}*")
            else:
                cells.append(str(Times(tuple(row["wall_s"]))))
        worst = [row["error_max"] for row in (found["pair"], found["batch"]) if not row["extrapolated"]]
        estimate = found["transitive"]
        cells.append(f"{max(worst):.1e}")
        cells += [_number(estimate[column], ".3f") for column in ("error_mean", "error_max")]
        cells += [_number(estimate[column], ".1%") for column in ("known_share", "covered_share")]
        lines.append(cells)
    return markdown_table(head, lines)


def _number(value: float, form: str) -> str:
    return UNDEFINED if np.isnan(value) else format(value, form)


def _growth(plan: SimilarityPlan, rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for way in WAYS:
        measured = _of(rows, way, measured=True)
        sizes, medians = [row["clients"] for row in measured], [row["median_s"] for row in measured]
        cells.append([way, growth_text(sizes, medians)])
    return markdown_table(
        ["way", "seconds grow with K to the power of (95 % interval), last two sizes"], cells
    )


def _notes(plan: SimilarityPlan, rows: Sequence[dict[str, Any]]) -> str:
    mean = rows[-1]["cosine_mean"]
    return (
        f"Seconds: median of {plan.repeats} (first to third quartile), {plan.threads} thread(s), {plan.columns} values"
        f" a client. Numbers in italics are scaled up by K^2 from the largest size at or below {plan.pair_limit:,}"
        " clients. Errors are absolute, over pairs of different clients, against one float64 matrix product (`matrix`"
        f" itself). transitive: knows the cosines of clients that met in {plan.history_rounds} rounds of"
        f" {plan.share:.0%} of the clients; its errors are over the pairs that did not meet but share a third client"
        " (others covered), and its seconds are those of estimating all pairs. Vectors do not change between rounds,"
        " so the error is that of the estimate alone. The middle of the interval of two equal cosines s is s^2: an"
        f" estimate of clients that all have cosines s is off by s - s^2, at most 1/4; here the mean cosine is {mean:.2f}."
    )


def _figure(plan: SimilarityPlan, rows: Sequence[dict[str, Any]]) -> Figure:
    from raysim.report.figures import AMBER, BLUE, GREEN, RED

    figure, (cost, error) = panels(2)
    for way, colour, mark in zip(WAYS, (RED, AMBER, BLUE, GREEN), "D^os", strict=True):
        measured, every = _of(rows, way, measured=True), _of(rows, way)
        style: dict[str, Any] = {"color": colour, "marker": mark, "ms": 5}
        at, medians = [row["clients"] for row in measured], [row["median_s"] for row in measured]
        spans = [(r["median_s"] - r["q1_s"], r["q3_s"] - r["median_s"]) for r in measured]
        cost.errorbar(at, medians, yerr=np.array(spans).T, label=way, lw=1.4, capsize=3, **style)
        if len(every) > len(measured):
            rest = every[len(measured) - 1 :]
            at, medians = [row["clients"] for row in rest], [row["median_s"] for row in rest]
            cost.plot(at, medians, ls=":", lw=1.4, mfc="white", zorder=1, label=f"{way}, scaled up", **style)
        if way != "matrix":
            at = [row["clients"] for row in measured]
            for column, label, dash in (("error_max", "largest", "-"), ("error_mean", "mean", "--")):
                values = [row[column] for row in measured]
                error.plot(at, values, ls=dash, lw=1.4, label=f"{way}, {label}", **style)
    finish(cost, title="Cost", x="clients, K", ticks=plan.clients)
    finish(error, title="Error against one float64 matrix product", x="clients, K", ticks=plan.clients)
    cost.set_ylabel("seconds")
    error.set_ylabel("absolute error of a cosine")
    return figure
