"""What the attack tests share: a round made of a matrix, and crafting on differently cut copies of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from raysim.attack import Attack, View, Visibility
from raysim.backends.base import InProcessBackend
from raysim.context import Context, State
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.updates import Updates


def layout_of(dim: int, buffers: int = 0) -> Layout:
    """Parameters `weight` [d], then buffers `running_mean` [b - 1] and the counter `num_batches_tracked`."""
    entries: tuple[Entry, ...] = ()
    if buffers:
        last = dim + buffers
        entries = (
            Entry("running_mean", (buffers - 1,), dim, last - 1),
            Entry("num_batches_tracked", (1,), last - 1, last),
        )
    return Layout((Entry("weight", (dim,), 0, dim),), entries, frozenset({"num_batches_tracked"}))


def round_of(
    rows: np.ndarray,
    attackers: list[int],
    *,
    layout: Layout | None = None,
    visibility: Visibility = Visibility.OMNISCIENT,
    global_vector: np.ndarray | None = None,
    round: int = 0,
    **tiling: Any,
) -> tuple[View, Context]:
    """A view of the matrix [K, d + b] whose rows `attackers` are the attackers' own, and its context."""
    backend = InProcessBackend()
    layout = layout or layout_of(rows.shape[1])
    updates = Updates.from_array(
        rows, backend, layout=layout, num_examples=np.arange(1, len(rows) + 1), **tiling
    )
    own = np.isin(np.arange(len(rows)), attackers)
    benign = updates.select(~own) if visibility is Visibility.OMNISCIENT else None
    vector = np.zeros(layout.num_columns, np.float32) if global_vector is None else global_vector
    context = Context(
        backend=backend,
        seed=3,
        role="attack",
        round=round,
        rounds=10,
        layout=layout,
        published=backend.put(vector),
        global_vector=vector,
    )
    return View(updates.select(own), benign, len(rows)), context


def craft(
    attack: Attack, rows: np.ndarray, attackers: list[int], state: State | None = None, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """(crafted rows [c, d + b] or None, diagnostics) of one round."""
    view, context = round_of(rows, attackers, visibility=attack.visibility, **options)
    crafted, state = attack.craft(attack.init(context) if state is None else state, view, context)
    if isinstance(crafted, Updates):
        assert crafted.client_ids.tolist() == view.own.client_ids.tolist()
        crafted = crafted.to_array(buffers=True)
    return crafted, attack.diagnostics(state)


def tilings(dim: int) -> list[dict[str, Any]]:
    """Ways to cut a matrix: whole, row by row, and in odd column shards."""
    cuts = (0, 3, dim // 2, dim - 1, dim)
    assert all(first < last for first, last in pairwise(cuts))
    return [{}, {"rows_per_block": 1}, {"rows_per_block": 2, "bounds": cuts}]
