"""When a round has its tiles brought together: for defenses that read columns, block by block, before they judge."""

from __future__ import annotations

import pytest

from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.simulation import initial_state, rounds, start


class Together(InProcessBackend):
    """Keeps a diary: what is brought together, what clients and stages do, and what is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.diary: list[object] = []
        self.begun: list[object] = []

    def gathering(self, shards, most_bytes):
        self.diary.append((shards, most_bytes))
        return self

    def land(self, tiles):
        self.diary.append(f"{len(tiles)} tiles of {len(tiles[0].value)} rows")
        self.begun.append(tiles)

    def finish(self, stage, begun):
        assert all(tiles is other for tiles, other in zip(begun, self.begun, strict=True))
        self.diary.append(f"{stage} {len(begun)}")
        return [None] * len(begun)

    def map(self, stage, fn, items, **options):
        self.diary.append(stage)
        return super().map(stage, fn, items, **options)


def diary(tiny, defense, **resources):
    values = {"rounds": 1, "attack": None, "defense": defense, "resources": resources}
    experiment, backend = compose(ExperimentConfig.from_mapping({**tiny, **values})), Together()
    start(experiment, backend)
    state = initial_state(experiment, backend)
    backend.diary.clear()
    list(rounds(experiment, backend, state))
    return backend.diary


@pytest.mark.parametrize("defense", ["krum", "median", ["multi_krum", "layercam_ae"]])
def test_every_block_as_it_lands_then_the_wait_then_the_defense(tiny, defense):
    """10 clients, 3 of them together: a quarter is less than a stack, so blocks of a stack each, and of the tenth client."""
    asked, *landed, last, waited, stage = diary(tiny, defense, gather_bytes=1234)[:7]
    assert asked == (1, 1234)
    assert (landed, last) == (["2 tiles of 3 rows"] * 3, "2 tiles of 1 rows")
    assert waited == "gather 4"
    assert stage in ("gram", "order_statistics")


@pytest.mark.parametrize("defense", ["fedavg", "layercam_ae", ["clip_norm", "krum"]])
def test_others_leave_rows_where_they_are(tiny, defense):
    assert not any(isinstance(entry, tuple) for entry in diary(tiny, defense))


def test_nothing_is_brought_where_no_bytes_may_be_under_way(tiny):
    assert not any(isinstance(entry, tuple) for entry in diary(tiny, "krum", gather_bytes=0))
