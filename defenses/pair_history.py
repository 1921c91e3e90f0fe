"""What FedGrad remembers of pairs of clients that met, in tiles that lie where they are updated.

Clients are held by blocks of ids; a tile holds the pairs of two blocks that have met, and nothing of others, so that
memory grows with pairs that met: 13 bytes for each that met less than 256 times, in {"keys": uint32 [m] ascending, "weight_similarity",
"bias_similarity": float32 [m], "together": unsigned integers [m], the narrowest that hold them}. A key is i * width + j of the ids'
places in their blocks; of two clients the one of the higher id comes first. Where all of some rows have met all of some columns, these
are held, "rows" and "columns" uint32, instead of keys: 9 bytes for each pair. A round updates each tile in one task, from the clients'
gradients (small), which leaves the new tile and the round's features beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from defenses.cosine import Method, cosines_between, transitive_between
from raysim.backends.base import Backend, Reference
from raysim.backends.left_behind import LeftBehind
from raysim.context import State
from raysim.matrix.pairs import Pairs, places

SIMILARITIES = ("weight_similarity", "bias_similarity")

NARROWEST = 512
"""Ids of a block at least. So the fewest clients of whom tiles are kept have three blocks: six tiles, which two nodes can share.

Of two blocks there are three tiles, of which one node would do two."""

MOST_BLOCKS = 32
"""Blocks that the clients known at first are held by, unless a block of NARROWEST ids takes more than that many."""

WIDEST = 2**16
"""Most ids of a block: their keys are 32 bits."""

Tile = Mapping[str, np.ndarray]
Similarity = Literal["pair", "batch", "matrix", "transitive"]
Lies = Literal["rows", "columns", "both"]


def from_arrays(state: Mapping[str, Any], highest: int, backend: Backend) -> State:
    """The histories [n, n] of `state` in tiles: {"width": ids of a block, "tiles": {"3-1": its tile, ...}}.

    highest: the highest id known, by which blocks are made wider.
    """
    clients = state["clients"]
    width = NARROWEST
    while highest // width >= MOST_BLOCKS and width < WIDEST:
        width *= 2
    blocks = clients // width
    tiles = {}
    met = np.flatnonzero(state["together"].any(axis=1))
    found = [met[blocks[met] == block] for block in np.unique(blocks[met])]
    for i, rows in enumerate(found):
        for number, columns in enumerate(found[: i + 1]):
            pairs = np.ix_(rows, columns)
            together = state["together"][pairs]
            keep = (together > 0) & (clients[rows][:, None] >= clients[columns])
            if keep.any():
                keys = keys_of(clients[rows] % width, clients[columns] % width, width)
                values = {name: state[name][pairs][keep] for name in SIMILARITIES}
                values["together"] = _narrow(together[keep])
                tile = _stored(keys[keep], values, width, i == number)
                left = LeftBehind(backend, backend.put(tile))
                tiles[f"{blocks[rows[0]]}-{blocks[columns[0]]}"] = left
    return {"width": width, "tiles": tiles}


def keys_of(rows: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
    """Keys [a, b] uint32 of pairs, from the places of both in their blocks."""
    keys: np.ndarray = (rows[:, None] * width + columns).astype(np.uint32)
    return keys


def keys_in(tile: Tile, width: int, same: bool) -> np.ndarray:
    """Keys [m] of a tile's pairs; same: its rows and columns are one block."""
    if "keys" in tile:
        return tile["keys"]
    keys = keys_of(tile["rows"], tile["columns"], width)
    found: np.ndarray = keys[np.tril_indices(len(keys))] if same else keys.ravel()
    return found


def met(
    history: State,
    clients: np.ndarray,
    vectors: tuple[np.ndarray, np.ndarray],
    method: Similarity,
    backend: Backend,
) -> tuple[Pairs, State]:
    """The round's features, tiles [2, a, b] float32 of averaged or estimated similarities, and the new history.

    clients [K]: ids, ascending. vectors: what is compared, [K, C] float64 each. method: as FedGrad.similarity.
    """
    width, old = history["width"], {name: _left(tile, backend) for name, tile in history["tiles"].items()}
    blocks = clients // width
    cuts = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(clients)]
    sides = [slice(first, last) for first, last in pairwise(cuts)]
    numbers = [int(blocks[first]) for first in cuts[:-1]]
    items: list[tuple[object, ...]] = []
    names = []
    for i, j in places(cuts):
        names.append(f"{numbers[i]}-{numbers[j]}")
        of_both = [(clients[side] % width, *(v[side] for v in vectors)) for side in (sides[i], sides[j])]
        own = old.get(names[-1])
        if method == "transitive":
            strips = [_strip(old, numbers[side]) for side in (i, j)]
            layout = [[(block, lies) for block, lies, _ in strip] for strip in strips]
            rest = [reference for strip in strips for _, _, reference in strip]
            items.append((None if own is None else own.reference, i == j, width, *of_both, layout, *rest))
        else:
            items.append((None if own is None else own.reference, i == j, width, *of_both))
    fn: Any = _meet_transitively if method == "transitive" else partial(_meet, method)
    kept = backend.map("similarity", fn, items, keep=2)
    tiles = {name: LeftBehind(backend, tile) for name, ((tile, _), _) in zip(names, kept, strict=True)}
    features = Pairs(backend, tuple(cuts), tuple(part for (_, part), _ in kept))
    return features, {"width": width, "tiles": {**old, **tiles}}


def _left(tile: LeftBehind | Tile, backend: Backend) -> LeftBehind:
    """The tile where tasks can read it; from a checkpoint it comes as it is."""
    return tile if isinstance(tile, LeftBehind) else LeftBehind(backend, backend.put(dict(tile)))


def _strip(tiles: Mapping[str, LeftBehind], block: int) -> list[tuple[int, Lies, Reference]]:
    """(other block, whether this block is the tile's rows or columns, tile) of every tile of a block."""
    found: list[tuple[int, Lies, Reference]] = []
    for name, tile in tiles.items():
        rows, columns = (int(part) for part in name.split("-"))
        if rows == columns == block:
            found.append((block, "both", tile.reference))
        elif rows == block:
            found.append((columns, "rows", tile.reference))
        elif columns == block:
            found.append((rows, "columns", tile.reference))
    return sorted(found, key=lambda part: part[0])


def _meet(
    method: Method,
    old: Tile | None,
    same: bool,
    width: int,
    left: tuple[np.ndarray, ...],
    right: tuple[np.ndarray, ...],
) -> tuple[dict[str, np.ndarray], np.ndarray, None]:
    """The tile after a round in which all these clients met, and its features."""
    keys, before, places = _known(old, left[0], right[0], width, same)
    measured = np.ones(keys.shape, bool)
    parts = [_mirrored(cosines_between(a, b, method), same) for a, b in zip(left[1:], right[1:], strict=True)]
    means, counts = _averaged(before, parts, measured)
    tile = _tile(old, keys, places, means, counts, width, same)
    return tile, np.stack(means).astype(np.float32), None


def _meet_transitively(
    old: Tile | None,
    same: bool,
    width: int,
    left: tuple[np.ndarray, ...],
    right: tuple[np.ndarray, ...],
    layout: list[list[tuple[int, Lies]]],
    *tiles: Tile,
) -> tuple[dict[str, np.ndarray], np.ndarray, None]:
    """The same if a pair is measured once, and not at all if third clients that both have met allow an estimate."""
    keys, before, places = _known(old, left[0], right[0], width, same)
    strips = tiles[: len(layout[0])], tiles[len(layout[0]) :]
    every = sorted({block for strip in layout for block, _ in strip})
    own = [
        _rows_of(side[0], where, strip, every, width)
        for side, where, strip in zip((left, right), layout, strips, strict=True)
    ]
    unknown = before["together"] == 0
    links = [known.astype(np.float32) for known, _ in own]
    measured = unknown & (links[0] @ links[1].T == 0)
    if same:  # a client and itself are told apart by no third
        np.fill_diagonal(measured, np.diagonal(unknown))
    parts = [
        _mirrored(cosines_between(a, b, "matrix"), same) for a, b in zip(left[1:], right[1:], strict=True)
    ]
    means, counts = _averaged(before, parts, measured)
    tile = _tile(old, keys, places, means, counts, width, same, measured)
    features = []
    for number, mean in enumerate(means):
        estimate = transitive_between(own[0][1][number], own[0][0], own[1][1][number], own[1][0])
        features.append(np.where(counts > 0, mean, _mirrored(estimate, same)))
    return tile, np.stack(features).astype(np.float32), None


def _known(
    old: Tile | None, rows: np.ndarray, columns: np.ndarray, width: int, same: bool
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Keys [a, b] of these pairs, what was known of each [a, b], and its place in the old tile, -1 for none."""
    keys = keys_of(rows, columns, width)
    if same:
        keys = np.maximum(keys, keys.T)
    if old is None or not len(old["together"]):
        kinds = dict.fromkeys(SIMILARITIES, np.float32) | {"together": np.uint8}
        return keys, {name: np.zeros(keys.shape, kinds[name]) for name in kinds}, np.full(keys.shape, -1)
    at, there = _place_of(keys, old) if "keys" in old else _place_in_rows(rows, columns, old, same)
    every = bool(there.all())
    before = {}
    for name in (*SIMILARITIES, "together"):
        found = old[name][at]
        before[name] = found if every else np.where(there, found, old[name].dtype.type(0))
    return keys, before, at if every else np.where(there, at, -1)


def _place_of(keys: np.ndarray, old: Tile) -> tuple[np.ndarray, np.ndarray]:
    """The place of every key [a, b] in the old tile, and whether it is there: if not, the place means nothing."""
    at = np.minimum(np.searchsorted(old["keys"], keys), len(old["keys"]) - 1)
    return at, old["keys"][at] == keys


def _place_in_rows(
    rows: np.ndarray, columns: np.ndarray, old: Tile, same: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The same in a tile of all pairs of some rows and columns, where it follows from the places of both."""
    i = np.minimum(np.searchsorted(old["rows"], rows), len(old["rows"]) - 1)
    j = np.minimum(np.searchsorted(old["columns"], columns), len(old["columns"]) - 1)
    there = (old["rows"][i] == rows)[:, None] & (old["columns"][j] == columns)
    if same:
        high, low = np.maximum(i[:, None], j), np.minimum(i[:, None], j)
        return high * (high + 1) // 2 + low, there
    return i[:, None] * len(old["columns"]) + j, there


def _averaged(
    before: Mapping[str, np.ndarray], now: list[np.ndarray], measured: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """The means [a, b] float64 after this round's similarities, where they are measured, and their numbers."""
    counts = before["together"].astype(np.int32) + measured
    means = []
    for name, similarity in zip(SIMILARITIES, now, strict=True):
        old = before[name]
        means.append(old + np.where(measured, similarity - old, 0.0) / np.maximum(counts, 1))
    return means, counts


def _tile(
    old: Tile | None,
    keys: np.ndarray,
    places: np.ndarray,
    means: list[np.ndarray],
    counts: np.ndarray,
    width: int,
    same: bool,
    measured: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The old tile with what changed of it, and the pairs that met for the first time."""
    kept = counts > 0 if measured is None else measured
    kept = np.tril(kept) if same else kept
    keys, places = keys[kept], places[kept]
    values = {name: mean[kept].astype(np.float32) for name, mean in zip(SIMILARITIES, means, strict=True)}
    values["together"] = _narrow(counts[kept])
    if old is None:
        return _stored(keys, values, width, same)  # rows and columns ascend, and so do keys
    new = places < 0
    if len(keys) == len(old["together"]) and not new.any():  # every pair again, in the order of the tile
        return {name: array for name, array in old.items() if name not in values} | values
    changed = {
        name: old[name].astype(np.promote_types(old[name].dtype, value.dtype))
        for name, value in values.items()
    }
    for name, value in values.items():
        changed[name][places[~new]] = value[~new]
    if not new.any():
        return {name: array for name, array in old.items() if name not in values} | changed
    together = np.concatenate([keys_in(old, width, same), keys[new]])
    order = np.argsort(together, kind="stable")
    merged = {name: np.concatenate([changed[name], value[new]])[order] for name, value in values.items()}
    return _stored(together[order], merged, width, same)


def _narrow(counts: np.ndarray) -> np.ndarray:
    """Counts in the narrowest unsigned integers that hold them."""
    return counts.astype(np.min_scalar_type(counts.max(initial=0)))


def _stored(
    keys: np.ndarray, values: Mapping[str, np.ndarray], width: int, same: bool
) -> dict[str, np.ndarray]:
    """A tile of these pairs, without keys if they are all of some rows and columns."""
    rows, columns = (np.flatnonzero(np.bincount(part)).astype(np.uint32) for part in np.divmod(keys, width))
    every = len(rows) * (len(rows) + 1) // 2 if same else len(rows) * len(columns)
    if len(keys) == every and (not same or np.array_equal(rows, columns)):
        return {"rows": rows, "columns": columns, **values}
    return {"keys": keys, **values}


def _rows_of(
    clients: np.ndarray, where: list[tuple[int, Lies]], tiles: tuple[Tile, ...], every: list[int], width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whom some clients [k] of one block have met [k, m] bool, and their similarities [2, k, m] float32.

    The m are the places of the blocks `every`, one block after another; a client itself is not among those it met.
    """
    count = len(every) * width
    known, similarity = np.zeros((len(clients), count), bool), np.zeros((2, len(clients), count), np.float32)
    row_of = np.full(width, -1)
    row_of[clients] = np.arange(len(clients))
    for (block, lies), tile in zip(where, tiles, strict=True):
        first = every.index(block) * width
        rows, columns = np.divmod(keys_in(tile, width, lies == "both").astype(np.int64), width)
        for side, own, others in (("rows", rows, columns), ("columns", columns, rows)):
            if lies not in (side, "both"):
                continue
            at = row_of[own]
            mine = at >= 0
            if lies == "both":
                mine &= own != others
            known[at[mine], first + others[mine]] = True
            for number, name in enumerate(SIMILARITIES):
                similarity[number][at[mine], first + others[mine]] = tile[name][mine]
    return known, similarity


def _mirrored(values: np.ndarray, same: bool) -> np.ndarray:
    """Exactly symmetric where rows and columns are the same: the lower triangle counts."""
    return np.tril(values) + np.tril(values, -1).T if same else values
