"""What is brought to nodes before it is needed: which tasks are begun, and where. On nodes: test_placement.py."""

from __future__ import annotations

from typing import Any

from raysim.backends.placement import Node, Placed
from raysim.backends.ray_carrying import WORTH_SENDING, Carrier, worth_sending

A, B, C = (Node(name, f"{number}" * 56, cpus=1.0) for number, name in enumerate("abc"))


class Task:
    """Ray's remote function: what it was asked to do, and where."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, object, str]] = []

    def options(self, *, scheduling_strategy: Any, **others: Any) -> Task:
        assert others["num_cpus"] == 0, "it computes nothing"
        self.node = scheduling_strategy.node_id
        return self

    def remote(self, fn, stage, number, retries, keep, threads, *values):
        self.begun.append((stage, values, self.node))
        return [f"answer {number}", f"about {number}"]


def test_tiles_are_brought_by_a_task_that_is_given_them():
    task = Task()
    tiles = [Placed("x", 10, {"b"}), Placed("y", 30, {"a"})]  # type: ignore[arg-type]
    assert Carrier(task, 1).bring(4, tiles, B) == (["answer 4", "about 4"], tiles)
    assert task.begun == [("gather", ("x", "y"), B.id)]
    assert tiles[1].nodes == {"a"}, "noted once it is there"


def test_a_model_is_sent_to_nodes_without_it_and_counted_where_it_is_read():
    task, model = Task(), Placed("model", WORTH_SENDING, {"b"})  # type: ignore[arg-type]
    Carrier(task, 1).broadcast(model, [A, B, C])
    assert task.begun == [("broadcast", ("model",), A.id), ("broadcast", ("model",), C.id)]
    assert model.nodes == {"b"}
    assert worth_sending(model)
    assert not worth_sending(Placed("small", WORTH_SENDING - 1, {"b"}))  # type: ignore[arg-type]
