"""Column shards brought together while rows still arrive: what goes where, and when. On two nodes: test_placement.py."""

from __future__ import annotations

from raysim.backends.base import InProcessBackend
from raysim.backends.gathering import Courier, Gathering, dealt
from raysim.backends.placement import Node, Placed

A, B = Node("a", "id of a", cpus=1.0), Node("b", "id of b", cpus=1.0)


class Road:
    """Brings nothing: what was asked of it, and what has ended or been spilled, as a test says."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[int], str]] = []
        self.done: set[int] = set()
        self.on_disk: set[Placed] = set()

    def gathering(self, shards: int, nodes=(A, B), most_bytes: int = 1000) -> Gathering:
        courier = Courier(self.to, lambda begun: begun in self.done, lambda tile: tile in self.on_disk)
        return Gathering(courier, shards, nodes, most_bytes)

    def to(self, number, tiles, node):
        self.sent.append((number, [tile.size for tile in tiles], node.name))
        return number


def block(home: str, *sizes: int) -> list[Placed]:
    """The tiles of a row block, the buffers' last."""
    return [Placed(None, size, {home}, made=True) for size in (*sizes, 7)]


def test_shards_are_dealt_by_cpus():
    large = Node("large", "", cpus=3.0)
    assert [node.name for node in dealt(8, [A, large])].count("large") == 6
    assert [node.name for node in dealt(4, [A, B])] == ["a", "b", "a", "b"]


def test_tiles_go_to_the_nodes_of_their_shards_and_those_that_are_there_stay():
    road = Road()
    gathering = road.gathering(3)
    gathering.land(block("a", 10, 20, 30))
    gathering.land(block("b", 40, 50, 60))
    assert road.sent == [(0, [20], "b"), (1, [40, 60], "a")]
    assert gathering.begun == [0, 1]


def test_no_more_than_the_limit_is_under_way_and_what_waits_goes_on_when_another_block_lands():
    road = Road()
    gathering = road.gathering(4, most_bytes=100)
    gathering.land(block("a", 1, 60, 1, 60))
    assert road.sent == [(0, [60], "b")], "120 bytes in two parts"
    gathering.land(block("a", 1, 20, 1, 20))
    assert road.sent == [(0, [60], "b")], "in their order: 40 bytes would fit"
    road.done.add(0)
    gathering.land(block("a", 1, 2, 1, 2))
    assert road.sent[1:] == [(1, [60], "b"), (2, [20, 20], "b")]
    assert gathering.begun == [0, 1, 2], "4 bytes are left to the tasks that read them"


def test_a_tile_above_the_limit_goes_alone():
    road = Road()
    gathering = road.gathering(2, most_bytes=5)
    gathering.land(block("a", 10, 20))
    gathering.land(block("a", 10, 30))
    assert road.sent == [(0, [20], "b")]
    road.done.add(0)
    gathering.land(block("b", 1, 10))
    assert road.sent == [(0, [20], "b"), (1, [30], "b")]


def test_spilled_tiles_stay_on_their_disk():
    road = Road()
    gathering, tiles = road.gathering(4), block("a", 1, 10, 1, 20)
    road.on_disk = {tiles[1]}
    gathering.land(tiles)
    road.on_disk.add(other := block("a", 1, 5, 1, 6)[3])
    gathering.land([*block("a", 1, 5, 1)[:3], other])
    assert road.sent == [(0, [20], "b"), (1, [5], "b")]
    road.on_disk = set(whole := block("a", 1, 10, 1, 20))
    gathering.land(whole)
    assert len(road.sent) == 2


def test_in_one_process_there_is_nothing_to_bring():
    assert InProcessBackend().gathering(3, 10) is None
