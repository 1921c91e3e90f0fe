"""Where tasks go, and what is counted as moved: decisions by hand, and two nodes against other accounts."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import raysim
from cluster import namespaces
from raysim.backends.base import Needs
from raysim.backends.placement import Node, Placed, beside_data, bring, homes
from raysim.runs.result import RunResult

A, B, C = (Node(name, f"id of {name}", cpus=2.0, memory=100.0) for name in "abc")
CPU = Needs()


def left(nodes: str, size: int = 100) -> Placed:
    """A result that a task left behind."""
    return Placed(None, size, set(nodes), made=True)


def names(items, needs=CPU, nodes=(A, B, C)):
    return [node and node.name for node in beside_data(items, needs, nodes)]


# -- decisions -----------------------------------------------------------------------------------------


def test_a_task_goes_where_most_of_its_data_lie():
    assert names([(left("b"), "text", 3), (left("a", 10), left("c", 90)), (left("c", 1),)]) == ["b", "c", "c"]
    here, there = left("a", 60), left("b", 50)
    assert names([(here, there, there)]) == ["a"], "an argument given twice is one object"


def test_tasks_that_read_nothing_left_behind_are_not_sent_anywhere():
    published = Placed(None, 1000, {"a"})
    assert names([(), (np.ones(3), published), (left("", 5),)]) == [None, None, None]
    assert names([(published, left("b", 1))]) == ["b"]


def test_of_several_nodes_the_home_is_the_one_that_holds_most_of_what_was_asked_about():
    assert homes([left("a"), left("ab"), left("bc", 10), left("c", 5)]) == ["a", "a", "b", "c"]
    assert homes([left("cb"), left("bc")]) == ["b", "b"], "ties go by name"
    assert homes([left("cb"), left("bc")], "c") == ["c", "c"], "but for the node to which answers go"
    assert homes([left("cb"), left("b", 1)], "c") == ["b", "b"]
    assert homes([]) == []


def test_one_node_leaves_no_choice():
    assert names([(left("a"),)], nodes=(A,)) == [None]


def test_of_nodes_that_hold_all_of_it_one_is_taken():
    shards = [(left("a", 50), left("ab", 50)), (left("a", 50), left("ab", 50))]
    assert names(shards) == ["a", "a"], "b would have to be brought half"


def test_among_nodes_that_hold_nearly_the_same_tasks_are_dealt():
    shards = [(left("a", 52), left("b", 48)) for _ in range(4)]
    assert names(shards) == ["a", "b", "a", "b"]
    assert names([(left("a", 67), left("b", 33)) for _ in range(2)]) == ["a", "a"]
    assert names([(left("cba", 10),) for _ in range(4)]) == ["a", "b", "c", "a"], "copies are as good"


def test_tasks_are_dealt_by_what_they_read_once_those_with_one_home_are_placed():
    """Tiles of a K x K: of four sides, two on each of two nodes, whose ten tiles have 16 sides to read."""
    sides = [left("a"), left("a"), left("b"), left("b")]
    tiles = [tuple({i: sides[i], j: sides[j]}.values()) for i in range(4) for j in range(i + 1)]
    homes = names(tiles, nodes=(A, B))
    read = {
        home: sum(len(tile) for tile, of in zip(tiles, homes, strict=True) if of == home) for home in "ab"
    }
    assert read == {"a": 8, "b": 8}
    moved = {(side, h) for tile, h in zip(tiles, homes, strict=True) for side in tile if h not in side.nodes}
    assert len(moved) == 3, "two sides to one node and one to the other, as few as can be"


def test_a_node_with_more_cpus_gets_more():
    nodes = (Node("a", "", cpus=3.0), Node("b", "", cpus=1.0))
    assert names([(left("ab"),) for _ in range(8)], nodes=nodes).count("a") == 6


def test_one_node_that_holds_everything_is_not_given_everything():
    """Three nodes of 2 CPUs: a third of 9 tasks is its share, 6 the most it gets; its 2 CPUs may always be busy."""
    assert names([(left("b"),) for _ in range(9)]) == ["b"] * 6 + [None] * 3
    small = [Node(name, "", cpus=2.0) for name in "abcdefgh"]
    assert names([(left("b"),) for _ in range(3)], nodes=small) == ["b", "b", None]
    balanced = [(left(name),) for name in "abc" for _ in range(100)]
    assert names(balanced) == [name for name in "abc" for _ in range(100)]


@pytest.mark.parametrize("needs", [Needs(cpus=2.5), Needs(gpus=0.5), Needs(memory=101)])
def test_a_node_that_cannot_meet_the_needs_is_out(needs):
    big = Node("big", "", cpus=8.0, gpus=1.0, memory=1000.0)
    assert names([(left("a"),)], needs, (A, big)) == [None]
    held = Placed(None, 60, {"a"}, made=True), Placed(None, 40, {"big"}, made=True)
    assert names([held], needs, (A, big)) == ["big"]
    assert names([(left("a"),)], Needs(cpus=2.0, memory=100)) == ["a"]


def test_a_node_that_is_gone_is_out():
    assert names([(left("b"),), (left("ab"),)], nodes=(A, C)) == [None, "a"]


# -- what is moved -------------------------------------------------------------------------------------


def test_an_argument_is_brought_to_a_node_once():
    tile, published = left("a", 30), Placed(None, 7, {"head"})
    assert bring((tile, published, "text"), "a", "head") == 7
    assert bring((tile, published), "a", "head") == 0
    assert bring((tile, published, tile), "b", "head") == 37
    assert tile.nodes == {"a", "b"}
    assert published.nodes == {"head", "a", "b"}


def test_arrays_given_by_value_travel_every_time():
    arguments = (np.ones(3, np.float32), [np.ones(2)], "text")
    assert [bring(arguments, node, "head") for node in ("a", "a", "head")] == [28, 28, 0]


# -- two nodes ------------------------------------------------------------------------------------------

HOSTS = namespaces.missing() is None
"""Whether the two nodes have a network between them, whose traffic can be counted."""
COLUMNS = 2**20 if HOSTS else 2**17
BLOCK_BYTES = 4 * COLUMNS * 4
ROW_NUMBERS = 4 * 8
"""Bytes of the indices that a task on a block of 4 rows is given."""


@pytest.fixture(scope="module")
def found(two_nodes, tmp_path_factory):
    target = tmp_path_factory.mktemp("placement") / "found.json"
    driver = [sys.executable, "-m", "tests.placed_on_two_nodes", str(COLUMNS), str(target)]
    assert two_nodes.run(driver) == 0
    return json.loads(target.read_text())


@pytest.mark.ray
def test_stages_by_rows_move_next_to_nothing_and_by_columns_one_half(found):
    data = found["data"]
    assert len(set(data["rows"]["nodes"])) == 2
    assert data["rows"]["moved"] == data["rows again"]["moved"] == ROW_NUMBERS
    assert data["published"]["moved"] == 4 * COLUMNS + ROW_NUMBERS, "the vector, to the node without it"
    assert data["published again"]["moved"] == ROW_NUMBERS
    assert data["by value"]["moved"] == 4 * COLUMNS + ROW_NUMBERS
    assert len(set(data["columns"]["nodes"])) == 2
    assert data["columns"]["moved"] == BLOCK_BYTES, "half of the two blocks"
    assert data["columns again"]["moved"] == 0, (
        "every shard was brought together on one node, and its task is sent there"
    )


@pytest.mark.ray
@pytest.mark.namespaces
@pytest.mark.skipif(not HOSTS, reason=f"network namespaces need {namespaces.missing()}")
def test_what_spans_say_was_moved_went_over_the_wire(found):
    """Two blocks of 16 MB; the head's link also carries what Ray's processes say to each other."""
    large = {"data": ("published", "by value", "columns"), "head": ("rows",)}
    for placement, stages in large.items():
        for stage in stages:
            measured = found[placement][stage]
            assert measured["moved"] >= 4 * COLUMNS
            assert measured["wire"] == pytest.approx(measured["moved"], rel=0.2), (placement, stage)
    for stage in ("rows", "rows again", "columns again"):
        assert found["data"][stage]["wire"] < 0.1 * 4 * COLUMNS


@pytest.mark.ray
def test_sums_of_rows_move_one_partial_sum_for_every_column(found):
    """Rows are added on both nodes, and one of two partial sums in float64 is brought to the other."""
    moved = found["data"]["sums"]["moved"]
    assert 8 * COLUMNS <= moved < 8 * COLUMNS + 10 * ROW_NUMBERS
    assert len(set(found["data"]["sums"]["nodes"])) == 2


@pytest.mark.ray
def test_attackers_gather_no_rows(found):
    """The mean of five honest rows costs a partial sum, its deviations that mean [d] float64 and another; only min-max, which
    measures distances, brings columns together: one row or four to the node that has the others.
    """
    moved = {attack: said["moved"] / COLUMNS for attack, said in found["crafted"].items()}
    assert moved["ipm"] == pytest.approx(8, rel=0.01)
    assert moved["alie"] == pytest.approx(8 + 8 + 8, rel=0.01)
    columns = moved["min_max"] - moved["alie"]
    assert 4 * 1 <= columns <= 4 * 4 + 2 * 8, "and the mean and the direction, to the tasks elsewhere"


@pytest.mark.ray
def test_tiles_are_brought_together_while_the_last_client_trains(found):
    """Half of the first block before the last client has ended; the column tasks then find all of theirs."""
    gathered = found["gathered"]
    assert gathered["moved"] == {"gather": BLOCK_BYTES, "columns": 0}
    assert gathered["before the last"] >= BLOCK_BYTES // 2
    assert gathered["gram"] == found["data"]["gram"]
    assert gathered["without"]
    assert not found["gathers at the head"]


@pytest.mark.ray
@pytest.mark.namespaces
@pytest.mark.skipif(not HOSTS, reason=f"a vector of a MiB or more is sent; hosts need {namespaces.missing()}")
def test_a_broadcast_vector_is_on_both_nodes_before_it_is_read_and_counted_by_its_readers(found):
    sent = found["broadcast"]
    assert len(sent["both"]) == 2
    assert sent["by Ray"] == [sent["both"]]
    assert sent["ours"] == [found["data"]["here"]]


@pytest.mark.ray
def test_at_the_head_the_other_nodes_block_is_moved_once(found):
    head = found["head"]
    for stage in ("rows", "published", "columns"):
        assert set(head[stage]["nodes"]) == {head["here"]}
    assert head["rows"]["moved"] == BLOCK_BYTES
    assert [head[stage]["moved"] for stage in ("rows again", "published", "by value", "columns")] == [0] * 4


@pytest.mark.ray
def test_spread_tasks_use_both_nodes(found):
    stages = [stage for stage in found["spread"].values() if isinstance(stage, dict) and "nodes" in stage]
    assert len({node for stage in stages for node in stage["nodes"]}) == 2


@pytest.mark.ray
def test_results_do_not_depend_on_placement(found):
    assert len({found[placement]["digest"] for placement in ("data", "head", "spread")}) == 1


@pytest.mark.ray
@pytest.mark.parametrize("placement", ["data", "head", "spread"])
def test_a_task_reserves_what_it_says_it_needs(found, placement):
    assert found[placement]["reserved"] == {"CPU": 0.5, "GPU": 0.25, "memory": 2**20}


@pytest.mark.ray
@pytest.mark.parametrize("placement", ["data", "head", "spread"])
def test_ray_agrees_on_where_everything_lies(found, placement):
    """Where Ray chooses itself, it may bring arguments to a node and then run the task on another."""
    ours, rays = found[placement]["homes"], found[placement]["homes by Ray"]
    if placement == "spread":
        assert all(set(mine) <= set(theirs) for mine, theirs in zip(ours, rays, strict=True))
    else:
        assert ours == rays
    assert found[placement]["sizes"] == [COLUMNS * 4] * 8


@pytest.mark.ray
def test_data_on_a_node_without_room_or_gone_is_worked_on_elsewhere(found):
    obstacles = found["obstacles"]
    assert obstacles["held by"] not in obstacles["reserved"]
    assert len(obstacles["reserved"]) == len(obstacles["gone"]) == 2


@pytest.mark.ray
def test_tasks_of_a_run_stay_at_the_head_when_told_and_give_the_same_bytes(two_nodes, tiny, tmp_path):
    here = raysim.run({**tiny, "rounds": 2}, name="here", out=tmp_path, backend="inprocess")
    config = {**tiny, "rounds": 2, "resources": {"placement": "head", "gather_bytes": 0}}
    driver = f"import raysim; raysim.run({config!r}, name='there', out={str(tmp_path)!r})"
    assert two_nodes.run([sys.executable, "-c", driver]) == 0
    there = RunResult(tmp_path / "there")
    assert there.digest == here.digest
    assert (there.path / "clients.parquet").read_bytes() == (here.path / "clients.parquet").read_bytes()
    spans = there.table("spans").to_pylist()
    assert len({span["node"] for span in spans if span["stage"] == "train" and span["task"] >= 0}) == 2
    (server,) = {span["node"] for span in spans if span["task"] < 0}
    assert {span["node"] for span in spans if span["stage"] == "gram"} == {server}
    assert sum(span["bytes_moved"] for span in spans if span["stage"] != "train") > 0, (
        "to the first that reads rows"
    )
