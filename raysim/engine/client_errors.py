"""Errors of clients' code: whoever reads one learns which client met it, in which round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from raysim.errors import RaysimError, RunError


@contextmanager
def naming(round: int, clients: Sequence[int]) -> Iterator[None]:
    """Say in errors which client, or which clients trained together, met them, and in which round."""
    client = clients[0] if len(clients) == 1 else None
    together = "" if client is not None else f" (training clients {clients} together)"
    try:
        yield
    except RunError as error:
        raise RunError(error.problem + together, stage=error.stage, round=round, client=client) from error
    except RaysimError:
        raise
    except (Exception, SystemExit) as error:  # an exit would look like a crash of this host
        problem = f"{type(error).__name__}: {error}{together}"
        raise RunError(problem, stage="train", round=round, client=client) from error
