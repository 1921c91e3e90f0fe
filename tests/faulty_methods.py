"""Attacks and defenses that misbehave on purpose, named by import path in tests of the engine."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from raysim import Attack, Defense, Verdict, Visibility


def die_once(marker: str) -> None:
    """Kill this process, unless it was done before."""
    path = Path(marker)
    if marker and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DieWhileTraining(Attack):
    """The host of a compromised client dies in the given round; the client itself is honest."""

    marker: str = ""
    round: int = 1

    def train(self, honest_train, data, ctx):
        if ctx.round == self.round:
            die_once(self.marker)
        return honest_train(data)


@dataclass(frozen=True)
class DieAlways(Attack):
    """Whoever hosts a compromised client dies, every time."""

    def train(self, honest_train, data, ctx):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DieWhileJudging(Defense):
    """The process that judges dies in the given round; else the plain mean."""

    marker: str = ""
    round: int = 1

    def apply(self, state, updates, ctx):
        if ctx.round == self.round:
            die_once(self.marker)
        count = state.get("count", 0) + 1
        return Verdict(updates.combine(updates.shares), updates.shares), {"count": count}


@dataclass(frozen=True)
class WaitWhileJudging(Defense):
    """Leaves the marker and waits, once, in the given round; else the plain mean with a count as its state.

    sends: signals to its own process instead of waiting for one.
    """

    marker: str = ""
    round: int = 2
    sends: tuple[int, ...] = ()

    def apply(self, state, updates, ctx):
        if ctx.round == self.round and not Path(self.marker).exists():
            Path(self.marker).touch()
            for number in self.sends:
                os.kill(os.getpid(), number)
            time.sleep(120)
        count = state.get("count", 0) + 1
        weights = updates.shares if count % 2 else np.full(updates.num_clients, 1 / updates.num_clients)
        return Verdict(updates.combine(weights), weights), {"count": count}


@dataclass(frozen=True)
class WaitForFile(Defense):
    """The plain mean; in the given round once `file` exists, which it waits for."""

    file: str = ""
    round: int = 2

    def apply(self, state, updates, ctx):
        limit = time.monotonic() + 120
        while ctx.round == self.round and not Path(self.file).exists():
            assert time.monotonic() < limit, self.file
            time.sleep(0.05)
        return Verdict(updates.combine(updates.shares), updates.shares), state


@dataclass(frozen=True)
class TellsWhere(Attack):
    """Honest; leaves a file named after the client in `folder` that says in which node's environment it was hosted."""

    folder: str = ""

    def train(self, honest_train, data, ctx):
        Path(self.folder, f"client-{ctx.client}").write_text(os.environ.get("SHARDS", ""))
        return honest_train(data)


@dataclass(frozen=True)
class Toil(Attack):
    """Its clients poison their data and train twice, or `own` way around the honest training; the first update counts."""

    own: bool = False

    def poison_data(self, data, ctx):
        time.sleep(0.02)
        return data

    def train(self, honest_train, data, ctx):
        if self.own:
            key = ("train", ctx.round, ctx.client)
            return ctx.trainer.fit(
                ctx.global_vector, data, key, seed=ctx.seed, learning_rate=ctx.learning_rate
            )
        first = honest_train(data)
        time.sleep(0.02)
        honest_train(data)
        return first


@dataclass(frozen=True)
class BadUpload(Attack):
    """Submits what no server should use: `what` is nan, shape, none, text, or raise."""

    what: str = "nan"

    def train(self, honest_train, data, ctx):
        update = honest_train(data)
        if self.what == "raise":
            raise ZeroDivisionError("in the attack's own code")
        return {
            "nan": np.where(np.arange(len(update)) == 3, np.nan, update).astype(np.float32),
            "shape": update[:-1],
            "none": None,
            "text": "not an update",
        }[self.what]


@dataclass(frozen=True)
class BadCraft(Attack):
    """Colluders craft what no server can use: `what` says how; NaN alone is something an attacker may send."""

    what: str = "nan"

    @property
    def visibility(self):
        return Visibility.COLLUDING

    def craft(self, state, view, ctx):
        assert view.benign is None
        rows = view.own.to_array()
        rows[0, 0] = np.inf
        other = replace(view.own, client_ids=np.array([0, 1]))
        return {
            "nan": (rows, state),
            "shape": (rows[:, :-1], state),
            "text": (np.full(rows.shape, "abc"), state),
            "ragged": ([[1.0], [1.0, 2.0]], state),
            "others": (other, state),
            "alone": rows,
            "state": (None, None),
        }[self.what]


@dataclass(frozen=True)
class NegativeVariance(Attack):
    """Takes every running variance below 0, in training or by crafting."""

    crafts: bool = False

    @property
    def visibility(self):
        return Visibility.COLLUDING if self.crafts else Visibility.OWN

    def train(self, honest_train, data, ctx):
        update = honest_train(data)
        if not self.crafts:
            update[ctx.layout.variance_columns] = -2
        return update

    def craft(self, state, view, ctx):
        rows = view.own.to_array(buffers=True).copy()
        rows[:, ctx.layout.variance_columns] = -2
        return rows, state


@dataclass(frozen=True)
class Overflow(Attack):
    """Sends finite parameters with which every logit overflows."""

    def train(self, honest_train, data, ctx):
        return np.full(ctx.layout.num_columns, 1e38, np.float32)


@dataclass(frozen=True)
class BadVerdict(Defense):
    """Returns an aggregate that is no update."""

    def apply(self, state, updates, ctx):
        return Verdict(np.full(updates.dim, np.nan, np.float32)), state


@dataclass(frozen=True)
class Fails(Defense):
    """Notes every call in a file and fails, always: `how` is raise, exit, task (an exit in a task of its own), or arrival
    (in the process that it is sent to).
    """

    calls: str = ""
    how: str = "raise"

    def note(self) -> None:
        with open(self.calls, "a") as file:
            file.write(f"{self.how}\n")

    def __reduce__(self):
        return (_arrive, (self.calls, self.how))

    def apply(self, state, updates, ctx):
        self.note()
        if self.how == "exit":
            sys.exit("no reason")
        if self.how == "task":
            ctx.run("leaves", sys.exit, "no reason")
        raise ArithmeticError("the same every time")


def _arrive(calls, how):
    made = Fails(calls, how)
    if how == "arrival":
        made.note()
        raise ArithmeticError("the same every time")
    return made


@dataclass(frozen=True)
class LeavesWhileTraining(Attack):
    """Calls sys.exit where a compromised client trains."""

    calls: str = ""

    def train(self, honest_train, data, ctx):
        with open(self.calls, "a") as file:
            file.write("train\n")
        sys.exit(3)


@dataclass(frozen=True)
class FailsBefore(Defense):
    """Fails before a run starts: `where` is make, check, remarks, or assume."""

    where: str = "make"

    def __post_init__(self):
        self.fail_at("make")

    def fail_at(self, where):
        if self.where == where:
            raise ZeroDivisionError("in the method's own code")

    def check(self, setting):
        self.fail_at("check")

    def remarks(self, setting):
        self.fail_at("remarks")
        return ()

    def assumed(self, count):
        self.fail_at("assume")


@dataclass(frozen=True)
class Crash(Defense):
    """Fails in a task of its own."""

    def apply(self, state, updates, ctx):
        ctx.run("crash", _divide, 1, 0)
        raise AssertionError("not reached")


def _divide(a, b):
    return a // b


@dataclass(frozen=True)
class Hang(Attack):
    """A compromised client never answers; `swallow`: it catches whatever interrupts it once."""

    swallow: bool = False

    def train(self, honest_train, data, ctx):
        try:
            time.sleep(60)
        except BaseException:
            if not self.swallow:
                raise
        time.sleep(60)


@dataclass(frozen=True)
class PoisonRaises(Attack):
    """A compromised client fails while it prepares its data, to train in a stack with others."""

    def poison_data(self, data, ctx):
        raise ValueError("no such trigger")


def die_if_armed(folder: str, moment: str) -> None:
    """Kill this process if a file `moment*` lies in the folder; every such file is good for one death."""
    for trap in sorted(Path(folder).glob(f"{moment}*")) if folder else ():
        try:
            trap.unlink()
        except FileNotFoundError:  # another process was quicker
            continue
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class MortalAttack(Attack):
    """Honest, where no trap is set: `train-<round>` for a host, `craft-<round>` for the server."""

    folder: str = ""

    @property
    def visibility(self):
        return Visibility.COLLUDING

    def train(self, honest_train, data, ctx):
        die_if_armed(self.folder, f"train-{ctx.round}")
        return honest_train(data)

    def craft(self, state, view, ctx):
        die_if_armed(self.folder, f"craft-{ctx.round}")
        return None, {"rounds": state.get("rounds", 0) + 1}


@dataclass(frozen=True)
class MortalDefense(Defense):
    """The plain mean, after tasks that die where a trap `task-<round>` is set; `arm-<round>` becomes `evaluate`."""

    folder: str = ""

    def apply(self, state, updates, ctx):
        moment = f"task-{ctx.round}"
        if (planned := Path(self.folder, f"arm-{ctx.round}")).exists():
            planned.rename(planned.with_name("evaluate"))
        found = ctx.map("look", _look, [(self.folder, moment, number) for number in range(4)])
        return Verdict(updates.combine(updates.shares), updates.shares), {
            "sum": state.get("sum", 0) + sum(found)
        }


def _look(item):
    folder, moment, number = item
    die_if_armed(folder, moment)
    return number


class MortalNet(torch.nn.Module):
    """A linear model whose process dies in evaluation where a trap `evaluate` is set."""

    def __init__(self, num_classes, input_shape, folder=""):
        super().__init__()
        self.flat, self.head = torch.nn.Flatten(), torch.nn.Linear(math.prod(input_shape), num_classes)
        self.folder = folder

    def forward(self, images):
        if not self.training:
            die_if_armed(self.folder, "evaluate")
        return self.head(self.flat(images))
