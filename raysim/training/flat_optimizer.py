"""torch's optimizers on one flat parameter: the same arithmetic as on many, one call a step.

Built on torch's functional optimizers: constructing `torch.optim.Optimizer` imports torch's compiler, which costs
every worker process over a second and nothing here uses.
"""

from __future__ import annotations

import torch
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from raysim.errors import ConfigError

OPTIMIZERS = ("sgd", "adam", "adamw")

BETAS, EPS = (0.9, 0.999), 1e-8
"""torch's defaults for Adam and AdamW."""


class FlatOptimizer:
    """Moves `parameters` [d] or [g, d] in place along `gradient` of the same shape, by name of the rule.

    Its memory starts afresh with each instance. learning_rate may be changed between steps.
    """

    def __init__(
        self,
        parameters: torch.Tensor,
        gradient: torch.Tensor,
        name: str,
        learning_rate: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        if name not in OPTIMIZERS:
            raise ConfigError("training.optimizer.name", f"must be one of {', '.join(OPTIMIZERS)}", name)
        self.parameters, self.gradient, self.name = parameters, gradient, name
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self._velocity: list[torch.Tensor | None] = [None]
        self._moments = [] if name == "sgd" else [torch.zeros_like(parameters) for _ in range(2)]
        self._steps = torch.tensor(0.0)

    @torch.no_grad()
    def step(self, rows: int | None = None) -> None:
        """One step; of the first `rows` rows of [g, d] only, if given: never more of them than in the step before."""
        part = slice(None) if rows is None else slice(rows)
        parameters, gradient = [self.parameters[part]], [self.gradient[part]]
        if self.name == "sgd":
            velocity = [None if held is None else held[part] for held in self._velocity]
            sgd(
                parameters,
                gradient,
                velocity,
                momentum=self.momentum,
                dampening=0.0,
                nesterov=False,
                lr=self.learning_rate,
                weight_decay=self.weight_decay,
                maximize=False,
                foreach=False,
            )
            if self._velocity[0] is None:
                self._velocity = velocity
            return
        rule = adam if self.name == "adam" else adamw
        first, second = ([held[part]] for held in self._moments)
        rule(
            parameters, gradient, first, second, [], [self._steps],
            amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], eps=EPS,
            lr=self.learning_rate, weight_decay=self.weight_decay, maximize=False, foreach=False,
        )  # fmt: skip
