"""What the papers' figures show of each client: read from a run that has ended, as rows of one table.

    scores            series score: what the defense gave it
    maps              map, and rebuilt where an autoencoder judges it: pixels in rows, of at most SIDE x SIDE
    representations   x, y: FLARE's representations of each sample, on the first two principal components of all clients';
                      mmd: the mean over the others of MMD^2

All of the last round. `place` is the sample or pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raysim.errors import RecordError
from raysim.presets.preset import Drawn
from raysim.report.finished_run import Columns, read_columns, read_last_heat_maps
from raysim.studies.study import columns

if TYPE_CHECKING:
    from raysim.studies.table import Row

SIDE = 28
"""Pixels of a map's side, at most: larger ones are shrunk."""

DRAWN = columns(
    preset=("string", "the cell"),
    seed=("int64", "of the run"),
    client=("int64", "its id"),
    malicious=("bool", "whether it attacks"),
    flagged=("bool", "whether the defense flagged it"),
    series=("string", "see raysim.studies.papers.drawn"),
    place=("int64", "of the sample or pixel"),
    value=("float64", "what is drawn"),
)


def drawn_rows(path: Path, kind: Drawn | None) -> list[Row]:
    """The rows of a finished run; none if nothing of it is drawn."""
    if kind is None:
        return []
    clients = read_columns(path, "clients")
    last = int(clients["round"].max())
    here = {name: column[clients["round"] == last] for name, column in clients.items()}
    series = {"scores": _scores, "maps": _maps, "representations": _representations}[kind](path, here, last)
    rows: list[Row] = []
    for name, values in series.items():
        for client, malicious, flagged, of_client in zip(
            here["client"], here["malicious"], here["flagged"], values, strict=True
        ):
            common = {"client": int(client), "malicious": bool(malicious), "flagged": bool(flagged == 1)}
            rows += [
                {**common, "series": name, "place": place, "value": float(value)}
                for place, value in enumerate(of_client)
            ]
    return rows


def _scores(path: Path, clients: Columns, last: int) -> Mapping[str, np.ndarray]:
    return {"score": clients["score"][:, None]}


def _maps(path: Path, clients: Columns, last: int) -> Mapping[str, np.ndarray]:
    found = read_last_heat_maps(path / "artifacts")
    if found is None or not np.array_equal(found.client_ids, clients["client"]):
        raise RecordError(f"{path}: no heat maps of the clients of round {last}")
    layers = {"map": found.maps}
    if found.reconstructed is not None:
        layers["rebuilt"] = found.reconstructed
    return {name: shrunk(layer).reshape(len(layer), -1) for name, layer in layers.items()}


def shrunk(maps: np.ndarray) -> np.ndarray:
    """Maps [K, h, w] as means over pixels, at most SIDE high and wide."""
    if max(maps.shape[1:]) <= SIDE:
        return maps
    import torch

    size = min(maps.shape[1], SIDE), min(maps.shape[2], SIDE)
    small: np.ndarray = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps), size).numpy()
    return small


def _representations(path: Path, clients: Columns, last: int) -> Mapping[str, np.ndarray]:
    folder = path / "artifacts" / f"round-{last:06d}"
    try:
        representations, mmd = (np.load(folder / f"{name}.npy") for name in ("representations", "mmd"))
    except OSError as error:
        raise RecordError(f"{folder}: no representations: {error}") from error
    across, up = np.moveaxis(principal(representations), 2, 0)
    others = mmd.sum(axis=1) - np.diagonal(mmd)
    return {"x": across, "y": up, "mmd": (others / max(len(mmd) - 1, 1))[:, None]}


def principal(points: np.ndarray) -> np.ndarray:
    """Points [K, m, o] on the first two principal components of all: [K, m, 2]; each component's largest weight is positive."""
    flat = points.reshape(-1, points.shape[2]).astype(np.float64)
    flat -= flat.mean(axis=0)
    _, _, directions = np.linalg.svd(flat, full_matrices=False)
    axes = np.zeros((2, flat.shape[1]))
    axes[: len(directions[:2])] = directions[:2]
    axes *= np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], 1) < 0, -1.0, 1.0)
    projected: np.ndarray = (flat @ axes.T).reshape(*points.shape[:2], 2)
    return projected
