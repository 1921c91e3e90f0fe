"""What the engine itself notes of a round, beside what attacks report of themselves: the column `notes` of `rounds`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from raysim.trees import Tree

REJECTED = "rejected"
"""{reason: how many} of the uploads that the engine kept from the defense."""

ABSENT = "absent"
"""{reason: how many} of the cohort's clients that sent nothing."""

ASSUMED = "assumed"
"""How many of the uploads the defense took to be malicious: see `raysim.defense.assumption`."""

UNDEFINED = "undefined"
"""Why main accuracy or attack success is undefined though the round was evaluated."""


def as_text(notes: Mapping[str, object]) -> str:
    """The notes as the table holds them: JSON, or nothing."""
    return json.dumps(notes, default=float, sort_keys=True) if notes else ""


def notes_of(text: str | None) -> Tree:
    """The notes in a row of the table.

    >>> notes_of('{"rejected": {"non-finite": 2}}')[REJECTED], notes_of("")
    ({'non-finite': 2}, {})
    """
    notes: Tree = json.loads(text or "{}")
    return notes
