"""The in-process backend: order, references, spans, errors with their place, threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from raysim.backends.base import Held, InProcessBackend, Needs, ThreadLimit, frozen, located
from raysim.errors import ConfigError, RunError


@pytest.fixture
def backend():
    return InProcessBackend()


class Host:
    """A client host that remembers how often it was called."""

    def __init__(self, base, extra):
        self.base, self.extra, self.calls = base, extra, 0

    def work(self, number, array):
        self.calls += 1
        return array * number + self.base.sum() + self.extra

    def parts(self, number):
        return np.full(2, number), np.full(3, number), f"answer {number}"


def test_map_keeps_the_order_of_items(backend):
    assert backend.map("square", lambda x, y: x * 10 + y, [(3, 1), (1, 2), (2, 3)]) == [31, 12, 23]
    assert backend.map("nothing", lambda x: x, []) == []
    assert backend.run("add", lambda a, b: a + b, 2, 3, needs=Needs(cpus=2.0)) == 5


def test_references_are_resolved_as_arguments(backend):
    reference = backend.put(np.arange(3))
    np.testing.assert_array_equal(backend.get(reference), [0, 1, 2])
    assert backend.run("sum", lambda a, b: int(a.sum()) + b, reference, 4) == 7
    assert backend.get(5) == 5


def test_what_is_put_cannot_be_changed_by_a_task(backend):
    own = np.zeros(3)
    for value, spoil in (
        (own, lambda v: v.__setitem__(0, 1)),
        ([own], lambda v: v[0].__setitem__(0, 1)),
        ({"a": (own,)}, lambda v: v["a"][0].__setitem__(0, 1)),
    ):
        with pytest.raises(RunError, match="read-only"):
            backend.run("spoil", spoil, backend.put(value))
    own[0] = 5  # the owner still may
    assert frozen("text") == "text"


def test_kept_results_stay_behind_references(backend):
    def task(n):
        return np.full(2, n), np.full(3, n), f"answer {n}"

    (first, answer), _ = backend.map("keep", task, [(1,), (2,)], keep=2)
    assert answer == "answer 1"
    assert all(isinstance(reference, Held) for reference in first)
    np.testing.assert_array_equal(backend.get(first[1]), [1, 1, 1])
    assert backend.run("use", lambda a, b: a.sum() + b.sum(), *first) == 5


def test_clients_are_hosted_once_and_called_in_order(backend):
    backend.start_clients(Host, (backend.put(np.ones(3)), 2))
    results = backend.call_clients("train", "work", [(1, np.ones(2)), (2, backend.put(np.ones(2)))])
    np.testing.assert_array_equal(results, [[6, 6], [7, 7]])
    assert backend._host.calls == 2
    ((tiles, answer),) = backend.call_clients("train", "parts", [(4,)], keep=2)
    assert (len(tiles), answer) == (2, "answer 4")
    backend.close()


def test_every_task_and_the_stage_have_spans(backend):
    backend.map("cam", lambda x: x, [(np.zeros(4),), (np.zeros(6),)])
    whole, *tasks = backend.telemetry.drain()
    assert (whole.stage, whole.task, whole.bytes_in, whole.bytes_out) == ("cam", -1, 80, 80)
    assert [(t.task, t.bytes_in, t.node) for t in tasks] == [
        (0, 32, backend.telemetry.node),
        (1, 48, backend.telemetry.node),
    ]
    assert whole.wall_s >= sum(t.wall_s for t in tasks)


def test_progress_is_told_before_the_first_and_after_every_task(backend):
    heard = []
    backend.telemetry.on_progress = lambda *news: heard.append(news)
    backend.map("cam", lambda x: x, [(1,), (2,)])
    assert heard == [("cam", 0, 2), ("cam", 1, 2), ("cam", 2, 2)]


def test_a_failing_task_names_its_stage_and_keeps_the_span(backend):
    with pytest.raises(RunError, match=r"^stage cam: ZeroDivisionError: division by zero$") as caught:
        backend.run("cam", lambda: 1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [s.stage for s in backend.telemetry.drain()] == ["cam"]


def test_located_fills_in_the_stage_and_leaves_other_refusals_alone():
    with pytest.raises(RunError, match=r"^stage judge: Krum: KeyError: 'x'$"), located("judge", "Krum"):
        raise KeyError("x")
    with pytest.raises(RunError, match=r"^stage cam: known$"), located("judge"):
        raise RunError("known", stage="cam")
    with pytest.raises(RunError, match=r"^stage judge: known$"), located("judge"):
        raise RunError("known")
    with pytest.raises(ConfigError, match="beta"), located("judge"):
        raise ConfigError("beta", "must be positive", -1)
    with pytest.raises(KeyboardInterrupt), located("judge"):
        raise KeyboardInterrupt


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_threads_are_limited_inside_tasks_and_put_back():
    before = torch.get_num_threads(), blas_threads()
    inside = InProcessBackend(threads=2).run("count", lambda: (torch.get_num_threads(), blas_threads()))
    assert inside[0] == 2
    assert all(count <= 2 for count in inside[1])
    with ThreadLimit(2)(), ThreadLimit(1)():
        assert torch.get_num_threads() == 1
        assert set(blas_threads()) == {1}
    with pytest.raises(ValueError), ThreadLimit(1)():
        raise ValueError
    assert (torch.get_num_threads(), blas_threads()) == before


@pytest.mark.slow
def test_prepare_worker_holds_for_libraries_loaded_later():
    """In a process of its own, since the setting is for good."""
    script = """
from raysim.backends.base import prepare_worker
prepare_worker(1)
import numpy, os, scipy.linalg, torch
from threadpoolctl import threadpool_info
print(os.environ["OMP_NUM_THREADS"], torch.get_num_threads(), {pool["num_threads"] for pool in threadpool_info()})
"""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=2) == ["1", "1", "{1}\n"]
