"""What Prometheus is told of a round: every span once, with its stage, node and owner; and what it reads of a run."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import raysim
from raysim.backends import metrics, ray_connection
from raysim.backends.telemetry import Span
from raysim.errors import ConfigError

STAGE = Span("cam", -1, "head", 0.0, 2.5, 1.0, 0, 0, 2**20, retries=1, owner="defense", peak_gpu_bytes=640)
TASK = replace(STAGE, task=0, node="worker", wall_s=0.5)
ON_CPU = replace(STAGE, stage="gram", retries=0, peak_gpu_bytes=None)


class Kept:
    """Stands for a metric of Ray's: keeps what it is told."""

    told: list[tuple[Any, ...]]

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.told.append((self.name, value, *tags.values()))

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        self.told.append((self.name, value, *(tags or {}).values()))


def test_a_round_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Kept, "told", told, raising=False)
    for kind in ("Counter", "Gauge"):
        monkeypatch.setattr(metrics, kind, Kept)
    metrics.RoundMetrics().tell([STAGE, TASK, ON_CPU])
    at = ("cam", "head", "defense")
    assert told == [
        ("raysim_stage_seconds", 2.5, *at),
        ("raysim_stages", 1, *at),
        ("raysim_peak_memory_bytes", 2**20, *at),
        ("raysim_retries", 1, *at),
        ("raysim_peak_gpu_bytes", 640, *at),
        ("raysim_task_seconds", 0.5, "cam", "worker", "defense"),
        ("raysim_tasks", 1, "cam", "worker", "defense"),
        ("raysim_stage_seconds", 2.5, "gram", "head", "defense"),
        ("raysim_stages", 1, "gram", "head", "defense"),
        ("raysim_peak_memory_bytes", 2**20, "gram", "head", "defense"),
        ("raysim_rounds", 1.0),
    ]


def test_metrics_are_refused_before_the_start_where_nobody_could_ask_for_them(
    monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any], tmp_path: Path
) -> None:
    told = {**tiny, "resources": {"metrics": True}}
    with pytest.raises(ConfigError, match=r"resources.metrics: needs backend ray"):
        raysim.run(told, out=tmp_path, backend="inprocess")
    monkeypatch.setattr(ray_connection, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"resources.metrics: needs Ray's endpoint .* pip install raysim-fl\[metrics\]"
    ):
        raysim.run(told, out=tmp_path)


def served(url: str) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples of our metrics by name and by stage, node and owner."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[tuple[str, ...], float]] = {}
    with urlopen(url, timeout=30) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                if sample.name.startswith("ray_raysim_"):
                    tags = tuple(sample.labels.get(tag, "") for tag in metrics.TAGS)
                    found.setdefault(sample.name.removeprefix("ray_raysim_"), {})[tags] = sample.value
    return found


@pytest.mark.ray
@pytest.mark.skipif(
    not all(map(find_spec, ray_connection.ENDPOINT)),
    reason="Ray serves no metrics without the extra `metrics`",
)
def test_the_endpoint_of_a_node_serves_what_the_spans_say(tiny: dict[str, Any], tmp_path: Path) -> None:
    with ray_connection.connected(num_cpus=2, object_store_memory=2**28):
        import ray

        (node,) = ray.nodes()
        result = raysim.run({**tiny, "resources": {"metrics": True}}, out=tmp_path)
        limit, found = (
            time.monotonic() + 120,
            served(url := f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}"),
        )
        while found.get("rounds_total") != {("", "", ""): 3.0}:  # Ray reports every ten seconds
            assert time.monotonic() < limit, found
            time.sleep(0.5)
            found = served(url)
    spans = result.table("spans").to_pylist()
    counted, seconds, stages = Counter[Any](), Counter[Any](), Counter[Any]()
    for span in spans:
        tags = tuple(span[tag] for tag in metrics.TAGS)
        if span["task"] < 0:
            stages[tags] += 1
        else:
            counted[tags] += 1
            seconds[tags] += span["wall_s"]
    assert found["tasks_total"] == counted
    assert found["stages_total"] == stages
    assert found["task_seconds_total"] == pytest.approx(seconds)
    assert {owner for _, _, owner in counted} == {"client", "attack", "defense", "engine"}
    assert {name for _, name, _ in counted} == {node["NodeID"][:12]}
