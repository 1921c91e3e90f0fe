"""Parts of a method's state that lie where a task left them, instead of in the process that runs the rounds."""

from __future__ import annotations

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
        """The tree, brought to this process."""
        return self.backend.get(self.reference)
