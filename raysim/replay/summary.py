"""The replays of one run side by side: what each caught, what it cost, and whether the verdicts are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raysim.backends.telemetry import WHOLE_STAGE
from raysim.config.load import load_config
from raysim.defense import titled
from raysim.formats import UNDEFINED, column_seconds, rate
from raysim.metrics import Detection, mean_detection
from raysim.report.finished_run import read_columns
from raysim.report.remarks import assumptions
from raysim.report.stage_costs import Cost, owner_cost, stage_costs
from raysim.report.tables import detections
from raysim.round_notes import ASSUMED, notes_of
from raysim.runs.directory import RunDirectory, write_atomically

FOLDER = "replays"
"""Where a run keeps its replays."""

VERDICT = ["round", "client", "malicious", "flagged", "score", "weight", "num_examples"]
"""The columns of `clients` that a defense decides, or that it is scored against."""

LOST = "lost:"
"""How the reason begins of a client whose update never came, and so was never judged."""

RATES = {"recall": "recall", "precision": "precision", "fpr": "FPR", "f1": "F1", "auc_score": "AUC, scores"}

Table = tuple[list[str], list[list[str]]]
"""Headings and rows; the first column is text."""


@dataclass(frozen=True)
class Replayed:
    """One replay. stages: what each costs; cost: what the defense costs; moved: bytes a round that came from other nodes; verdicts: a SHA-256
    over all rounds; aggregates: those of the rounds; live: what `verdicts` is for the run itself, "" where
    that was another defense, or where the replay does not start with round 0 and leave out none; calibration: whether
    one of its defenses is shown the truth; assumes: how many uploads it takes to be malicious in the first round.
    """

    name: str
    nodes: int
    rounds: int
    detection: Detection
    stages: dict[str, Cost]
    cost: Cost
    moved: float
    verdicts: str
    aggregates: tuple[str, ...]
    live: str
    calibration: bool = False
    assumes: str = UNDEFINED

    @property
    def title(self) -> str:
        """The name as tables show it."""
        return titled(self.name, self.calibration)

    @property
    def defense(self) -> str:
        """The label without the nodes."""
        return self.name.partition("@")[0]


def read_replay(run: Path, directory: Path) -> Replayed:
    """What one replay of `run` left behind."""
    rounds, spans = read_columns(directory, "rounds"), read_columns(directory, "spans")
    numbers = sorted(rounds["round"].tolist())
    whole = spans["task"] == WHOLE_STAGE
    about = json.loads((directory / "environment.json").read_text())
    config = load_config(directory / "config.yaml")
    notes = [notes_of(text) for text in rounds["notes"]]
    same_defense = config.defense == load_config(run / "config.yaml").defense
    comparable = same_defense and numbers == list(range(len(numbers)))
    return Replayed(
        name=directory.name,
        nodes=len(about.get("nodes", [None])),
        rounds=len(numbers),
        detection=mean_detection(detections(rounds))[0],
        stages={entry.stage: entry.cost for entry in stage_costs(spans)},
        cost=owner_cost(spans, "defense"),
        moved=float(spans["bytes_moved"][whole].sum()) / len(numbers),
        verdicts=verdict_digest(directory, numbers),
        aggregates=tuple(note.get("aggregate", "") for note in notes),
        live=verdict_digest(run, numbers) if comparable else "",
        calibration=about.get("calibration", False),
        assumes=assumptions(notes[0][ASSUMED]) if ASSUMED in notes[0] else UNDEFINED,
    )


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


def tables(replays: Sequence[Replayed]) -> tuple[Table, Table]:
    """(What each caught and cost; seconds a round of each stage.)"""
    headings = [
        "replay",
        "nodes",
        "rounds",
        *RATES.values(),
        "s a round",
        "first round",
        "MiB moved",
        "verdicts",
        "equal to",
        "assumes",
    ]
    caught = [
        [
            replay.title,
            str(replay.nodes),
            str(replay.rounds),
            *(rate(getattr(replay.detection, name)) for name in RATES),
            column_seconds(replay.cost.median_s),
            column_seconds(replay.cost.first_s),
            f"{replay.moved / 2**20:.1f}",
            replay.verdicts[:8],
            comparison(replay, replays),
            replay.assumes,
        ]
        for replay in replays
    ]
    names = sorted(
        {stage for replay in replays for stage in replay.stages},
        key=lambda stage: (-max(_total(replay, stage) for replay in replays), stage),
    )
    cost = [
        [stage, *(_cell(replay.stages[stage]) if stage in replay.stages else "" for replay in replays)]
        for stage in names
    ]
    return (headings, caught), (["s a round (first)", *(replay.title for replay in replays)], cost)


def write_summary(run: Path) -> Path:
    """Put all replays of a run side by side in replays/summary.md."""
    folder = run / FOLDER
    found = [read_replay(run, path.parent) for path in sorted(folder.glob("*/rounds.parquet"))]
    caught, cost = map(_markdown, tables(found))
    text = f"""# Replays of {run.absolute().name}

Rates are means over rounds. Seconds are the server's wall clock: the median over the rounds after the first that ran
a stage, and that first round apart (in brackets, for stages); those of a defense leave out `load`, the reading of
recorded tiles. Verdicts: the first digits of a SHA-256 over flags, scores and weights of all clients and rounds;
"equal to" says with which others they agree to the byte, `live` being the recorded run.

{caught}

{cost}
"""
    write_atomically(folder / "summary.md", text.encode())
    return folder / "summary.md"


def _markdown(table: Table) -> str:
    headings, rows = table
    rule = ["---", *("---:" for _ in headings[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, rule, *rows))


def _comparable(one: Replayed, other: Replayed) -> bool:
    return (one.defense, one.rounds) == (other.defense, other.rounds)


def _cell(cost: Cost) -> str:
    return f"{column_seconds(cost.median_s)} ({column_seconds(cost.first_s)})"


def _total(replay: Replayed, stage: str) -> float:
    return replay.stages[stage].total_s if stage in replay.stages else 0.0
