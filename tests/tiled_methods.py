"""A defense that remembers in tiles of a few clients, and what cuts every K x K into such tiles; named by import path in tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from defenses.fedgrad import FedGrad
from defenses.fldetector import FLDetector
from defenses.foolsgold import FoolsGold
from raysim import Defense, Verdict
from raysim.context import Context, State
from raysim.matrix.updates import Updates
from raysim.requirement import Requirement

SIDE = 3


@contextmanager
def small_tiles() -> Iterator[None]:
    """Inside, this process cuts a K x K into sides of at most SIDE rows, from the smallest K on; tasks follow its cuts."""
    sizes: dict[str, Any] = {
        "raysim.matrix.pairs.WHOLE_BYTES": 0,
        "raysim.matrix.pairs.SIDE": SIDE,
        "defenses.pair_history.NARROWEST": SIDE,
    }
    with ExitStack() as patched:
        for name, value in sizes.items():
            patched.enter_context(patch(name, value))
        yield


@dataclass(frozen=True)
class Remembers(Defense):
    """Between FedGrad, FoolsGold and FLDetector, whose memories lie in tiles of pairs and of rows.

    file: which it waits for in the given round, where it is named. folder: in each round it waits while `before-<round>` lies
    there, and once it has judged while `after-<round>` does.
    """

    file: str = ""
    round: int = 0
    folder: str = ""
    needs = frozenset({Requirement.GRAM, Requirement.LAST_LAYER})

    @property
    def parts(self) -> dict[str, Defense]:
        """The three, by the name of their memory."""
        return {
            "pairs": FedGrad(switch_round=0),
            "rows": FoolsGold(features="all"),
            "last": FLDetector(window=2, burn_in=3),
        }

    def init(self, ctx: Context) -> State:
        return {name: part.init(ctx) for name, part in self.parts.items()}

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        file, folder = Path(self.file), Path(self.folder)
        wait_while(lambda: self.file and ctx.round == self.round and not file.exists())
        wait_while((folder / f"before-{ctx.round}").exists)
        with small_tiles():
            found = {name: part.apply(state[name], updates, ctx) for name, part in self.parts.items()}
        wait_while((folder / f"after-{ctx.round}").exists)
        aggregate = sum(verdict.aggregate for verdict, _ in found.values()) / np.float32(len(found))
        scores = found["last"][0].scores
        after = {name: state for name, (_, state) in found.items()}
        return replace(found["pairs"][0], aggregate=aggregate, scores=scores), after


def wait_while(shut: Callable[[], object]) -> None:
    """Return once `shut` does not hold; AssertionError after five minutes."""
    limit = time.monotonic() + 300
    while shut():
        assert time.monotonic() < limit
        time.sleep(0.05)
