"""The command `raysim reproduce`."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from raysim.exit_status import exit_status

HOW_TO_READ = (
    "reported | measured ± standard deviation over seeds; – is undefined, (?) contradicts the paper itself"
)


def reproduce(
    paper: Annotated[
        str,
        typer.Argument(metavar="gcama|layercam_ae|fedgrad|pdrr|flare", help="Whose.", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keys to change in every cell.", show_default=False),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(metavar="N", help="3 or table3, fig7, all. Default: those that report numbers."),
    ] = None,
    scale: Annotated[
        Literal["paper", "small"], typer.Option(help="The full setting, or its structure in seconds a cell.")
    ] = "paper",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every cell, with seeds 0, 1, ...")] = 3,
    match: Annotated[
        str, typer.Option(metavar="TEXT", help="Only cells with this in their name.", show_default=False)
    ] = "",
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Where the runs go; finished ones are kept.")
    ] = Path("runs/reproduce"),
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the tables as Markdown, too.")
    ] = None,
    backend: Annotated[
        Literal["ray", "inprocess"] | None,
        typer.Option(help="Default: ray at paper scale, inprocess at small.", show_default=False),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster that is up. Default: a new one here.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error, too.")] = False,
) -> None:
    """Run the experiments of a paper, and print its numbers beside the measured ones.

    \b
    raysim reproduce flare --scale small
    raysim reproduce pdrr --table 1 --scale small --seeds 1 --markdown pdrr.md
    raysim reproduce layercam_ae --table 4 --match cifar100 --address 10.0.0.1:6379

    Each cell is a preset (raysim list presets) and each seed a run under DIR; what is finished there is not run
    again, what is unfinished goes on. At small scale, the notes say what stands in for the paper's data and network.
    """
    with exit_status(debug), ExitStack() as opened:
        from rich.console import Console
        from rich.table import Table

        from raysim.errors import ConfigError
        from raysim.studies.papers import comparison
        from raysim.studies.papers.cells import run_cell, select

        watched = sys.stdout.isatty()
        console = Console(width=None if watched else 10_000, markup=False, emoji=False, highlight=False)
        chosen = {
            name: kept
            for name, presets in select(paper, table).items()
            if (kept := [preset for preset in presets if match in preset.name])
        }
        if not chosen:
            raise ConfigError("match", "must be part of the name of a cell", match)
        where = backend or ("ray" if scale == "paper" else "inprocess")
        if where == "ray":
            from raysim.backends.ray_connection import connected

            opened.enter_context(connected(address))  # one cluster for all runs
        begin, sections, problems = time.monotonic(), [], 0
        for name, presets in chosen.items():
            cells = [
                run_cell(
                    preset,
                    scale=scale,
                    seeds=range(seeds),
                    out=out,
                    backend=where,
                    address=address,
                    overrides=overrides or (),
                    started=lambda text: typer.echo(f"{time.monotonic() - begin:7.0f} s  {text}", err=True),
                )
                for preset in presets
            ]
            problems += sum(bool(cell.problem) for cell in cells)
            title = f"{paper} {name}, {scale} scale, {seeds} {'seed' if seeds == 1 else 'seeds'}"
            shown = Table(title=title, caption=HOW_TO_READ, title_justify="left", caption_justify="left")
            for heading in comparison.header(cells):
                shown.add_column(heading, overflow="fold")
            for line in comparison.lines(cells, scale):
                shown.add_row(*line)
            console.print(shown)
            sections.append(comparison.markdown(title, cells, scale))
            if markdown is not None:
                markdown.parent.mkdir(parents=True, exist_ok=True)
                markdown.write_text("\n".join([*sections, HOW_TO_READ, ""]), encoding="utf-8")
        if problems:
            typer.echo(f"error: {problems} cells were not run, or not wholly: see their notes", err=True)
            raise typer.Exit(1)
