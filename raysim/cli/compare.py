"""The command `raysim compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raysim.cli.options import Debug
from raysim.cli.study_command import PageFile
from raysim.exit_status import exit_status


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, sweeps or replays.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Where the page and its figures go.")
    ] = Path("runs/compare"),
    page: PageFile = None,
    debug: Debug = False,
) -> None:
    """Put runs side by side: rates, accuracy, seconds by stage, and what differs in their configurations.

    \b
    raysim compare runs/first runs/second
    raysim compare runs/sweep                          all runs of a sweep
    raysim compare runs/kept runs/kept/replays         a run beside the replays of its updates
    """
    with exit_status(debug):
        from datetime import UTC, datetime

        from raysim.runs.directory import environment, write_atomically
        from raysim.studies.compare import about_of, compared, page_of, runs_of
        from raysim.studies.runner import write_page

        runs = runs_of(paths)
        shown = page_of(compared(runs))
        about = about_of(runs, environment(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
        out.mkdir(parents=True, exist_ok=True)
        for name, content in shown.files.items():
            write_atomically(out / name, content.encode())
        typer.echo(write_page("Runs side by side", about, shown, out / "compare.md", page))
