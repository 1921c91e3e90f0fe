"""Detection on several nodes, foretold: every term by hand."""

from __future__ import annotations

import math

import pytest

from raysim.composition.over_nodes import (
    LINK_SHARE,
    Nodes,
    OneNode,
    Rows,
    crossing,
    crossing_s,
    cut_of,
    detection_s,
    stage_s,
    tasks_of,
)

K, D = 48, 1_000_000
ROWS = Rows(K, D, shards=8, blocks=4)


def on(nodes: int, cores: float | None = None, bits_per_s: float = math.inf) -> Nodes:
    return Nodes(nodes, nodes, bits_per_s, cores)


@pytest.mark.parametrize(
    ("stage", "nodes", "expected"),
    [
        ("combine", 1, (0, 0)),
        ("combine", 2, (4e6, 2e6)),  # half the columns in float64 from one node; half the result in float32
        ("combine", 4, (6e6, 3e6)),  # a quarter from each of three; three quarters of the result
        ("gram", 1, (0, 0)),
        ("gram", 2, (48e6, 0)),  # a quarter of 192e6
        ("order_statistics", 4, (36e6, 3e6)),
        ("signs", 2, (48e6, 0)),
        ("ipm", 2, (4e6, 4e6)),  # the mean stays float64
        ("alie", 4, (6e6 + 24e6 + 6e6, 6e6 + 6e6)),  # the mean goes to three nodes, for the deviations
        ("min_max", 2, (4e6 + 8e6 + 4e6 + 48e6, 4e6 + 4e6)),
        ("cam", 4, (0, 0)),
        ("autoencoder", 4, (0, 0)),
    ],
)
def test_bytes_over_the_busiest_link(stage, nodes, expected):
    assert crossing(stage, ROWS, on(nodes)) == pytest.approx(expected)


def test_a_node_takes_whole_shards_and_groups_of_them():
    """Of 7 shards one of two nodes takes 4; of 7 groups of one shard likewise."""
    odd = Rows(K, 7_000_000, shards=7, blocks=4)
    assert crossing("gram", odd, on(2)).before == pytest.approx(4 * K * 4e6 / 2)
    assert cut_of(odd, on(2)) == (2, 4, 1)
    assert crossing("combine", odd, on(2)).before == pytest.approx(8 * 4e6)


def test_rows_that_lie_on_fewer_nodes_leave_fewer_partial_sums():
    two_blocks = Rows(K, D, shards=8, blocks=2)
    assert cut_of(two_blocks, on(4)) == (2, 4, 1)
    assert crossing("combine", two_blocks, on(4)).before == pytest.approx(8 * D / 4)
    assert tasks_of("combine", two_blocks, on(4)) == 4 * (2 + 1)


def test_many_nodes_each_add_up_a_piece():
    """64 nodes, one group of all eight shards: pieces of a MiB, seven for 8 MB of partial sums, each from 63 nodes."""
    many = Rows(640, D, shards=8, blocks=640)
    assert cut_of(many, on(64)) == (8, 1, 7)
    assert crossing("combine", many, on(64)).before == pytest.approx(8 * D / 7 * 63)
    assert tasks_of("combine", many, on(64)) == 64 + 7


def test_tasks_are_row_blocks_column_shards_or_groups():
    assert tasks_of("norms", ROWS, on(2)) == 4
    assert tasks_of("gram", ROWS, on(2)) == 8
    assert tasks_of("min_max", ROWS, on(2)) == 2 * 4 * (2 + 1) + 8
    assert tasks_of("combine", ROWS, on(2)) == 4 * (2 + 1)
    assert tasks_of("combine", ROWS, on(4)) == 2 * (4 + 2)
    assert tasks_of("combine", ROWS, on(1)) == cut_of(ROWS, on(1)).groups == 4


def test_a_stage_is_divided_but_for_what_the_server_does_for_each_task():
    """1 s on two cores, of which tasks work 1.6 core-seconds: .2 s are the server's for 4 tasks, so .4 s for 8."""
    one = OneNode("norms", 1.0, 1.6, cores=2, tasks=4)
    assert stage_s(one, ROWS, Nodes(1, 2), 4) == pytest.approx(1.0)
    assert stage_s(one, ROWS, Nodes(2, 8), 8) == pytest.approx(0.4 + 1.6 / 8)


def test_cores_are_worth_what_is_said():
    one = OneNode("norms", 1.0, 1.0, cores=1, tasks=2)
    assert stage_s(one, ROWS, Nodes(2, 2, cores=1.6), 2) == pytest.approx(1.0 / 1.6)


def test_a_sum_waits_for_its_bytes_and_then_for_its_answers():
    one = OneNode("combine", 1.0, 1.0, cores=1, tasks=2)
    seconds = 8 * (4e6 + 2e6) / (LINK_SHARE * 1e9)
    assert sum(crossing_s("combine", ROWS, on(2, bits_per_s=1e9))) == pytest.approx(seconds)
    assert stage_s(one, ROWS, on(2, bits_per_s=1e9), 12) == pytest.approx(0.5 + seconds)
    assert stage_s(one, ROWS, on(2), 12) == pytest.approx(0.5)


@pytest.mark.parametrize("busy_s", [0.2, 3.0])
def test_columns_are_worked_on_while_others_cross(busy_s):
    """The longer of both, and of the other one task of a node's four."""
    one = OneNode("gram", busy_s, busy_s, cores=1, tasks=8)
    work, crosses = busy_s / 2, 8 * 48e6 / (LINK_SHARE * 1e9)
    expected = max(work, crosses) + min(work, crosses) / 4
    assert stage_s(one, ROWS, on(2, bits_per_s=1e9), 8) == pytest.approx(expected)
    ordered = OneNode("order_statistics", busy_s, busy_s, cores=1, tasks=8)
    answers = 8 * 2e6 / (LINK_SHARE * 1e9)
    assert stage_s(ordered, ROWS, on(2, bits_per_s=1e9), 8) == pytest.approx(expected + answers)


def test_tasks_that_overlap_more_than_the_cores_there_were_count_as_the_whole_stage():
    assert stage_s(OneNode("cam", 1.0, 9.0, cores=2, tasks=4), ROWS, Nodes(1, 4), 4) == pytest.approx(0.5)


def test_more_cores_than_tasks_do_not_help():
    one = OneNode("autoencoder", 1.0, 0.9, cores=2, tasks=1)
    assert stage_s(one, ROWS, Nodes(4, 8), 1) == pytest.approx(1.0)
    assert stage_s(OneNode("norms", 1.0, 2.0, 2, 4), ROWS, Nodes(4, 8), 4) == pytest.approx(0.5)


def test_what_the_server_does_alone_stays():
    assert stage_s(OneNode("vote", 0.3, 0.0, 2, tasks=0), ROWS, Nodes(4, 8), 0) == pytest.approx(0.3)


def test_a_defense_is_its_stages_and_columns_come_once():
    """Signs and the sum find them there; the sum's results go to the server."""
    gram, signs = (OneNode(stage, 1.0, 1.0, 1, 8) for stage in ("gram", "signs"))
    combine = OneNode("combine", 0.1, 0.1, 1, 2)
    there = on(2, bits_per_s=1e9)
    parts = [stage_s(gram, ROWS, there, 8), 0.5, 0.05 + 8 * 2e6 / (LINK_SHARE * 1e9)]
    assert detection_s([(gram, 8), (signs, 8), (combine, 12)], ROWS, there) == pytest.approx(sum(parts))
