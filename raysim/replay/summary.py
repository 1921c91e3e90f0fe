"""What a replay left behind, read: what it caught, what it cost, and whether its verdicts are those of others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raysim.backends.telemetry import WHOLE_STAGE
from raysim.config.load import load_config
from raysim.defense import titled
from raysim.formats import UNDEFINED
from raysim.metrics import mean_detection
from raysim.report.finished_run import read_columns
from raysim.report.remarks import assumptions
from raysim.report.stage_costs import owner_cost, stage_costs
from raysim.report.tables import detections
from raysim.round_notes import ASSUMED, notes_of
from raysim.runs.directory import RunDirectory

VERDICT = ["round", "client", "malicious", "flagged", "score", "weight", "num_examples"]
"""The columns of `clients` that a defense decides, or that it is scored against."""

LOST = "lost:"
"""How the reason begins of a client whose update never came, and so was never judged."""


@dataclass(frozen=True)
class Replayed:
    """One replay. name: of its folder; title: as tables call it. Rates: means over the rounds that define them.

    median_s, first_s: the defense's seconds a round; moved_bytes: a round, from other nodes; verdicts: a SHA-256 over all
    rounds; aggregates: the same of what the rounds led to; live: what `verdicts` is for the run itself, "" if that was
    another defense, or if the replay does not start with round 0 and leave out none; assumes: how many uploads it
    takes to be malicious in the first round.
    """

    name: str
    title: str
    nodes: int
    rounds: int
    recall: float
    precision: float
    fpr: float
    f1: float
    auc_score: float
    median_s: float
    first_s: float
    moved_bytes: float
    verdicts: str
    aggregates: str
    live: str
    assumes: str = UNDEFINED

    @property
    def defense(self) -> str:
        """The label without the nodes."""
        return self.name.partition("@")[0]


def read_replay(run: Path, directory: Path) -> tuple[Replayed, dict[str, dict[str, float]]]:
    """What one replay of `run` left behind; and stage -> its seconds a round: median_s, first_s, and total_s."""
    rounds, spans = read_columns(directory, "rounds"), read_columns(directory, "spans")
    numbers = sorted(rounds["round"].tolist())
    whole = spans["task"] == WHOLE_STAGE
    about = json.loads((directory / "environment.json").read_text())
    config = load_config(directory / "config.yaml")
    notes = [notes_of(text) for text in rounds["notes"]]
    same_defense = config.defense == load_config(run / "config.yaml").defense
    comparable = same_defense and numbers == list(range(len(numbers)))
    rates, cost = mean_detection(detections(rounds))[0], owner_cost(spans, "defense")
    aggregates = [note.get("aggregate", "") for note in notes]
    found = Replayed(
        name=directory.name,
        title=titled(directory.name, about.get("calibration", False)),
        nodes=len(about.get("nodes", [None])),
        rounds=len(numbers),
        recall=rates.recall,
        precision=rates.precision,
        fpr=rates.fpr,
        f1=rates.f1,
        auc_score=rates.auc_score,
        median_s=cost.median_s,
        first_s=cost.first_s,
        moved_bytes=float(spans["bytes_moved"][whole].sum()) / len(numbers),
        verdicts=verdict_digest(directory, numbers),
        aggregates=hashlib.sha256(json.dumps(aggregates).encode()).hexdigest(),
        live=verdict_digest(run, numbers) if comparable else "",
        assumes=assumptions(notes[0][ASSUMED]) if ASSUMED in notes[0] else UNDEFINED,
    )
    stages = {
        entry.stage: {
            "median_s": entry.cost.median_s,
            "first_s": entry.cost.first_s,
            "total_s": entry.cost.total_s,
        }
        for entry in stage_costs(spans)
    }
    return found, stages


def verdict_digest(directory: Path, rounds: Sequence[int]) -> str:
    """A SHA-256 of the verdicts of these rounds: every number to its last bit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = RunDirectory(directory).read("clients")
    judged = pc.is_in(table["round"], value_set=pa.array(rounds, pa.int32()))
    lost = pc.starts_with(table["reason"], LOST)
    kept = table.filter(pc.and_not(judged, lost)).select(VERDICT)
    kept = kept.sort_by([("round", "ascending"), ("client", "ascending")])
    return hashlib.sha256(json.dumps(kept.to_pydict()).encode()).hexdigest()


def comparison(replay: Replayed, others: Sequence[Replayed]) -> str:
    """Which verdicts are the same to the byte: the run's own, those of the same defense on other nodes."""
    found = []
    if replay.live:
        found.append("live" if replay.live == replay.verdicts else "NOT live")
    first = next(other for other in others if _comparable(other, replay))
    if first is not replay:
        same = (first.verdicts, first.aggregates) == (replay.verdicts, replay.aggregates)
        found.append(first.title if same else f"NOT {first.title}")
    return ", ".join(found) or UNDEFINED


def _comparable(one: Replayed, other: Replayed) -> bool:
    return (one.defense, one.rounds) == (other.defense, other.rounds)
