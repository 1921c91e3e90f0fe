"""LFR: loss function based rejection (Fang, Cao, Jia and Gong, USENIX Security 2020, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

from defenses.leave_one_out import ImpactDefense
from raysim.context import Context, State
from raysim.defense import Verdict
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class LFR(ImpactDefense):
    """Drops the clients without which the rule's aggregate has the smallest loss on the server's data.

    The metric is the mean cross-entropy. Fang et al. and PDRR drop exactly num_byzantine clients. See
    leave_one_out.py for the rules and the impact.
    """

    paper = "Fang et al., USENIX Security 2020"
    judges_buffers = True
    on_buffers = (
        "it tests the newest model moved by what the rule makes of the buffer, which is what the server would "
        "take over"
    )
    reads_columns = True

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Evaluate K + 1 aggregates, drop by loss impact, aggregate the rest."""
        return self.judge(updates, ctx, by_error=False), state
