"""Parts of a method's state that lie where a task left them, instead of in the process that runs the rounds.

They are kept once. Where a node is lost with one of them, `require_whole` tells, and the run goes back to its newest
checkpoint (runs/execution.py), which costs the rounds since: cheaper than a second copy on another node every round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raysim.backends.base import Backend, Reference


@dataclass(frozen=True)
class LeftBehind:
    """A tree of arrays (as a state's) behind a reference. A checkpoint holds each in a file of its own."""

    backend: Backend
    reference: Reference

    @property
    def value(self) -> Any:
        """The tree, brought to this process; LostWork if it is gone."""
        return self.backend.get(self.reference)


def require_whole(state: object) -> None:
    """LostWork where something that a state left behind lies nowhere any more. A task looks at each, beside it."""
    left = list(left_in(state))
    if left:
        left[0].backend.map("look", _seen, [(part.reference,) for part in left])


def left_in(tree: object) -> Iterator[LeftBehind]:
    """The parts of a state that were left behind."""
    if isinstance(tree, LeftBehind):
        yield tree
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from left_in(part)
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from left_in(part)


def _seen(tree: object) -> None:
    """What a task that looks at a part does with it."""
