"""What Prometheus is told of a round: every span once, with its stage, node and owner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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
