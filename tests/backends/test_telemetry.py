"""Spans: what a task and a stage measure."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from raysim.backends import devices
from raysim.backends.telemetry import (
    WHOLE_STAGE,
    Span,
    Telemetry,
    measured,
    num_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)


def span(**changes):
    values = {
        "stage": "cam", "task": 0, "node": "n", "start_s": 1.0, "wall_s": 2.0, "cpu_s": 3.0,
        "bytes_in": 10, "bytes_out": 20, "peak_memory_bytes": 5, "retries": 0,
    }  # fmt: skip
    return Span(**{**values, **changes})


def test_num_bytes_counts_arrays_in_containers():
    array = np.zeros((3, 4), np.float32)
    assert num_bytes(array) == 48
    assert num_bytes(array[:, :2]) == 24
    assert num_bytes((1, "text", None, [array, {"a": array, "b": (array,)}])) == 3 * 48
    assert num_bytes(object()) == 0


def test_a_task_measures_its_arguments_results_and_time():
    before = time.time()
    result, found = measured(
        "cam", 4, "node a", lambda x: (time.sleep(0.01), np.append(x, x)), (np.zeros(8),), 2
    )
    assert result[1].shape == (16,)
    assert (found.stage, found.task, found.node, found.retries) == ("cam", 4, "node a", 2)
    assert (found.bytes_in, found.bytes_out) == (64, 128)
    assert found.wall_s >= 0.01
    assert before <= found.start_s <= time.time()
    assert found.cpu_s >= 0


def test_processor_time_is_that_of_the_work():
    def work():
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    assert measured("cam", 0, "n", work, ())[1].cpu_s >= 0.02


def test_peak_memory_is_of_the_task_alone():
    size = 64 * 2**20
    np.ones(2 * size, np.uint8)
    before = peak_memory_bytes()
    reset_peak_memory()
    if peak_memory_bytes() >= before:
        pytest.skip("this kernel does not let a process start a new peak")
    idle = measured("idle", 0, "n", lambda: None, ())[1]
    busy = measured("busy", 0, "n", lambda: np.ones(size, np.uint8).sum(), ())[1]
    assert busy.peak_memory_bytes - idle.peak_memory_bytes > size // 2
    assert peak_memory_bytes() > 2**20


def test_memory_of_a_gpu_is_measured_where_the_work_is_on_one(monkeypatch):
    """Where a GPU would be asked: a new peak before the task, the peak after it; of a stage, the largest of its tasks'."""
    import torch

    asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(("reset", device)))
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda device: asked.append(("peak", device)) or 640
    )
    monkeypatch.setattr(devices, "here", lambda: "cuda:1")
    _, on_gpu = measured("cam", 0, "n", lambda: asked.append("work"), ())
    assert asked == [("reset", "cuda:1"), "work", ("peak", "cuda:1")]
    assert (on_gpu.device, on_gpu.peak_gpu_bytes) == ("cuda:1", 640)
    monkeypatch.undo()
    _, on_cpu = measured("cam", 0, "n", lambda: None, ())
    assert on_cpu.peak_gpu_bytes is None
    telemetry = Telemetry()
    with telemetry.stage("cam") as meter:
        meter.tasks += [on_cpu, on_gpu]
    with telemetry.stage("gram") as meter:
        meter.tasks.append(on_cpu)
    assert [span.peak_gpu_bytes for span in telemetry.drain() if span.task == WHOLE_STAGE] == [640, None]


def test_a_stage_adds_up_its_tasks():
    telemetry = Telemetry(node="server")
    with telemetry.stage("cam") as meter:
        meter.tasks += [
            span(),
            span(
                task=1, cpu_s=4.0, bytes_in=1, bytes_out=2, retries=3, peak_memory_bytes=2**60, bytes_moved=7
            ),
        ]
    whole, *tasks = telemetry.drain()
    assert (whole.stage, whole.task, whole.node) == ("cam", WHOLE_STAGE, "server")
    assert (whole.bytes_in, whole.bytes_out, whole.retries, whole.bytes_moved) == (11, 22, 3, 7)
    assert whole.peak_memory_bytes == 2**60
    assert 7 <= whole.cpu_s < 8
    assert [task.task for task in tasks] == [0, 1]
    assert telemetry.drain() == []


def test_the_time_of_tasks_inside_the_process_is_not_counted_twice():
    telemetry = Telemetry()
    with telemetry.stage("cam") as meter:
        meter.inside = True
        meter.tasks.append(span(cpu_s=100.0))
    assert telemetry.drain()[0].cpu_s < 1


def test_a_stage_is_of_whoever_has_the_word_when_it_starts():
    telemetry = Telemetry()
    with telemetry.stage("evaluate"):
        pass
    with telemetry.owned("attack"):
        with telemetry.stage("search") as meter:
            meter.tasks.append(span(stage="search"))
        with telemetry.owned("engine"), telemetry.stage("guard"):
            pass
        with telemetry.stage("rank"):
            pass
    found = [(s.stage, s.task, s.owner) for s in telemetry.drain()]
    assert found == [
        ("evaluate", -1, "engine"),
        ("search", -1, "attack"),
        ("search", 0, "attack"),
        ("guard", -1, "engine"),
        ("rank", -1, "attack"),
    ]
    with pytest.raises(KeyError), telemetry.owned("defense"):
        raise KeyError
    assert telemetry.owner == "engine"


def test_the_rest_is_what_no_stage_inside_covers(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0, 10.0, 10.5, 11.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    telemetry = Telemetry()
    with telemetry.owned("defense", rest="judge"), telemetry.stage("gram"):  # 0, 1 .. 3, 10
        pass
    gram, judge = telemetry.drain()
    assert (gram.wall_s, judge.wall_s) == (2.0, 8.0)
    assert (judge.stage, judge.task, judge.owner) == ("judge", WHOLE_STAGE, "defense")
    with telemetry.owned("attack", rest="craft"):  # 10 .. 10.5: nothing of the round before counts
        pass
    assert [s.wall_s for s in telemetry.drain()] == [0.5]


def test_a_failed_stage_is_measured_too():
    telemetry = Telemetry()
    with pytest.raises(KeyError), telemetry.stage("cam"):
        raise KeyError
    assert [found.stage for found in telemetry.drain()] == ["cam"]


def test_a_stage_is_divided_as_its_tasks_seconds_were():
    telemetry = Telemetry(node="here")
    with telemetry.stage("train"):
        pass
    with telemetry.owned("client"), telemetry.stage("train") as meter:
        meter.tasks.extend(span(wall_s=seconds) for seconds in (3.0, 1.0))
    whole = telemetry.spans[1] = replace(telemetry.spans[1], wall_s=2.0, cpu_s=8.0, bytes_out=100, retries=1)
    telemetry.divide("train", "poison", "attack", 1.0)
    assert telemetry.spans[1] == replace(whole, wall_s=1.5, cpu_s=6.0)
    poison = telemetry.spans[-1]
    assert (poison.stage, poison.task, poison.owner) == ("poison", WHOLE_STAGE, "attack")
    assert (poison.wall_s, poison.cpu_s, poison.bytes_out, poison.retries) == (0.5, 2.0, 0, 0)
    assert len(telemetry.spans) == 5
