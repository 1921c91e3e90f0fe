"""What a run found, as tables for a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from raysim.report.finished_run import Columns

STAGES_SHOWN = 6
"""How many stages the results list, longest first."""

RATES = {
    "recall": "recall",
    "precision": "precision",
    "fpr": "FPR",
    "f1": "F1",
    "auc_hard": "AUC, decisions",
    "auc_score": "AUC, scores",
}


def utilities(rounds: Columns) -> Table:
    """Main accuracy, and attack success if there is one."""
    from raysim.formats import percent
    from raysim.metrics import LAST_ROUNDS
    from raysim.report.remarks import utility

    table = grid("", "final", "best", f"mean of last {min(LAST_ROUNDS, rounds['round'].size)}")
    for column, label in (("main_accuracy", "main accuracy"), ("attack_success_rate", "attack success")):
        summary = utility(rounds, column)
        if column == "main_accuracy" or summary.best == summary.best:
            table.add_row(label, *map(percent, summary))
    return table


def detection(rounds: Columns) -> Table:
    """Detection rates, each with the number of rounds its mean is over."""
    from raysim.formats import rate
    from raysim.metrics import mean_detection
    from raysim.report.tables import detections

    mean, counts = mean_detection(detections(rounds))
    table = grid("detection", "mean", "rounds")
    for name, label in RATES.items():
        table.add_row(label, rate(getattr(mean, name)), str(counts[name]))
    return table


def headline(spans: Columns) -> str:
    """What the defense costs a round, in one line."""
    from raysim.formats import UNDEFINED, seconds
    from raysim.report.stage_costs import owner_cost, owner_share

    cost, share = owner_cost(spans, "defense"), owner_share(spans, "defense")
    if not cost.rounds:
        return "the defense's cost was not recorded"
    if cost.rounds == 1:
        return f"the defense cost {seconds(cost.first_s)}, in the only round it worked in"
    part = UNDEFINED if share != share else f"{100 * share:.1f} %"
    return (
        f"the defense costs {seconds(cost.median_s)} a round, {part} of the round"
        f" (first round {seconds(cost.first_s)})"
    )


def costs(spans: Columns) -> Table:
    """Whose the seconds are, and the stages that took longest."""
    from raysim.formats import seconds
    from raysim.report.stage_costs import owner_costs, stage_costs

    table = grid("seconds", "a round", "first round", "rounds", "in all")
    found = owner_costs(spans)
    rows = [(owner, found[owner]) for owner in found]
    rows += [(f"  {entry.owner}: {entry.stage}", entry.cost) for entry in stage_costs(spans)[:STAGES_SHOWN]]
    for name, cost in rows:
        numbers = (seconds(cost.median_s), seconds(cost.first_s), str(cost.rounds), seconds(cost.total_s))
        table.add_row(name, *numbers)
    return table


def grid(*headings: str) -> Table:
    """A table without lines; columns after the first are numbers if there are headings."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(headings))
    for number, heading in enumerate(headings or ("", "")):
        table.add_column(heading, justify="right" if headings and number else "left")
    return table


def console() -> Console:
    """Where results go. Names and paths are not markup, and nothing is wrapped if nobody watches."""
    from rich.console import Console

    watched = sys.stdout.isatty()
    width = None if watched else 10_000
    return Console(force_terminal=watched, width=width, markup=False, emoji=False, highlight=False)
