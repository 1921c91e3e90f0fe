"""Ctrl-C and SIGTERM: what a run that is ended from outside keeps and says, and that it goes on to the same bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import raysim
from raysim.cli.main import app
from raysim.interruption import Terminated, status_of, terminable, terminable_still
from raysim.runs import checkpoint
from raysim.runs.directory import RunDirectory

DONE = 2
"""Rounds that are finished when the signal comes; no checkpoint is due before the last one, after round 4."""
PATIENCE_S = 300
"""A start of Ray takes seconds on a quiet machine, and minutes on one that does much else."""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell lets its background jobs ignore SIGINT, and the tests may be one of them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "waits"


def words(marker: Path, **options: object) -> list[str]:
    waiting = {
        "name": "tests.faulty_methods:WaitWhileJudging",
        "marker": str(marker),
        "round": DONE,
        **options,
    }
    return [
        "rounds=4", "population.clients=6", "population.malicious=1", "data.limit=200", "checkpoint.every=4",
        "resources.clients_per_actor=6", f"defense={waiting}",
    ]  # fmt: skip


def undisturbed(out: Path, overrides: list[str]) -> str:
    """The digest, where the marker lies there already."""
    return raysim.run(raysim.load_config(None, overrides), name="calm", out=out, backend="inprocess").digest


def ended(path: Path) -> None:
    """Two rounds are whole, the second is saved, and there is a report of them."""
    directory = RunDirectory(path)
    assert directory.finished_rounds() == DONE
    assert [saved.name for saved in checkpoint.checkpoints(path / "checkpoints")] == [f"round-00000{DONE}"]
    assert not (path / "parts").exists()
    assert not (path / "digest.txt").exists()
    assert "<h1>run</h1>" in (path / "report.html").read_text()


def started(out: Path, overrides: list[str], *more: str, code: str = "") -> subprocess.Popen[str]:
    """`raysim run` in a session of its own, as under a terminal; its report is not drawn (see conftest.py)."""
    undrawn = "import raysim.report.page as page; page.data_uri = lambda figure: 'data:,'"
    program = f"import sys; {code}\n{undrawn}\nfrom raysim.cli.main import main; main()"
    command = ["run", *overrides, "--out", str(out), "--name", "run", *more]
    return subprocess.Popen(
        [sys.executable, "-c", program, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.02)


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: file.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()


def send_myself(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)
    raise AssertionError("not reached")


def answer_and_receive_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    send_myself(signal.SIGTERM)


def test_a_signal_is_a_status_and_sigterm_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught, terminable():
        send_myself(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (status_of(caught.value), status_of(KeyboardInterrupt())) == (143, 130)


def test_what_sigterm_interrupts_may_raise_keyboard_interrupt_instead():
    """As Ray's `wait` does."""

    def wait() -> None:
        try:
            send_myself(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with pytest.raises(Terminated), terminable():
        wait()


def test_a_library_that_answers_sigterm_itself_takes_nothing_away():
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        ours = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Terminated), terminable_still():
            answer_and_receive_sigterm()
        assert signal.getsignal(signal.SIGTERM) is ours
    with pytest.raises(SystemExit), terminable_still():
        sys.exit(3)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_keeps_finished_rounds_and_says_how_to_go_on(tmp_path: Path, marker: Path):
    overrides = words(marker)
    process = started(tmp_path, overrides, "--backend", "inprocess")
    wait_for(marker, process)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    path = tmp_path / "run"
    going_on = f"raysim resume {path} --backend inprocess"
    assert errors == f"interrupted: {DONE} of 4 rounds are kept in {path}; to go on: {going_on}\n"
    assert "note: stopping; the last finished round is being saved" in output
    assert output.endswith(f"report  {path}/report.html\n")
    ended(path)
    assert raysim.resume(path, backend="inprocess").digest == undisturbed(tmp_path, overrides)


def test_sigterm_does_the_same_with_its_own_status(tmp_path: Path, marker: Path):
    overrides = words(marker, sends=[int(signal.SIGTERM)])
    command = ["run", *overrides, "--out", str(tmp_path), "--name", "run", "--backend", "inprocess"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 143
    assert result.stderr.startswith(f"interrupted: {DONE} of 4 rounds are kept in ")
    ended(tmp_path / "run")
    again = CliRunner().invoke(app, ["resume", str(tmp_path / "run"), "--backend", "inprocess"])
    assert again.exit_code == 0, again.stderr
    digest = (tmp_path / "run" / "digest.txt").read_text().split()[0]
    assert digest == undisturbed(tmp_path, overrides)


def test_a_second_ctrl_c_waits_for_nothing_and_damages_nothing(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
):
    overrides = words(marker, sends=[int(signal.SIGINT)])

    # In the middle of a checkpoint:
    monkeypatch.setattr(checkpoint, "sync", lambda path: send_myself(signal.SIGINT))
    command = ["run", *overrides, "--out", str(tmp_path), "--name", "run", "--backend", "inprocess"]
    result = CliRunner().invoke(app, command)
    monkeypatch.undo()
    assert result.exit_code == 130
    path = tmp_path / "run"
    assert f"{DONE} of 4 rounds are kept in {path}" in result.stderr
    assert list((path / "checkpoints").iterdir()) == []
    assert RunDirectory(path).finished_rounds() == DONE
    assert raysim.resume(path, backend="inprocess").digest == undisturbed(tmp_path, overrides)


def test_before_the_run_has_begun_there_is_nothing_to_go_on_with(tmp_path: Path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(raysim.runs.runner, "compose", interrupted)
    command = ["run", "rounds=1", "--out", str(tmp_path / "runs"), "--name", "run", "--backend", "inprocess"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_saves_its_last_finished_round_too(tmp_path: Path):
    failing = {
        "name": "tests.stateful_methods:Reputation",
        "fail_in": 3,
        "marker": str(tmp_path / "repaired"),
    }
    config = {"rounds": 5, "data": {"limit": 200}, "defense": failing, "checkpoint": {"every": 5}}
    with pytest.raises(raysim.RunError, match="round 3"):
        raysim.run(config, name="run", out=tmp_path, backend="inprocess")
    (saved,) = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoint.rounds_done(saved) == 3


@pytest.mark.ray
def test_ctrl_c_on_ray(tmp_path: Path, marker: Path):
    """The signal goes to the whole group, as a terminal sends it; afterwards none of its processes is left."""
    overrides = words(marker)
    process = started(tmp_path, overrides)
    wait_for(marker, process)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    path = tmp_path / "run"
    assert process.returncode == 130, errors
    assert errors == f"interrupted: {DONE} of 4 rounds are kept in {path}; to go on: raysim resume {path}\n"
    lines = output.splitlines()
    waits = [line for line in lines if line.endswith(" ...")]
    assert waits[:2] == ["starting Ray on this machine ...", "starting the server's process ..."]
    assert waits[2].endswith("actors that host the clients ...")
    assert lines.index(waits[2]) < next(n for n, line in enumerate(lines) if line.startswith("round 0 "))
    ended(path)
    wait_until(lambda: not in_group(process.pid))
    assert raysim.resume(path, backend="inprocess").digest == undisturbed(tmp_path, overrides)


@pytest.mark.ray
def test_a_machine_killed_on_ray_leaves_a_run_that_goes_on(tmp_path: Path, marker: Path):
    """SIGKILL of the driver and all of Ray's processes: nothing can be saved or said; finished rounds are whole."""
    overrides = [*words(marker), "checkpoint.every=1"]
    process = started(tmp_path, overrides)
    wait_for(marker, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "digest.txt").exists()
    wait_until(lambda: not in_group(process.pid))
    assert RunDirectory(tmp_path / "run").finished_rounds() == DONE
    assert raysim.resume(tmp_path / "run", backend="inprocess").digest == undisturbed(tmp_path, overrides)


def in_group(number: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if process.status() != "zombie" and os.getpgid(process.pid) == number:
                found.append(process.pid)
    return found


@pytest.mark.ray
def test_sigterm_on_ray(ray_cluster: None, tmp_path: Path, marker: Path):
    """It arrives while Ray's `wait` waits, and has its own status all the same; the cluster is not this run's to end."""
    overrides = words(marker)

    def send() -> None:
        wait_until(marker.exists)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    result = CliRunner().invoke(app, ["run", *overrides, "--out", str(tmp_path), "--name", "run"])
    sender.join()
    assert result.exit_code == 143, result.output
    ended(tmp_path / "run")
    assert raysim.resume(tmp_path / "run").digest == undisturbed(tmp_path, overrides)
