"""What is shown while a run goes on: a live display on a terminal, one line a round anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from math import isnan
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from raysim.formats import duration, percent, rate
from raysim.metrics import Detection, mean_detection
from raysim.report import remarks
from raysim.round_notes import UNDEFINED as NO_RATES
from raysim.round_notes import notes_of
from raysim.trees import Row

if TYPE_CHECKING:
    from raysim.runs.execution import Progress

"""Shown for a value that is not defined, or not yet."""

CLIENTS_WORK = ("train", "draw")
"""The stages in which the cohort's clients are at work, or their updates drawn."""


@dataclass
class Standing:
    """State of a run, updated from its progress events.

    cohort: clients in a round. earlier: rows of `rounds` from before a resume; those the resumed run does again
    are left out.
    """

    cohort: int
    earlier: Sequence[Row] = ()
    now: Progress | None = None
    rows: list[Row] = field(default_factory=list)
    detection: Detection = field(default_factory=lambda: mean_detection([])[0])
    rounds_here: int = 0
    began_s: float = 0.0
    first_round_ended_s: float = 0.0
    round_ended_s: float = 0.0

    def note(self, news: Progress) -> None:
        """Take one piece of news into account."""
        if self.now is None:
            self.began_s = self.round_ended_s = news.at_s
            self.rows = [row for row in self.earlier if row["round"] < news.round]
        self.now = news
        if news.row:
            self.rows.append(news.row)
            self.rounds_here += 1
            self.round_ended_s = news.at_s
            if self.rounds_here == 1:
                self.first_round_ended_s = news.at_s
            names = [entry.name for entry in fields(Detection)]
            self.detection, _ = mean_detection(
                [Detection(**{name: row[name] for name in names}) for row in self.rows]
            )

    @property
    def rounds_done(self) -> int:
        """How many rounds are finished, those from before a resume included."""
        return len(self.rows)

    @property
    def clients_done(self) -> int:
        """Clients of this round whose updates are there. Hosts report whole blocks of clients: correct to one block."""
        if self.now is None or self.now.stage not in CLIENTS_WORK:
            return self.cohort
        return self.cohort * self.now.done // max(self.now.total, 1)

    @property
    def seconds_left(self) -> float:
        """Time left at the mean pace of the rounds done here, the first counting only while it is the only one:
        processes warm up in it. NaN before that.
        """
        if self.now is None or not self.rounds_here:
            return float("nan")
        pace = self.round_ended_s - self.began_s
        if self.rounds_here > 1:
            pace = (self.round_ended_s - self.first_round_ended_s) / (self.rounds_here - 1)
        return max(0.0, pace * (self.now.rounds - self.rounds_done) - (self.now.at_s - self.round_ended_s))

    @property
    def accuracy(self) -> str:
        """Main accuracy after the last round that was evaluated, and attack success if it is measured."""
        text = percent(self._last("main_accuracy"))
        success = self._last("attack_success_rate")
        return text if isnan(success) else f"{text}, attack success {percent(success)}"

    @property
    def rates(self) -> str:
        """Mean detection rates over the rounds so far."""
        mean = self.detection
        return f"recall {rate(mean.recall)}, precision {rate(mean.precision)}, FPR {rate(mean.fpr)}"

    @property
    def line(self) -> str:
        """The round that has just ended, in one line."""
        assert self.now is not None, "there was news"
        text = (
            f"round {self.now.round} ({self.rounds_done} of {self.now.rounds}): accuracy {self.accuracy}; "
            f"so far {self.rates}; {duration(self.seconds_left)} left"
        )
        return "; ".join([text, *remarks.of_round(self.rows[-1])])

    def _last(self, column: str) -> float:
        known = (
            float(row[column])
            for row in reversed(self.rows)
            if not isnan(row[column]) or NO_RATES in notes_of(row["notes"])
        )
        return next(known, float("nan"))


class Display:
    """Follows a run on a console: call it with every Progress, inside its own `with`.

    title: what is run, printed with the first news; it may be set until then.
    """

    def __init__(self, console: Console, title: str = "") -> None:
        self.console, self.title = console, title
        self.standing = Standing(cohort=0)
        self._headed = False
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._awaited, self._since = "starting", time.monotonic()
        self._spinner = Spinner("dots")
        self._live = Live(self, console=console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Display:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, news: Progress) -> None:
        """Show one piece of news."""
        if not self._is_live and not self._headed:
            self.console.print(self.title)
        self._headed = True
        if news.remark:
            self.console.print(f"note: {news.remark}", soft_wrap=True)
            return
        if news.awaited:
            self._awaited, self._since = news.awaited, time.monotonic()
            if not self._is_live:
                self.console.print(f"{news.awaited} ...", soft_wrap=True)
            return
        self._awaited = ""
        self.standing.note(news)
        if news.row and not self._is_live:
            self.console.print(self.standing.line)

    def __rich__(self) -> Table:
        """The live display as it is now."""
        standing, now = self.standing, self.standing.now
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", width=9)
        table.add_column()
        if self.title:
            table.add_row("run", self.title)
        if now is None:
            table.add_row("now", self._waiting())
            return table
        count = f"{standing.rounds_done} of {now.rounds}"
        if not isnan(standing.seconds_left):
            count += f", {duration(standing.seconds_left)} left"
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(total=now.rounds, completed=standing.rounds_done, width=28), count)
        table.add_row("rounds", bar)
        table.add_row("now", self._waiting() if self._awaited else self._doing(now))
        table.add_row("accuracy", standing.accuracy)
        for remark in remarks.of_round(standing.rows[-1]) if standing.rows else ():
            table.add_row("note", remark)
        table.add_row("detection", f"{standing.rates} (mean so far)")
        return table

    def _waiting(self) -> Spinner:
        """What the run waits for, and how long it has."""
        self._spinner.update(text=f"{self._awaited}, {int(time.monotonic() - self._since)} s")
        return self._spinner

    def _doing(self, now: Progress) -> str:
        text = f"round {now.round}, {self.standing.clients_done} of {self.standing.cohort} clients done"
        return f"{text}, {now.stage}" if now.stage else text
