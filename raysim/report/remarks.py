"""What readers of a run's numbers must know beside them: uploads rejected, clients absent, rates undefined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from raysim.metrics import Summary, summarise
from raysim.round_notes import ABSENT, ASSUMED, REJECTED, UNDEFINED, notes_of
from raysim.trees import Row

if TYPE_CHECKING:
    from raysim.report.finished_run import Columns


def of_round(row: Row) -> list[str]:
    """The remarks on one row of `rounds`: `24 of 24 uploads rejected: non-finite`."""
    notes = notes_of(row["notes"])
    said = []
    if REJECTED in notes:
        count = sum(notes[REJECTED].values())
        said.append(f"{count} of {row['clients']} uploads rejected: {_reasons(notes[REJECTED])}")
    if ABSENT in notes:
        said.append(f"{sum(notes[ABSENT].values())} clients absent: {_reasons(notes[ABSENT])}")
    if UNDEFINED in notes:
        said.append(f"no accuracy: {notes[UNDEFINED]}")
    if row.get("staleness_max") is not None:
        said.append(f"staleness {row['staleness_mean']:.1f}, at most {row['staleness_max']}")
    return said


def of_run(rounds: Columns) -> list[str]:
    """The remarks on a whole run, a sentence each."""
    numbers, every = rounds["round"].tolist(), [notes_of(text) for text in rounds["notes"]]
    rejected, absent = (
        sum((Counter[str](n.get(key, {})) for n in every), Counter[str]()) for key in (REJECTED, ABSENT)
    )
    assumed = [notes[ASSUMED] for notes in every if ASSUMED in notes]
    said = [f"{assumed[0]['by']} assumes {assumptions(assumed[0])}."] if assumed else []
    if rejected:
        received = int(rounds["clients"].sum())
        said.append(f"{rejected.total()} of {received} uploads rejected by the engine: {_reasons(rejected)}.")
    if absent:
        said.append(f"{absent.total()} times a client drawn for a round was absent: {_reasons(absent)}.")
    if (known := ~np.isnan(rounds.get("staleness_max", np.full(len(numbers), np.nan)))).any():
        mean = np.average(rounds["staleness_mean"][known], weights=rounds["clients"][known])
        most = rounds["staleness_max"][known].max()
        said.append(f"Updates were {mean:.1f} global models behind on average, {most:.0f} at most.")
    unjudged = [
        number
        for number, notes, received in zip(numbers, every, rounds["clients"], strict=True)
        if sum(notes.get(REJECTED, {}).values()) == received
    ]
    if unjudged:
        said.append(
            f"{_in_rounds(unjudged)} no upload was left to judge: the global model stayed, and there are no detection rates."
        )
    undefined = [number for number, notes in zip(numbers, every, strict=True) if UNDEFINED in notes]
    if undefined:
        last = every[numbers.index(undefined[-1])][UNDEFINED]
        said.append(
            f"{_in_rounds(undefined)} accuracy or attack success is undefined: {last} (round {undefined[-1]})."
        )
    return said


def assumptions(note: Mapping[str, object]) -> str:
    """`10 of 24 malicious, the most this rule tolerates`."""
    text = f"{note['malicious']} of {note['of']} malicious"
    return text + ", the most this rule tolerates" if note["most"] else text


def utility(rounds: Columns, column: str) -> Summary:
    """`summarise` of main accuracy or attack success; the final value is NaN if the last round's is undefined."""
    summary, notes = summarise(rounds[column]), rounds["notes"]
    known = ~np.isnan(rounds[column])
    undefined = np.array([UNDEFINED in notes_of(text) for text in notes], bool)
    evaluated = np.flatnonzero(known | undefined)
    if len(evaluated) and not known[evaluated[-1]]:
        return summary._replace(final=float("nan"))
    return summary


def _reasons(counts: Mapping[str, int]) -> str:
    """`non-finite`, or with several `non-finite (3), wrong shape (2)`."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{reason} ({count})" for reason, count in sorted(counts.items()))


def _in_rounds(numbers: list[int]) -> str:
    from raysim.report.tables import ids

    return f"In round{'s' if len(numbers) > 1 else ''} {ids(numbers)}"
