"""Detection on several nodes, foretold: every term by hand."""

from __future__ import annotations

import math

import pytest

from raysim.composition.over_nodes import Nodes, OneNode, detection_s, link_bytes, stage_s

K, D = 48, 1_000_000


@pytest.mark.parametrize(
    ("stage", "nodes", "expected"),
    [
        ("combine", 1, 0),
        ("combine", 2, 6e6),  # 4e6 of partial sums, half the result in float32: 2e6
        ("combine", 4, 9e6),
        ("gram", 1, 0),
        ("gram", 2, 48e6),  # a quarter of 192e6
        ("order_statistics", 4, 36e6),
        ("cam", 4, 0),
        ("autoencoder", 4, 0),
    ],
)
def test_bytes_over_the_busiest_link(stage, nodes, expected):
    assert link_bytes(stage, K, D, nodes) == expected


def test_a_stage_is_divided_but_for_what_the_server_waits():
    """1 s on two cores, of which tasks work 1.6 core-seconds: .2 s stay, the rest is divided by 32 cores."""
    one = OneNode("norms", 1.0, 1.6, cores=2)
    assert stage_s(one, K, D, Nodes(1, 2)) == pytest.approx(1.0)
    assert stage_s(one, K, D, Nodes(2, 32)) == pytest.approx(0.2 + 1.6 / 32)


def test_a_link_adds_its_bytes():
    one = OneNode("gram", 1.0, 1.0, cores=1)
    assert stage_s(one, K, D, Nodes(2, 2, 1e9)) == pytest.approx(0.5 + 8 * 48e6 / 1e9)
    assert stage_s(one, K, D, Nodes(2, 2, math.inf)) == pytest.approx(0.5)


def test_tasks_that_overlap_more_than_the_cores_there_were_count_as_the_whole_stage():
    assert stage_s(OneNode("cam", 1.0, 9.0, cores=2), K, D, Nodes(1, 4)) == pytest.approx(0.5)


def test_more_cores_than_pieces_do_not_help():
    one = OneNode("autoencoder", 1.0, 0.9, cores=2, pieces=1)
    assert stage_s(one, K, D, Nodes(4, 8)) == pytest.approx(1.0)
    assert stage_s(OneNode("norms", 1.0, 2.0, 2, pieces=4), K, D, Nodes(4, 8)) == pytest.approx(0.5)


def test_a_defense_is_its_stages():
    stages = [OneNode("gram", 1.0, 1.0, 1), OneNode("combine", 0.1, 0.1, 1)]
    assert detection_s(stages, K, D, Nodes(2, 2, 1e9)) == pytest.approx(0.5 + 0.384 + 0.05 + 0.048)
