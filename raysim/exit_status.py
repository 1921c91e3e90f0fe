"""From errors to messages and exit statuses.

0 done, 1 the run failed, 2 the request is wrong, 130 ended by Ctrl-C (SIGINT), 143 ended by SIGTERM.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from raysim.errors import RaysimError, RunError
from raysim.interruption import status_of, terminable


@contextmanager
def exit_status(debug: bool = False) -> Iterator[None]:
    """Turn raysim's own errors, those of the file system, Ctrl-C and SIGTERM into a message and an exit status."""
    try:
        with terminable():
            yield
    except KeyboardInterrupt as end:
        typer.echo("interrupted", err=True)
        raise typer.Exit(status_of(end)) from None
    except (RaysimError, OSError) as error:
        complain(error, debug)
        raise typer.Exit(1 if isinstance(error, RunError | OSError) else 2) from None


def complain(error: Exception, debug: bool) -> None:
    """Say what went wrong on stderr: one line, after the traceback if that was asked for."""
    if debug:
        traceback.print_exception(error)
    typer.echo("error: " + " ".join(line.strip() for line in str(error).splitlines()), err=True)
