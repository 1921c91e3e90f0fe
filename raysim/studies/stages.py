"""Spans of one piece of work as rows of a table: the whole, its stages in the order they ran, what lies between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from raysim.backends.telemetry import WHOLE_STAGE, Span
from raysim.runs.table_schema import Columns
from raysim.studies.table import Row

WHOLE = "(whole)"
"""The `stage` of the row for all of the work."""
BETWEEN = "(between stages)"
"""That of the row for what no stage covers."""
AFTER = "(after the last client)"
"""That of a simulated round's row for what passes from the last client's end to the verdict's: in other stages already."""

STAGE_COLUMNS: Columns = {
    "stage": ("string", "name; (between stages): what no stage covers; (whole): all of it"),
    "order": ("int32", "position in the pipeline; -1: the whole"),
    "wall_s": ("float64", "wall-clock seconds as the server sees them, waiting and transfers included"),
    "cpu_s": ("float64", "processor seconds of all processes"),
    "busy_s": ("float64", "wall-clock seconds of its tasks together"),
    "tasks": ("int32", "tasks and calls of actors"),
    "nodes_used": ("int32", "nodes that ran any of them"),
    "bytes_in": ("int64", "bytes of arrays in the tasks' arguments"),
    "bytes_out": ("int64", "bytes of arrays in their results"),
    "bytes_moved": ("int64", "bytes of arguments that were brought from other nodes"),
    "bytes_returned": ("int64", "bytes of answers that were brought to the server's node from others"),
    "bytes_to_one_node": ("int64", "of those moved and returned, what came to the node to which most came"),
    "bytes_spilled": ("int64", "bytes that object stores wrote to disk meanwhile"),
    "bytes_restored": ("int64", "bytes of arguments that had been written to disk before"),
    "peak_memory_bytes": ("int64", "largest resident memory of any one process meanwhile"),
    "started_s": ("float64", "start, seconds since the epoch"),
    "digest": ("string", "SHA-256 of the result, (whole) only"),
}

MEMORY_COLUMNS: Columns = {
    "node": ("int32", "0: the head, where the server is"),
    "worker_bytes": (
        "int64",
        "peak of the sum over worker processes (on the head, the server's too) of unshared resident memory",
    ),
    "largest_worker_bytes": ("int64", "peak of any one of them"),
    "store_bytes": ("int64", "object store in use afterwards"),
}

SUMS = (
    "wall_s",
    "cpu_s",
    "bytes_in",
    "bytes_out",
    "bytes_moved",
    "bytes_returned",
    "bytes_spilled",
    "bytes_restored",
)


def stage_rows(
    spans: Sequence[Span], *, wall_s: float, cpu_s: float, started_s: float, result: str
) -> list[Row]:
    """Rows of STAGE_COLUMNS. wall_s, cpu_s, started_s: of all of it. result: a digest of what came out."""
    own = {"wall_s": wall_s, "cpu_s": cpu_s, "started_s": started_s, "digest": result}
    whole = {**summary(spans), **own, "stage": WHOLE, "order": -1}
    stages: list[Row] = []
    for order, name in enumerate(dict.fromkeys(span.stage for span in spans if span.task == WHOLE_STAGE)):
        of_stage = summary([span for span in spans if span.stage == name])
        stages.append({**of_stage, "stage": name, "order": order})
    rest = {key: max(0.0, whole[key] - sum(row[key] for row in stages)) for key in ("wall_s", "cpu_s")}
    between = {"stage": BETWEEN, "order": len(stages), "started_s": started_s}
    return [whole, *stages, {**summary([]), **rest, **between}]


def after_the_last_client(spans: Sequence[Span]) -> float | None:
    """Seconds from the end of a round's last training call to the end of its defense; None if it lacks one of them."""
    calls = [s.start_s + s.wall_s for s in spans if s.stage == "train" and s.task != WHOLE_STAGE]
    judged = [s.start_s + s.wall_s for s in spans if s.owner == "defense" and s.task == WHOLE_STAGE]
    return max(judged) - max(calls) if calls and judged else None


def summary(spans: Sequence[Span]) -> Row:
    """The columns that follow from the spans of one stage, or of several."""
    stages = [span for span in spans if span.task == WHOLE_STAGE]
    tasks = [span for span in spans if span.task != WHOLE_STAGE]
    came: Counter[str] = Counter()
    for task in tasks:
        came[task.node] += task.bytes_moved
    for stage in stages:
        came[stage.node] += stage.bytes_returned
    return {
        **{name: sum(getattr(span, name) for span in stages) for name in SUMS},
        "bytes_to_one_node": max(came.values(), default=0),
        "busy_s": sum(task.wall_s for task in tasks),
        "tasks": len(tasks),
        "nodes_used": max(1, len({span.node for span in tasks or stages})),
        "peak_memory_bytes": max((span.peak_memory_bytes for span in spans), default=0),
        "started_s": min((span.start_s for span in spans), default=0.0),
        "digest": "",
    }
