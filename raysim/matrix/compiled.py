"""Loops in machine code, compiled on first use and kept on disk for other processes; nothing is compiled at import."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike

PLAIN_LOOPS = 8
"""Compiled loops that a process keeps; there are fewer."""


@lru_cache(maxsize=PLAIN_LOOPS)
def compiled(loop: Callable[..., None], *arguments: str) -> Callable[..., None]:
    """The loop for arguments of these kinds: `total` [c] float64 that is written, `tile` [k, c] float32, `row` [c] float32,
    `numbers` [n] float64, `places` [n] int64, `place` int.

    No `fastmath`: products and sums are neither contracted nor reordered, so that the loop does in machine code what it
    does in Python. Where neither the package's folder nor the user's cache can be written, every process compiles for itself.
    """
    import numba
    from numba import types

    def read(dtype: types.Type, dimensions: int = 1) -> types.Type:
        return types.Array(dtype, dimensions, "C", readonly=True)

    kinds = {
        "total": types.float64[::1],
        "tile": read(types.float32, 2),
        "row": read(types.float32),
        "numbers": read(types.float64),
        "places": read(types.int64),
        "place": types.int64,
    }
    signature = types.void(*(kinds[kind] for kind in arguments))
    compile_here = partial(numba.njit, signature, nogil=True, error_model="numpy")
    try:
        found: Callable[..., None] = compile_here(cache=True)(loop)
    except RuntimeError:  # numba finds no folder for its cache
        found = compile_here()(loop)
    return found


def read_only(array: ArrayLike, dtype: DTypeLike) -> np.ndarray:
    """The array, contiguous and of that dtype, as a compiled loop takes what it reads."""
    import numpy as np

    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view
