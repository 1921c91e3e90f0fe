"""The contract of a defense, and how defenses are chained.

A defense is a frozen dataclass whose fields are its hyper-parameters and nothing else. What it remembers
between rounds is returned as state. It sees the updates and the context, never who is malicious.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from raysim.array_checks import described
from raysim.context import Context, Setting, State
from raysim.errors import ConfigError, ContractError
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.options import Declared
from raysim.requirement import Requirement
from raysim.verdict import Verdict as Verdict
from raysim.verdict import carry_back, checked_answer, checked_transform, expand


@dataclass(frozen=True)
class Defense(Declared):
    """Base of every defense: no memory, no requirements. `apply` is all that a defense must define.

    This one drops the longest updates and takes the data-weighted mean of the others. Its options are fields, checked
    when it is made; it remembers in its state how often it has judged.

    >>> from raysim import ConfigError, Context, Count, Setting, State, Updates, accepted_mean, evaluate_round
    >>> @dataclass(frozen=True)
    ... class DropLongest(Defense):
    ...     "Flags the `drop` longest of K updates; scores are their lengths."
    ...     drop: Count = 1
    ...     "How many clients are flagged in a round."
    ...
    ...     def check(self, setting: Setting) -> None:
    ...         if self.drop >= setting.cohort:
    ...             raise ConfigError("drop", "must be below the cohort", self.drop, setting.cohort - 1)
    ...
    ...     def init(self, ctx: Context) -> State:
    ...         return {"rounds": 0}
    ...
    ...     def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
    ...         lengths = np.sqrt(np.diagonal(updates.gram()))  # [K]; the matrix stays where it lies
    ...         flagged = np.zeros(updates.num_clients, bool)
    ...         flagged[np.argsort(-lengths, kind="stable")[: self.drop]] = True
    ...         aggregate, weights = accepted_mean(updates, flagged)
    ...         return Verdict(aggregate, weights, lengths, flagged), {"rounds": state["rounds"] + 1}

    On a matrix of three updates, without an experiment:

    >>> rows = np.array([[1.0, 2.0], [3.0, 4.0], [-60.0, 80.0]])
    >>> verdict, state = evaluate_round(DropLongest(drop=1), rows)
    >>> verdict.flagged.tolist(), verdict.weights.tolist(), verdict.aggregate.tolist(), state
    ([False, False, True], [0.5, 0.5, 0.0], [2.0, 3.0], {'rounds': 1})

    In a configuration it is named by import path: `defense.name=mypackage.mymodule:DropLongest defense.drop=3`.
    """

    paper: ClassVar[str] = ""
    """Authors, short title or venue, year: `Blanchard et al., NIPS 2017`."""

    calibration: ClassVar[bool] = False
    """True only for an oracle that is shown the truth: named so (`title`) wherever its results are printed."""

    reads_columns: ClassVar[bool] = False
    """Whether `apply` compares all rows column by column (Gram products, order statistics), as they came in: on several nodes
    these are brought together while clients still train (resources.gather_bytes)."""

    needs: ClassVar[frozenset[Requirement]] = frozenset()
    """What it works with beside the updates, under some choice of its options; `raysim list` shows it."""

    judges_buffers: ClassVar[bool] = False
    """Whether it can judge a buffer of updates that began from different global models (population.buffer): it looks at updates,
    whatever each is relative to, and remembers nothing that holds for rounds of one model alone. Otherwise such runs are
    refused."""

    on_buffers: ClassVar[str] = "its class does not say that it can (judges_buffers = True)"
    """Why it can, or cannot: the end of a sentence, which `raysim list` shows."""

    def needed(self) -> frozenset[Requirement]:
        """What of `needs` these options make it work with; what an experiment lacks of it is refused before the start."""
        return self.needs

    def check(self, setting: Setting) -> None:
        """Raise ConfigError when this defense cannot work in that setting; called before anything starts.

        That what it `needed` is there is checked besides.
        """

    def remarks(self, setting: Setting) -> tuple[str, ...]:
        """Sentences a user should read before a run that is allowed in that setting, and may not be what was meant."""
        return ()

    def assumed(self, count: int) -> int | None:
        """How many of K = count rows it takes to be malicious (its `num_byzantine`); None if it assumes nothing."""
        return getattr(self, "num_byzantine", None)

    def assuming(self, count: int) -> Defense:
        """The same for rounds of K = count rows, a `num_byzantine` that was left open filled in."""
        found = self.assumed(count)
        if found is None or getattr(self, "num_byzantine", found) is not None:
            return self
        return replace(self, num_byzantine=found)  # type: ignore[call-arg]

    def initial_model(self, ctx: Context) -> np.ndarray | None:
        """The global vector [d + b] that round 0 begins with, made of `ctx.global_vector`; None: that as it is.

        Called once, before `init`; a run that is resumed goes on from its checkpoint.
        """
        return None

    def init(self, ctx: Context) -> State:
        """The state before the first round."""
        return {}

    def row_stage(self, ctx: Context) -> RowStage[object] | None:
        """The work on each row alone that `apply` will ask for by `updates.map_row_stage`, known before any row is.

        Where resources.pipeline is on, it begins on rows as they arrive; what it gives must depend on ctx alone,
        neither on the state nor on other rows. None: there is nothing to begin.
        """
        return None

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Judge and combine one round's updates (K >= 1 finite rows)."""
        raise TypeError(f"{type(self).__name__} must define apply(state, updates, ctx)")


@dataclass(frozen=True)
class PreAggregation(Defense):
    """A step in front of another defense: changes the rows, and may merge several clients into one row."""

    keeps_rows: ClassVar[bool] = False
    """Whether there are always as many rows after it as before."""

    def transform(
        self, state: State, updates: Updates, ctx: Context
    ) -> tuple[Updates, np.ndarray | None, State]:
        """(new updates, members, new state).

        members [K] int: the new row each old row went into (-1 = left out), every new row named at least once; None
        when rows correspond one to one. A verdict on the new rows is carried back along it.
        """
        raise TypeError(f"{type(self).__name__} must define transform(state, updates, ctx)")

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Standing alone: transform, then the data-weighted mean."""
        changed, members, state = transformed(self, state, updates, ctx)
        weights = changed.shares
        verdict = Verdict(changed.combine(weights), weights)
        return (verdict if members is None else carry_back(verdict, members)), state


@dataclass(frozen=True)
class Chain(Defense):
    """Several defenses in a row: pre-aggregations change the rows; a detector passes on what it accepts.

    Where a step is shown the truth, a merged row is an attacker's when one of its clients is.
    """

    steps: tuple[Defense, ...] = ()

    @property
    def calibration(self) -> bool:  # type: ignore[override]
        """Whether one of its steps is shown the truth; the others still are not."""
        return any(step.calibration for step in self.steps)

    @property
    def reads_columns(self) -> bool:  # type: ignore[override]
        """What the first step does: the others see what it made of the rows, or some of them."""
        return self.steps[0].reads_columns

    @property
    def judges_buffers(self) -> bool:  # type: ignore[override]
        """Whether all its steps can."""
        return all(step.judges_buffers for step in self.steps)

    def assuming(self, count: int) -> Chain:
        """Its steps; those behind one that leaves out or merges rows stay as they are."""
        known = len(list(_steps_on(self)))
        return Chain(tuple(s.assuming(count) if n < known else s for n, s in enumerate(self.steps)))

    def needed(self) -> frozenset[Requirement]:
        """What its steps need."""
        return frozenset().union(*(step.needed() for step in self.steps))

    def check(self, setting: Setting) -> None:
        """Every step must be able to work."""
        for step in self.steps:
            check_setting(step, setting)

    def initial_model(self, ctx: Context) -> np.ndarray | None:
        """What the steps make of it, one after another."""
        prepared = None
        for step in self.steps:
            made = prepared_model(step, _seen_by(step, ctx))
            if made is not None:
                prepared, ctx = made, replace(ctx, global_vector=made, published=ctx.put(made))
        return prepared

    def init(self, ctx: Context) -> State:
        """The states of the steps, by position."""
        return {str(number): step.init(_seen_by(step, ctx)) for number, step in enumerate(self.steps)}

    def row_stage(self, ctx: Context) -> RowStage[object] | None:
        """The first step's: the others see what it made of the rows."""
        return self.steps[0].row_stage(_seen_by(self.steps[0], ctx))

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Apply the steps one after another; the verdict speaks of the rows that came in."""
        return self._apply_from(0, state, updates, ctx)

    def _apply_from(self, number: int, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        step, own = self.steps[number], state[str(number)]
        seen = _seen_by(step, ctx)
        if number == len(self.steps) - 1:
            verdict, own = judged(step, own, updates, seen)
            return verdict, {**state, str(number): own}
        if isinstance(step, PreAggregation):
            changed, members, own = transformed(step, own, updates, seen)
            if members is not None and ctx.truth is not None:
                merged = members[np.isin(updates.client_ids, ctx.truth) & (members >= 0)]
                ctx = replace(ctx, truth=changed.client_ids[np.unique(merged)])
            verdict, state = self._apply_from(number + 1, {**state, str(number): own}, changed, ctx)
            return (verdict if members is None else carry_back(verdict, members)), state
        first, own = judged(step, own, updates, seen)
        state = {**state, str(number): own}
        flagged = np.zeros(updates.num_clients, bool) if first.flagged is None else first.flagged
        if flagged.all():
            return first, state
        verdict, state = self._apply_from(number + 1, state, updates.select(~flagged), ctx)
        expanded = expand(verdict, ~flagged, score=first.scores)
        return replace(
            expanded,
            flagged=first.flagged if expanded.flagged is None else expanded.flagged,
            scores=first.scores if expanded.scores is None else expanded.scores,
            artifacts={**first.artifacts, **verdict.artifacts},
            threshold=first.threshold if expanded.scores is None else expanded.threshold,
        ), state


def check_setting(defense: Defense, setting: Setting) -> None:
    """ConfigError when the setting lacks what the defense needs, or does not suit it otherwise."""
    defense.check(setting)
    if isinstance(defense, Chain):  # whose steps were asked one by one
        return
    setting.require(defense.needed(), type(defense).__name__)
    if setting.buffer and not defense.judges_buffers:
        rule = f"must be null, synchronous rounds, with {type(defense).__name__}, which cannot judge a buffer: {defense.on_buffers}"
        raise ConfigError("population.buffer", rule, setting.buffer, "null")


def chain(*steps: Defense) -> Defense:
    """`chain(ClipNorm(3.0), Krum(num_byzantine=2))`: one defense made of several."""
    return steps[0] if len(steps) == 1 else Chain(tuple(steps))


def title(label: str, defense: Defense | type[Defense]) -> str:
    """How what people read names a defense: `oracle (calibration only)` where it is shown the truth."""
    return titled(label, defense.calibration)


def titled(label: str, calibration: bool) -> str:
    """The same for a defense that is known by its label alone; calibration: whether it is shown the truth."""
    return f"{label} (calibration only)" if calibration else label


def assumption(defense: Defense, count: int) -> dict[str, object]:
    """What is assumed of a round of K = count rows, for its record; {} if nothing is, or it cannot be known.

    by: the class; malicious: how many of these rows; most: whether that is the most that this rule tolerates.
    """
    for step in _steps_on(defense):
        found = step.assumed(count)
        if found is not None:
            unset = replace(step, num_byzantine=None) if hasattr(step, "num_byzantine") else step  # type: ignore[call-arg]
            most = unset.assumed(count) == found
            return {"by": type(step).__name__, "malicious": found, "of": count, "most": most}
    return {}


def _steps_on(defense: Defense) -> Iterator[Defense]:
    """The steps that see as many rows as come in."""
    for step in defense.steps if isinstance(defense, Chain) else (defense,):
        yield step
        if not (isinstance(step, PreAggregation) and step.keeps_rows):
            return


def prepared_model(defense: Defense, ctx: Context) -> np.ndarray | None:
    """What `defense.initial_model` makes, checked, as float32: the one way by which anything asks. Raises ContractError."""
    answer = defense.initial_model(ctx)
    if answer is None:
        return None
    shape = (ctx.layout.num_columns,)
    fits = isinstance(answer, np.ndarray) and answer.shape == shape and answer.dtype.kind == "f"
    if not fits or not np.isfinite(answer).all():
        rule = f"must be finite floats of shape {shape}, or None"
        raise ContractError.of(type(defense).__name__, "its initial model", rule, described(answer))
    return answer.astype(np.float32, copy=False)


def judged(
    defense: Defense,
    state: State,
    updates: Updates,
    ctx: Context,
    around: AbstractContextManager[object] | None = None,
) -> tuple[Verdict, State]:
    """What `defense.apply` says, checked whole: the one way by which anything asks a defense.

    around: entered for `apply` alone, to time or watch it without the check. Raises ContractError.
    """
    with around or nullcontext():
        answer = defense.apply(state, updates, ctx)
    return checked_answer(type(defense).__name__, answer, updates.num_clients, updates.dim)


def transformed(
    step: PreAggregation, state: State, updates: Updates, ctx: Context
) -> tuple[Updates, np.ndarray | None, State]:
    """What `step.transform` makes of the rows, checked: the one way by which anything asks it. Raises ContractError."""
    answer = step.transform(state, updates, ctx)
    return checked_transform(type(step).__name__, answer, updates)


def judged_usable(
    defense: Defense, state: State, updates: Updates, usable: np.ndarray, ctx: Context
) -> tuple[Verdict, State]:
    """The verdict on the usable rows (mask [K]), widened to all K: the others are flagged and have no weight.

    Without a usable row the defense is not asked: the global model and the state stay.
    """
    if usable.any():
        verdict, state = judged(defense, state, updates.select(usable), ctx)
    else:
        verdict = Verdict(np.zeros(updates.dim, np.float32), np.zeros(0), None, np.zeros(0, bool))
    return expand(verdict, usable), state


def _seen_by(step: Defense, ctx: Context) -> Context:
    """The context passed to one step of a chain; `truth` is kept for calibration steps only."""
    return ctx if step.calibration or ctx.truth is None else replace(ctx, truth=None)


def accepted_mean(
    updates: Updates, flagged: np.ndarray, *, uniform: bool = False, stage: str = "combine"
) -> tuple[np.ndarray, np.ndarray]:
    """(aggregate [d], weights [K]): data-weighted mean over unflagged rows, renormalised.

    All flagged: a zero aggregate, so that the global model stays, and zero weights.
    uniform: p_i = 1/K instead of data shares.
    """
    shares = np.ones(updates.num_clients) if uniform else updates.shares
    weights = np.where(flagged, 0.0, shares)
    if not weights.any() and not flagged.all():
        weights = np.where(flagged, 0.0, 1.0)
    total = weights.sum()
    weights = weights / total if total > 0 else np.zeros(updates.num_clients)
    return updates.combine(weights, stage), weights
