"""Composes the report: one HTML file that needs nothing else, no script, no network.

A section that has nothing to show is left out with one sentence saying why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from raysim.formats import UNDEFINED, column_seconds, number, percent, rate, seconds, size
from raysim.metrics import mean_detection
from raysim.report import cost_figures, figures, remarks, tables
from raysim.report.drawing import NARROW, WIDE, data_uri
from raysim.report.finished_run import Columns, FinishedRun, read_finished_run
from raysim.report.stage_costs import owner_costs, owner_seconds, recorded_rounds, stage_costs
from raysim.report.terminal import headline
from raysim.report.virtual_time import virtual_stack, virtual_time


@dataclass(frozen=True)
class Drawing:
    """A figure on the page: data URIs for wide pages and narrow ones, its text alternative and its caption."""

    source: str
    narrow: str
    alt: str
    caption: str

    @classmethod
    def of(cls, figure: Callable[[float], Figure], alt: str, caption: str) -> Drawing:
        """figure: draws it, given the width in inches."""
        return cls(data_uri(figure(WIDE)), data_uri(figure(NARROW)), alt, caption)


def render(run_directory: Path) -> Path:
    """Write `report.html` into a finished run directory and return its path.

    Raises RecordError naming the file when the directory lacks one or holds a damaged one.
    """
    run = read_finished_run(run_directory)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(percent=percent, rate=rate, number=number, seconds=column_seconds, size=size)
    template = resources.files("raysim.report").joinpath("report.html").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        name=run.path.resolve().name,
        facts=_facts(run),
        outcome=_outcome(run),
        remarks=remarks.of_run(run.rounds),
        accuracy=_accuracy(run.rounds),
        detection=_detection(run),
        heat_maps=_heat_maps(run),
        time=_time(run.spans),
        simulated=_simulated(run),
        rounds=_rows(run.rounds),
        config_text=run.config_text.rstrip("\n"),
        environment=list(tables.flatten(run.environment)),
    )
    target = run.path / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


def _facts(run: FinishedRun) -> list[tuple[str, str]]:
    """What was run: settings from the configuration, populations as they were observed."""
    clients, rounds = run.clients, run.rounds
    seen = f"{len(np.unique(clients['client']))} seen"
    if rounds["round"].size:
        seen += f", {rounds['clients'].mean():,.4g} a round on average"
    attackers = len(np.unique(clients["client"][clients["malicious"]]))
    seen += f"; {attackers} of them malicious in some round" if attackers else "; none malicious"
    drawn = (run.config.get("updates") or {}).get("name", "trained") != "trained"
    work = "Updates" if drawn else "Training"
    config = tables.with_titles(run.config, run.environment.get("titles", {}))
    return [
        *((label, tables.setting(config, label.lower())) for label in ("Data", "Model", work)),
        ("Clients", seen),
        *((label, tables.setting(config, label.lower())) for label in ("Attack", "Defense")),
        ("Rounds", str(rounds["round"].size)),
        ("Seed", str(run.config.get("seed", UNDEFINED))),
        *(("Note", note) for note in run.environment.get("notes", ())),
    ]


def _outcome(run: FinishedRun) -> dict[str, object]:
    """Final, best and last-20 mean of the utilities; mean detection rates and the rounds that define them."""
    rounds = run.rounds
    utilities = [("Main accuracy", remarks.utility(rounds, "main_accuracy"))]
    for label, column in (
        ("Attack success", "attack_success_rate"),
        ("Target confidence", "target_confidence"),
    ):
        if _measured(rounds[column]):
            utilities.append((label, remarks.utility(rounds, column)))
    mean, counts = mean_detection(tables.detections(rounds))
    labels = {
        "recall": "Recall",
        "precision": "Precision",
        "fpr": "FPR",
        "acc": "ACC",
        "f1": "F1",
        "auc_hard": "AUC, decisions",
        "auc_score": "AUC, scores",
    }
    rates = [(label, getattr(mean, field), counts[field]) for field, label in labels.items()]
    return {"utilities": utilities, "rates": rates if any(counts.values()) else []}


def _accuracy(rounds: Columns) -> Drawing | str:
    if not rounds["round"].size:
        return "No accuracy curve: the run recorded no round."
    success = _measured(rounds["attack_success_rate"])
    if not _measured(rounds["main_accuracy"]) and not success:
        return "No accuracy curve: the global model was evaluated in no round."
    evaluated = int(np.count_nonzero(~np.isnan(rounds["main_accuracy"])))
    summary = remarks.utility(rounds, "main_accuracy")
    alt = f"Line chart by round. Main accuracy: final {percent(summary.final)}, best {percent(summary.best)}."
    caption = f"Test accuracy of the global model, measured in {evaluated} of {len(rounds['round'])} rounds"
    if success:
        attack = remarks.utility(rounds, "attack_success_rate")
        alt += f" Attack success: final {percent(attack.final)}, best {percent(attack.best)}."
        caption += "; attack success is the share of targeted inputs it gives the attacker's class"
    return Drawing.of(lambda width: figures.accuracy_curve(rounds, width), alt, caption + ".")


def _detection(run: FinishedRun) -> dict[str, object]:
    rounds, clients = run.rounds, run.clients
    rates: Drawing | str
    strip: Drawing | str
    if not rounds["round"].size:
        rates = "No detection rates: the run recorded no round."
    elif not any(_measured(rounds[name]) for name in ("recall", "precision", "fpr")):
        rates = "No detection rates: the defense flags nobody, so there is no decision to score."
    else:
        mean, _ = mean_detection(tables.detections(rounds))
        alt = (
            f"Three line charts by round. Means: recall {rate(mean.recall)}, precision {rate(mean.precision)}"
        )
        caption = (
            "Malicious is the positive class. A round in which a rate is undefined leaves a gap. "
            "The false alarm rate of PDRR is the FPR, its missing alarm rate 1\u00a0−\u00a0recall."
        )
        rates = Drawing.of(
            lambda width: figures.detection_rates(rounds, width), f"{alt}, FPR {rate(mean.fpr)}.", caption
        )
    if not clients["client"].size:
        strip = "No record of who was flagged: the run recorded no client."
    elif np.isnan(clients["flagged"]).all():
        strip = "No record of who was flagged: the defense flags nobody."
    else:
        _, left_out = figures.flag_strip(clients)
        attackers = tables.ids(clients["client"][clients["malicious"]])
        flagged = tables.ids(clients["client"][clients["flagged"] == 1])
        alt = f"Grid of clients by rounds. Attackers: {attackers}. Flagged at least once: {flagged}."
        caption = "Who was flagged when" + ("." if attackers == "none" else "; attackers above the line.")
        strip = Drawing.of(
            lambda width: figures.flag_strip(clients, width)[0], alt, f"{caption} {left_out}".strip()
        )
    return {
        "rates": rates,
        "strip": strip,
        "scores": _scores(rounds, clients),
        "rejections": tables.rejections(clients),
    }


def _scores(rounds: Columns, clients: Columns) -> Drawing | str:
    finite = np.isfinite(clients["score"])
    if not finite.any() or not rounds["round"].size:
        return "No scores: the defense gives none."
    judged = np.isfinite(rounds["threshold"])
    above = finite & (clients["score"] > _threshold_of(rounds, clients))
    known = finite & np.isin(clients["round"], rounds["round"][judged])
    caption = (
        "Every client's score, higher is more suspicious; attackers are triangles, benign clients circles."
    )
    alt = f"Scores by round of {np.unique(clients['client']).size} clients."
    if judged.any():
        parts = [
            f"{np.count_nonzero(above & known & kind)} of {np.count_nonzero(known & kind)} scores of {who}"
            for who, kind in (("attackers", clients["malicious"]), ("benign clients", ~clients["malicious"]))
            if (known & kind).any()
        ]
        alt += f" Above the threshold: {', '.join(parts)}."
        caption += " Above the line, the round's threshold, the defense suspects a client."
    else:
        caption += " This defense compares scores with no threshold."
    if left_out := np.count_nonzero(~finite & ~np.isnan(clients["score"])):
        caption += f" {left_out} scores that are not finite are not drawn."
    return Drawing.of(lambda width: figures.scores(clients, rounds, width), alt, caption)


def _threshold_of(rounds: Columns, clients: Columns) -> np.ndarray:
    """The threshold of each client's round; NaN if there is none."""
    place = np.clip(np.searchsorted(rounds["round"], clients["round"]), 0, len(rounds["round"]) - 1)
    same = rounds["round"][place] == clients["round"]
    return np.where(same, rounds["threshold"][place], np.nan)


def _heat_maps(run: FinishedRun) -> Drawing | str:
    maps = run.heat_maps
    if maps is None:
        return "No heat maps: the run recorded none; only the defenses on class-activation maps make them."
    if not maps.client_ids.size:
        return f"No heat maps: those of round {maps.round} hold no client."
    _, left_out = figures.heat_map_grid(maps, run.clients)
    malicious, flagged = figures.marks(maps, run.clients)
    who = (
        f"flagged {tables.ids(maps.client_ids[flagged])}; attackers {tables.ids(maps.client_ids[malicious])}"
    )
    what = (
        "each client's map"
        if maps.reconstructed is None
        else "each client's map and, right of it, its reconstruction"
    )
    caption = (
        f"Round {maps.round}: {what}. A red frame marks a flagged client. In this round: {who}. {left_out}"
    )
    alt = f"Grid of heat maps, round {maps.round}: {who}."
    return Drawing.of(lambda width: figures.heat_map_grid(maps, run.clients, width)[0], alt, caption.strip())


def _time(spans: Columns) -> dict[str, object] | str:
    stages = stage_costs(spans)
    if not stages:
        return "No times: the run recorded no stage."
    words = "; ".join(f"{s.stage} {seconds(cost_figures.shown_seconds(s))}" for s in stages)
    owners = owner_costs(spans)
    shares = "; ".join(f"{owner} {seconds(cost.total_s)}" for owner, cost in owners.items())
    return {
        "headline": headline(spans),
        "by_owner": Drawing.of(
            lambda width: cost_figures.owner_stack(recorded_rounds(spans), owner_seconds(spans), width),
            f"Stacked bars of seconds by round. In all: {shares}.",
            "Whose the seconds of each round are, as the server saw them: the bars of a round add up to all its stages.",
        ),
        "by_stage": Drawing.of(
            lambda width: cost_figures.stage_bars(stages, width),
            f"Bar chart of seconds a round by stage: {words}.",
            "Wall seconds as the server saw them, waiting and transfer included.",
        ),
        "owners": owners,
        "on_gpus": any(stage.peak_gpu_bytes > 0 for stage in stages),
        "spilled": any(stage.bytes_spilled > 0 or stage.bytes_restored > 0 for stage in stages),
        "stages": stages,
    }


def _simulated(run: FinishedRun) -> dict[str, object] | None:
    time = virtual_time(run.rounds, run.spans)
    if time is None:
        return None
    return {
        "sentence": time.sentence,
        "rows": time.rows,
        "staleness": None if time.staleness is None else time.staleness.tolist(),
        "drawing": Drawing.of(
            lambda width: virtual_stack(time, width),
            f"Stacked bars of seconds by round: {time.sentence}.",
            "How long each simulated round takes on the clients' devices, and the verdict's wall seconds here on top.",
        ),
    }


def _rows(rounds: Columns) -> list[dict[str, object]]:
    return [{name: column[row] for name, column in rounds.items()} for row in range(rounds["round"].size)]


def _measured(values: np.ndarray) -> bool:
    return bool((~np.isnan(values)).any())
