"""Replays side by side, as tables for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raysim.report.terminal import grid

if TYPE_CHECKING:
    from rich.table import Table


def replays(run: Path, directories: list[Path]) -> list[Table]:
    """What every replay caught and cost, and the seconds of its stages."""
    from raysim.replay.summary import read_replay, tables

    shown = []
    for headings, rows in tables([read_replay(run, directory) for directory in directories]):
        table = grid(*headings)
        for row in rows:
            table.add_row(*row)
        shown.append(table)
    return shown
