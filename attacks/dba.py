"""DBA: a trigger dealt to four kinds of attackers, a strip each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from attacks.trigger import StampedBackdoor
from attacks.triggers import dba_strips
from raysim.attack import ClientContext
from raysim.data.client_data import ClientData
from raysim.options import Count


@dataclass(frozen=True)
class DBA(StampedBackdoor):
    """Distributed backdoor: attacker m stamps strip m mod 4, success is measured with all four.

    Xie et al. (ICLR 2020). The colluders share the plan and nothing else. A single attacker stamps all four, as
    the published code does. With `shots` attacker m poisons in round shots[m mod len(shots)] alone and is honest in the
    others; the paper sees to it that these attackers are drawn into the cohort, here a client that is not drawn in its
    round loses its shot.
    Published settings: single shots after pretraining in rounds 12, 14, 16, 18 (from 1) on MNIST and 203, 205, 207, 209
    on CIFAR-10; learning_rate .05 (FedGrad .1), epochs 10 on MNIST and 6 on CIFAR-10, scale 100 with a server rate of .1
    for single shots, no scaling otherwise; poisoned_data_rate 5/64 on CIFAR-10 in its code, 20/64 on MNIST (FedGrad: 5/64
    on MNIST, 6/25 on CIFAR-10). Its learning rate is divided by ten after .2 and .8 of the epochs where those are whole
    numbers: decay_epochs [2, 8] for 10. FLPoison: segment 8, gap 2.
    """

    paper = "Xie et al., ICLR 2020"
    shots: Sequence[Count] = ()
    """Rounds, from 0, in which attackers 0, 1, ... poison, each in one; empty: in every active round."""

    def pixels(self, height: int, width: int, ctx: ClientContext | None) -> np.ndarray:
        """The client's own strip; all four for a lone attacker and for the test."""
        if ctx is None or ctx.num_colluders == 1:
            return super().pixels(height, width, ctx)
        return dba_strips(height, width, self.segment, self.gap)[ctx.colluder % 4]

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """As every stamped backdoor; honest outside the client's shot."""
        if self.shots and ctx.round != self.shots[ctx.colluder % len(self.shots)]:
            return honest_train(data)
        return super().train(honest_train, data, ctx)
