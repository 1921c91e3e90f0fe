"""The base of attacks that know the aggregation rule: how far along a direction they go is searched by trying the rule.

Allouah et al., "Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity", AISTATS 2023, use such attacks;
the search here is that of ByzFL's code: steps that double while they gain, and shrink from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Lt

from attacks.rows import mean_row, one_row_for_all
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.config.method_text import parse_method
from raysim.context import Context, Setting, State
from raysim.defense import Defense, chain, check_setting, judged
from raysim.errors import ConfigError, unknown_name
from raysim.matrix.updates import Updates
from raysim.options import NotNegative, Positive, PositiveInt, construct
from raysim.requirement import Requirement

FROM_UPDATES = {Requirement.GRAM, Requirement.ORDER_STATISTICS, Requirement.LAST_LAYER}
"""What an attacker can work out from the updates it sees."""


@dataclass(frozen=True)
class LineSearched(Attack):
    """Base: every attacker submits one row a(x), x >= 0 the best found for |rule(all updates) - mean(benign updates)|.

    A rule that works with more than updates (the server's data, models) is refused. A rule that remembers is tried as in
    its first round, and draws its own randomness. x begins at `start`; steps of `step` double while the distance grows,
    then shrink by `contraction`, and each is kept if it gains, `evaluations` of the rule in all. A row beyond float32
    gains nothing.
    """

    visibility: ClassVar[Visibility] = Visibility.OMNISCIENT
    """Needs every benign update."""
    trains: ClassVar[bool] = False
    """No: what is submitted does not depend on the attacker's own model."""
    rule: Sequence[str] = ("trimmed_mean",)
    """The aggregation rule that is known, as `name,key=value`; several are chained."""
    evaluations: PositiveInt = 20
    """How often the rule is tried (ByzFL: 20)."""
    start: NotNegative = 0.0
    """Factor that the search begins with (ByzFL: 0)."""
    step: Positive = 10.0
    """First step of the search (ByzFL: 10)."""
    contraction: Annotated[float, Gt(0.5), Lt(1)] = 0.8
    """Factor on the steps after the first that does not gain (ByzFL: 0.8)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.known_rule  # refuses what it cannot be

    @property
    def known_rule(self) -> Defense:
        """The rule, or the chain of its steps; ConfigError for what is none, or needs more than updates."""
        from defenses.table import DEFENSES

        if not self.rule:
            raise ConfigError("rule", "must name a rule", "")
        steps = []
        for text in self.rule:
            options = parse_method("rule", text)
            name = str(options.pop("name"))
            if name not in DEFENSES:
                raise unknown_name("rule", name, DEFENSES)
            step = construct(DEFENSES[name], options)
            if step.calibration or not step.needed() <= FROM_UPDATES:
                raise ConfigError("rule", "must work with updates alone", text, "trimmed_mean")
            steps.append(step)
        return chain(*steps)

    def check(self, setting: Setting) -> None:
        """The rule must suit the setting."""
        check_setting(self.known_rule, setting)

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The row of the best factor, for every attacker."""
        if view.benign is None or not view.benign.num_clients:
            return None, {}
        benign, seen = view.benign, replace(ctx, server_data=None, truth=None)
        mean = mean_row(benign, "line_search")
        along, rule = self.direction(benign, mean), self.known_rule

        def crafted(factor: float) -> Updates:
            return one_row_for_all(benign, view.own, "line_search", along(factor))

        def distance(factor: float) -> float:
            rows = crafted(factor)
            if not np.isfinite(rows.maxima()).all():
                return -np.inf
            verdict, _ = judged(rule, rule.init(seen), benign.replace_rows(rows), seen)
            return float(np.linalg.norm(verdict.aggregate - mean))

        factor, gained = line_search(distance, self.start, self.step, self.evaluations, self.contraction)
        return crafted(factor), {"factor": factor, "distance": gained}

    def direction(self, benign: Updates, mean: np.ndarray) -> Callable[[float], np.ndarray]:
        """The row [d] float64 that a factor stands for."""
        raise TypeError(f"{type(self).__name__} must define direction(benign, mean)")

    def diagnostics(self, state: State) -> Diagnostics:
        """factor: the best found; distance: how far it takes the rule from the benign mean."""
        return dict(state)


def line_search(
    value: Callable[[float], float], start: float, step: float, evaluations: int, contraction: float
) -> tuple[float, float]:
    """(x, value(x)) of the largest value found from `start` upwards, in `evaluations` evaluations.

    What it steps over is not looked at again:

    >>> line_search(lambda x: -abs(x - 25.0), 0.0, 10.0, 40, 0.8)
    (30.0, -5.0)
    """
    best, largest = start, value(start)
    growing = True
    for _ in range(evaluations - 1):
        trial = value(best + step)
        better = trial > largest
        if better:
            best, largest = best + step, trial
        growing = growing and better
        step *= 2 if growing else contraction
    return best, largest
