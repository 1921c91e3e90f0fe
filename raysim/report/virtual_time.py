"""The simulated rounds of a run whose clients have devices, and the verdict's cost beside them.

Virtual seconds are those of the clients' devices; the verdict's are wall-clock seconds of the defense here, on the machines
that ran it. Both together are how long a round of that federation takes on a server like these machines: the verdict delays it by
its share of the virtual seconds. The virtual clock itself leaves it out, since it must not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from raysim.formats import UNDEFINED, seconds
from raysim.report.cost_figures import OWNER_COLOURS, OWNER_HATCHES
from raysim.report.drawing import GREEN, PAPER, WIDE, dressed, figure_of, legend_above, round_axis
from raysim.report.finished_run import Columns
from raysim.report.stage_costs import cost, owner_seconds, recorded_rounds


@dataclass(frozen=True)
class VirtualTime:
    """The rounds that have virtual time, ascending [R]; verdict_s is 0 where the defense ran no stage.

    staleness [R, 2]: mean and largest of each round's updates; None where rounds were synchronous.
    """

    rounds: NDArray[np.int64]
    start_s: NDArray[np.float64]
    virtual_s: NDArray[np.float64]
    verdict_s: NDArray[np.float64]
    staleness: NDArray[np.float64] | None = None

    @property
    def delay(self) -> NDArray[np.float64]:
        """The verdict's seconds as a share of the round's virtual seconds [R]."""
        return self.verdict_s / self.virtual_s

    @property
    def rows(self) -> list[tuple[int, float, float, float, float]]:
        """(round, start_s, virtual_s, verdict_s, delay) of every round."""
        columns = (self.rounds, self.start_s, self.virtual_s, self.verdict_s, self.delay)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    @property
    def sentence(self) -> str:
        """How long a simulated round takes, and by how much the verdict delays it: medians without the first round."""
        round_s, verdict_s, delay = map(cost, (self.virtual_s, self.verdict_s, self.delay))
        alone = len(self.rounds) == 1
        shown = [part.first_s if alone else part.median_s for part in (round_s, verdict_s, delay)]
        share = UNDEFINED if shown[2] != shown[2] else f"{100 * shown[2]:.2g} %"
        return (
            f"a simulated round takes {seconds(shown[0])} of virtual time, and the verdict delays it by "
            f"{seconds(shown[1])} here, {share}; {seconds(round_s.total_s)} in {len(self.rounds)} rounds"
        )


def virtual_time(rounds: Columns, spans: Columns) -> VirtualTime | None:
    """The virtual time of a run; None if its clients had no devices."""
    known = np.flatnonzero(rounds["virtual_s"] > 0)
    if not len(known):
        return None
    numbers = rounds["round"][known]
    recorded = recorded_rounds(spans)
    verdict = np.nan_to_num(owner_seconds(spans).get("defense", np.zeros(len(recorded))))
    stale = np.stack([rounds["staleness_mean"], rounds["staleness_max"]], axis=1)[known]
    by_round = dict(zip(recorded.tolist(), verdict.tolist(), strict=True))
    return VirtualTime(
        rounds=numbers,
        start_s=rounds["virtual_start_s"][known],
        virtual_s=rounds["virtual_s"][known],
        verdict_s=np.array([by_round.get(number, 0.0) for number in numbers.tolist()]),
        staleness=None if np.isnan(stale).all() else stale,
    )


def virtual_stack(time: VirtualTime, width: float = WIDE) -> Figure:
    """Virtual seconds of every round, and the verdict's on top of them."""
    figure, axes = figure_of(width, 2.8)
    bar = 0.8 if len(time.rounds) <= 80 else 1.0
    axes.bar(time.rounds, time.virtual_s, width=bar, color=GREEN)
    above = axes.bar(
        time.rounds, time.verdict_s, bottom=time.virtual_s, width=bar, color=OWNER_COLOURS["defense"]
    )
    for patch in above:
        patch.set(hatch=OWNER_HATCHES["defense"], edgecolor=PAPER, linewidth=0.0)
    dressed(axes)
    round_axis(axes, time.rounds)
    axes.set_ylabel("seconds")
    defense = Patch(facecolor=OWNER_COLOURS["defense"], hatch=OWNER_HATCHES["defense"], label="verdict, wall")
    legend_above(axes, [Patch(facecolor=GREEN, label="clients' devices, virtual"), defense], width)
    return figure
