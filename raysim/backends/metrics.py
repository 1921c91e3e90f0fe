"""What a run on Ray tells Prometheus while it goes on: seconds and memory of every stage and task, by stage and node.

Every Ray node has an endpoint with the metrics of its processes (`ray.nodes()`: MetricsExportPort); there the names begin
with `ray_`, and those of counters end with `_total`. Seconds and how often are counters, whose rates divided give the mean
of any time: the sum of a histogram of Ray's is made of the middles of its buckets. The server tells what was measured in a
round when that is kept, its own clock and its tasks' alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge

from raysim.backends.telemetry import WHOLE_STAGE, Span

TAGS = ("stage", "node", "owner")


class RoundMetrics:
    """The metrics of one run; made in the process that tells them."""

    def __init__(self) -> None:
        self.stage_s = Counter("raysim_stage_seconds", "Wall seconds of a stage, as the server saw it", TAGS)
        self.stages = Counter("raysim_stages", "How often a stage was run", TAGS)
        self.task_s = Counter("raysim_task_seconds", "Wall seconds of a stage's tasks, where they ran", TAGS)
        self.tasks = Counter("raysim_tasks", "Tasks of a stage", TAGS)
        self.retries = Counter("raysim_retries", "Tasks that were started again", TAGS)
        self.memory = Gauge("raysim_peak_memory_bytes", "Peak resident memory of a stage's processes", TAGS)
        self.gpu_memory = Gauge("raysim_peak_gpu_bytes", "Peak bytes of a stage's tensors on a GPU", TAGS)
        self.rounds = Counter("raysim_rounds", "Rounds that are finished")

    def tell(self, spans: Sequence[Span]) -> None:
        """What was measured in one round."""
        for span in spans:
            tags = {"stage": span.stage, "node": span.node, "owner": span.owner}
            if span.task != WHOLE_STAGE:
                self.task_s.inc(span.wall_s, tags)
                self.tasks.inc(1, tags)
                continue
            self.stage_s.inc(span.wall_s, tags)
            self.stages.inc(1, tags)
            self.memory.set(span.peak_memory_bytes, tags)
            if span.retries:
                self.retries.inc(span.retries, tags)
            if span.peak_gpu_bytes is not None:
                self.gpu_memory.set(span.peak_gpu_bytes, tags)
        self.rounds.inc()
