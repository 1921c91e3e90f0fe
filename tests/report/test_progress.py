from __future__ import annotations

import io
from math import isnan, nan
from typing import Any

import pytest
from rich.console import Console

from raysim.formats import duration
from raysim.report.progress import Display, Standing
from raysim.runs.execution import Progress


def row(number: int, **values: float) -> dict[str, Any]:
    rates: dict[str, Any] = {
        "notes": "",
        "clients": 24,
        **dict.fromkeys(("recall", "precision", "fpr", "acc", "f1", "auc_hard", "auc_score"), nan),
    }
    return {"round": number, "main_accuracy": 0.5, "attack_success_rate": nan, **rates, **values}


def test_time_left_follows_the_pace_of_the_rounds_after_the_first():
    standing = Standing(cohort=4)
    assert isnan(standing.seconds_left)
    standing.note(Progress(0, 10, "train", 0, 2, at_s=100.0))
    assert isnan(standing.seconds_left)
    standing.note(Progress(0, 10, row=row(0), at_s=130.0))
    assert standing.seconds_left == 9 * 30
    standing.note(Progress(1, 10, row=row(1), at_s=132.0))
    assert standing.seconds_left == 8 * 2
    standing.note(Progress(2, 10, "train", 1, 2, at_s=133.5))
    assert standing.seconds_left == 8 * 2 - 1.5
    standing.note(Progress(2, 10, "train", 2, 2, at_s=199.0))
    assert standing.seconds_left == 0


def test_clients_done_counts_the_blocks_that_have_trained():
    standing = Standing(cohort=24)
    counts = []
    for stage, done, total in [("train", 0, 4), ("train", 1, 4), ("train", 4, 4), ("gram", 0, 3)]:
        standing.note(Progress(0, 1, stage, done, total))
        counts.append(standing.clients_done)
    assert counts == [0, 6, 24, 24]


def test_rates_are_means_over_the_rounds_that_define_them():
    standing = Standing(cohort=4)
    standing.note(Progress(0, 3, row=row(0, recall=1.0, precision=0.25, fpr=0.5)))
    standing.note(Progress(1, 3, row=row(1, recall=0.5, fpr=0.0)))
    assert standing.rates == "recall 0.750, precision 0.250, FPR 0.250"


def test_rounds_before_a_resume_count_unless_they_are_done_again():
    standing = Standing(cohort=4, earlier=[row(0, recall=1.0), row(1, recall=1.0), row(2, recall=1.0)])
    standing.note(Progress(1, 4, "train", 0, 1, at_s=0.0))
    assert standing.rounds_done == 1
    standing.note(Progress(1, 4, row=row(1, recall=0.0), at_s=5.0))
    assert standing.rounds_done == 2
    assert standing.rates.startswith("recall 0.500")
    assert standing.seconds_left == 2 * 5


def test_accuracy_is_the_last_one_measured():
    standing = Standing(cohort=4)
    standing.note(Progress(0, 3, row=row(0, main_accuracy=0.25, attack_success_rate=0.125)))
    standing.note(Progress(1, 3, row=row(1, main_accuracy=nan)))
    assert standing.accuracy == "25.00 %, attack success 12.50 %"


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    shown = io.StringIO()
    return Console(file=shown, force_terminal=terminal, width=78, markup=False, highlight=False), shown


@pytest.fixture(autouse=True)
def _capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_the_live_display_shows_round_stage_clients_accuracy_detection_and_time_left():
    terminal, shown = console(terminal=True)
    display = Display(terminal, "runs/[bold]/first: noise against krum")
    display.standing.cohort = 24
    display(Progress(0, 20, row=row(0, recall=1.0, precision=0.5, fpr=0.25), at_s=0.0))
    display(Progress(1, 20, row=row(1, main_accuracy=0.9721, recall=1.0), at_s=3.0))
    display(Progress(2, 20, "train", 1, 2, at_s=4.0))
    assert shown.getvalue() == "", "a terminal gets the display alone"
    plain, _ = console(terminal=False)
    with plain.capture() as capture:
        plain.print(display)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines[0] == "run        runs/[bold]/first: noise against krum"
    assert lines[1].endswith("2 of 20, 0:00:53 left")
    assert lines[2:] == [
        "now        round 2, 12 of 24 clients done, train",
        "accuracy   97.21 %",
        "detection  recall 1.000, precision 0.500, FPR 0.250 (mean so far)",
    ]


def test_the_live_display_is_gone_when_it_ends():
    terminal, shown = console(terminal=True)
    with Display(terminal, "runs/first") as display:
        display(Progress(0, 2, "train", 0, 1))
    assert "runs/first" in shown.getvalue()
    erased = shown.getvalue().count("\x1b[2K")
    assert erased >= 5, "every line of the display is erased"


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "dumb")
    dumb, shown = console(terminal=True)
    with Display(dumb, "runs/first") as display:
        display(Progress(0, 1, row=row(0)))
    assert shown.getvalue().startswith("runs/first\nround 0 (1 of 1): ")
    assert "\x1b" not in shown.getvalue()


def test_elsewhere_there_is_a_title_and_one_line_a_round():
    pipe, shown = console(terminal=False)
    with Display(pipe, "runs/first") as display:
        assert shown.getvalue() == ""
        display(Progress(0, 2, "train", 0, 1, at_s=0.0))
        display(Progress(0, 2, row=row(0), at_s=2.0))
        display(Progress(1, 2, "train", 0, 1, at_s=2.0))
        display(Progress(1, 2, row=row(1), at_s=4.0))
    rates = "so far recall -, precision -, FPR -"
    assert (
        shown.getvalue().replace("\n", " ").split()
        == (
            f"runs/first round 0 (1 of 2): accuracy 50.00 %; {rates}; 0:00:02 left "
            f"round 1 (2 of 2): accuracy 50.00 %; {rates}; 0:00:00 left"
        ).split()
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_a_remark_is_printed_below_the_title_and_is_no_news_of_a_round(terminal: bool):
    where, shown = console(terminal=terminal)
    display = Display(where, "runs/first")
    display(Progress(0, 2, remark="labels [1, 2] are classes 0..1"))
    head = "" if terminal else "runs/first\n"
    assert shown.getvalue() == f"{head}note: labels [1, 2] are classes 0..1\n"
    assert display.standing.now is None


def test_what_a_run_waits_for_is_shown_and_is_no_news_of_a_round(monkeypatch: pytest.MonkeyPatch):
    pipe, shown = console(terminal=False)
    display = Display(pipe, "runs/first")
    display(Progress(0, 2, awaited="starting Ray on this machine"))
    assert shown.getvalue() == "runs/first\nstarting Ray on this machine ...\n"
    assert display.standing.now is None
    clock = iter([10.0, 17.9, 30.0, 31.0])
    monkeypatch.setattr("raysim.report.progress.time.monotonic", lambda: next(clock))
    terminal, written = console(terminal=True)
    live = Display(terminal, "runs/first")  # reads the clock
    with pipe.capture() as capture:
        pipe.print(live)
    assert "starting, 7 s" in capture.get()
    live(Progress(0, 2, "train", 0, 1))
    live(Progress(0, 2, awaited="starting the server's process"))
    with pipe.capture() as capture:
        pipe.print(live)
    assert "starting the server's process, 1 s" in capture.get()
    live(Progress(0, 2, "train", 0, 1))
    with pipe.capture() as capture:
        pipe.print(live)
    assert "0 of 0 clients done, train" in capture.get()
    assert written.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (nan, "-")]
)
def test_durations_read_as_clocks(seconds: float, text: str):
    assert duration(seconds) == text
