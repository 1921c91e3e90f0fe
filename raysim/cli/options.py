"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from raysim.report.trackers import TrackerName

RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run: runs/first.", show_default=False)
]
Request = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.yaml|PRESET|KEY=VALUE",
        help="A file or a preset (default: quickstart), then keys to change in it.",
        show_default=False,
    ),
]
Backend = Annotated[
    Literal["ray", "inprocess"], typer.Option(help="On Ray, or in this one process: same results.")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A Ray cluster that is up. Default: RAY_ADDRESS, or a new one."),
]
Tracker = Annotated[
    TrackerName | None,
    typer.Option(help="Log every round as it ends, to files in the run's folder.", show_default=False),
]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error, too.")]

Explain = Annotated[
    bool,
    typer.Option(
        "--explain", help="What every key means, with its range and default, instead of a configuration."
    ),
]
