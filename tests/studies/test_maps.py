"""Heat maps with and without the autoencoder: the same maps whatever the groups, and what is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from raysim.backends.base import Backend, InProcessBackend
from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.studies.maps import MapMaker, Maps, MapsPlan, group_maps
from raysim.studies.matrix import MatrixSpec, build_matrix
from raysim.studies.runner import carry_out
from raysim.studies.study import Bench

TINY = MapsPlan(
    model="digits_cnn",
    image=(1, 8, 8),
    clients=(2, 3, 5),
    probe_size=0,
    map_size="native",
    repeats=2,
    rows=2,
    backend="inprocess",
    workers=1,
)


def warm(backend: Backend | None = None) -> MapMaker:
    spec = MatrixSpec(TINY.model, TINY.image, TINY.classes, clients=1, malicious=0)
    return MapMaker(TINY.defense(), build_matrix(spec, backend or InProcessBackend()).context)


def test_a_clients_map_does_not_depend_on_its_group():
    here = warm()
    together, _, _ = group_maps(TINY, here, np.arange(5), 5, 1)
    apart = [group_maps(TINY, here, np.arange(first, 5)[:2], 5, 1)[0] for first in (0, 2, 4)]
    assert together.shape == (5, 4, 4)
    assert np.concatenate(apart).tobytes() == together.tobytes()
    assert len({one.tobytes() for one in together}) == 5


def test_the_maps_are_those_of_the_defense():
    spec = MatrixSpec(TINY.model, TINY.image, TINY.classes, clients=3, malicious=0)
    matrix = build_matrix(spec, InProcessBackend())
    maps, draw_s, maps_s = group_maps(TINY, warm(), np.arange(3), 3, 2)
    assert maps.tobytes() == TINY.defense().heat_maps(matrix.updates, matrix.context).tobytes()
    assert draw_s > 0
    assert maps_s.shape == (2,)
    assert (maps_s > 0).all()


def measured() -> list[dict[str, Any]]:
    study = Maps()
    with study.opened(TINY, Bench(InProcessBackend())) as here:
        return [
            {"clients": cell.clients, **row}
            for cell in study.cells(TINY)
            for row in study.measure(TINY, cell, here)["maps"]
        ]


def test_never_more_rows_than_a_group_are_held(monkeypatch: pytest.MonkeyPatch):
    from raysim.engine import synthetic_updates as source

    drawn = []

    def watched(*args, clients, **options):
        drawn.append(clients.tolist())
        return synthetic_updates(*args, clients=clients, **options)

    synthetic_updates = source.synthetic_updates
    monkeypatch.setattr(source, "synthetic_updates", watched)
    measured()
    assert drawn == [[0, 1], [0, 1], [0, 1], [2], [0, 1], [2, 3], [4]]  # the first one warms up


def test_parts_add_up():
    found: dict[Any, list[float]] = {}
    for row in measured():
        found.setdefault((row["clients"], row["part"]), []).append(row["wall_s"])
    assert len(found) == 3 * 6
    for clients in TINY.clients:
        maps = np.array(found[clients, "maps"])
        for width in (4, 128):
            alone = np.array(found[clients, f"autoencoder, width {width}"])
            assert alone.shape == (2,)
            assert (alone > 0).all()
            assert found[clients, f"maps + autoencoder, width {width}"] == pytest.approx(maps + alone)
        assert len(found[clients, "drawing"]) == 1


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"model": "resnet5"}, "model"),
        ({"method": "layercan"}, "method"),
        ({"map_size": "inputs"}, "map_size"),
        ({"rows": 0}, "rows"),
        ({"repeats": 0}, "repeats"),
        ({"probe_size": -1}, "probe_size"),
    ],
)
def test_plans_out_of_range_are_refused(changed, key):
    with pytest.raises(ConfigError, match=key):
        MapsPlan(**changed)


def test_maps_of_one_pixel_are_refused(tmp_path: Path):
    plan = MapsPlan(model="resnet18", clients=(2,), probe_size=0, backend="inprocess", workers=1)
    with pytest.raises(ConfigError, match="more than one pixel"):
        carry_out(Maps(), plan, tmp_path, tell=lambda line: None)


@pytest.mark.usefixtures("drawn")
def test_the_command_leaves_three_files(tmp_path: Path):
    words = [
        "bench",
        "maps",
        "--model",
        "digits_cnn",
        "--image",
        "1x8x8",
        "--clients",
        "2,3",
        "--probe-size",
        "0",
    ]
    words += [
        "--hidden",
        "2",
        "--repeats",
        "1",
        "--method",
        "gradcam",
        "--backend",
        "inprocess",
        "--workers",
        "1",
    ]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == (tmp_path / "maps.md").read_text().strip()
    table = pq.read_table(tmp_path / "maps.parquet").to_pylist()
    assert list(dict.fromkeys(row["part"] for row in table)) == [
        "drawing",
        "maps",
        "autoencoder, width 2",
        "maps + autoencoder, width 2",
    ]
    assert (table[0]["map_height"], table[0]["map_width"]) == (8, 8)
    assert (tmp_path / "maps-seconds.png").stat().st_size > 0


def test_a_mistake_is_refused_before_the_folder_is_made(tmp_path: Path):
    out = tmp_path / "new"
    result = CliRunner().invoke(app, ["bench", "maps", "--model", "resnet5", "--out", str(out)])
    assert result.exit_code == 2
    assert "did you mean 'resnet50'" in result.stderr
    assert not out.exists()


@pytest.mark.ray
def test_maps_on_ray_are_the_same(ray_cluster):
    from raysim.backends.ray_backend import ClientActors, RayBackend

    backend = RayBackend(ClientActors(0), workers=2)
    maps, draw_s, maps_s = group_maps(TINY, warm(backend), np.arange(3, 5), 5, 1)
    here, _, _ = group_maps(TINY, warm(), np.arange(3, 5), 5, 1)
    assert maps.tobytes() == here.tobytes()
    assert draw_s > 0
    assert maps_s[0] > 0
    backend.close()
