"""Carrying an experiment through: news, checkpoints, and where a run goes on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from raysim import Defense, Verdict
from raysim.backends.base import InProcessBackend, Needs
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.experiment import RunState
from raysim.errors import LostWork, RecordError, RunError
from raysim.runs import checkpoint
from raysim.runs.directory import RunDirectory, digest
from raysim.runs.execution import execute, resume_state
from raysim.runs.resuming import configuration_digest
from tests import federations


@dataclass(frozen=True)
class Unsaveable(Defense):
    """Remembers a set, which no checkpoint holds."""

    def apply(self, state, updates, ctx):
        return Verdict(updates.combine(updates.shares), updates.shares), {"seen": {1, 2}}


def carry_out(config, path, observe=lambda event: None):
    experiment = compose(ExperimentConfig.from_mapping(config))
    backend = InProcessBackend()
    directory = RunDirectory(path)
    return execute(experiment.published(backend), backend, directory, observe)


def test_news_of_every_stage_and_every_round_in_order(tiny, tmp_path):
    events = []
    carry_out(tiny, tmp_path, events.append)
    assert [event.round for event in events] == sorted(event.round for event in events)
    assert {event.rounds for event in events} == {3}
    ends = [event for event in events if event.row]
    assert [event.row["round"] for event in ends] == [event.round for event in ends] == [0, 1, 2]
    assert events[-1] is ends[-1]
    first = [(event.stage, event.done, event.total) for event in events if event.round == 0 and not event.row]
    assert first[:4] == [("train", done, 3) for done in range(4)]
    assert first[-1][0] == "evaluate"
    accuracies = RunDirectory(tmp_path).read("rounds")["main_accuracy"].to_pylist()
    assert [event.row["main_accuracy"] for event in ends] == accuracies
    times = [event.at_s for event in events]
    assert times == sorted(times)


def test_the_digest_is_that_of_the_last_checkpoint_and_is_written_down(tiny, tmp_path):
    final = carry_out(tiny, tmp_path)
    newest = checkpoint.checkpoints(tmp_path / "checkpoints")[-1]
    state = RunState.from_tree(checkpoint.load(newest))
    assert state.round == 3
    assert digest(state.global_vector) == final
    assert (tmp_path / "digest.txt").read_text() == f"{final}  global parameters\n"


@pytest.mark.parametrize(
    ("every", "keep", "expected"),
    [
        (2, 3, ["round-000002", "round-000004", "round-000005"]),
        (1, 2, ["round-000004", "round-000005"]),
        (9, 2, ["round-000005"]),
    ],
)
def test_checkpoints_come_as_often_as_asked_and_always_at_the_end(tiny, tmp_path, every, keep, expected):
    carry_out({**tiny, "rounds": 5, "checkpoint": {"every": every, "keep": keep}}, tmp_path)
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == expected


def test_writing_and_saving_have_spans_of_their_own(tiny, tmp_path):
    carry_out(tiny, tmp_path)
    stages = {span["stage"] for span in RunDirectory(tmp_path).read("spans").to_pylist()}
    assert {"record", "checkpoint"} <= stages


def test_a_state_no_checkpoint_holds_is_an_error_that_names_it(tiny, tmp_path):
    with pytest.raises(RunError, match=r"^round 0, stage checkpoint: state at /defense/seen holds a set"):
        carry_out({**tiny, "defense": f"{__name__}:Unsaveable"}, tmp_path)
    assert RunDirectory(tmp_path).finished_rounds() == 1


def test_a_run_goes_on_from_the_newest_checkpoint(tiny, tmp_path):
    carry_out(tiny, tmp_path)
    experiment = compose(ExperimentConfig.from_mapping({**tiny, "rounds": 5}))
    directory = RunDirectory(tmp_path)
    newest = checkpoint.checkpoints(tmp_path / "checkpoints")[-1]
    checkpoint.save(tmp_path / "checkpoints", 2, {**checkpoint.load(newest), "round": 2}, keep=9)
    assert resume_state(experiment, InProcessBackend(), directory).round == 3
    assert directory.finished_rounds() == 3


def test_rounds_after_the_checkpoint_are_dropped(tiny, tmp_path):
    carry_out({**tiny, "checkpoint": {"every": 1, "keep": 3}}, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "round-000003")
    experiment = compose(ExperimentConfig.from_mapping(tiny))
    directory = RunDirectory(tmp_path)
    assert resume_state(experiment, InProcessBackend(), directory).round == 2
    assert directory.finished_rounds() == 2
    shutil.rmtree(tmp_path / "checkpoints")
    state = resume_state(experiment, InProcessBackend(), directory)
    assert (state.round, state.previous_vector) == (0, None)
    np.testing.assert_array_equal(state.global_vector, experiment.initial)
    assert directory.finished_rounds() == 0


def test_a_checkpoint_of_another_model_is_refused(tiny, tmp_path):
    carry_out({**tiny, "rounds": 1}, tmp_path)
    other = compose(ExperimentConfig.from_mapping({**tiny, "model": {"name": "lenet_wang", "width": 0.1}}))
    with pytest.raises(RecordError, match="round-000001 is foreign: it was saved with another configuration"):
        resume_state(other, InProcessBackend(), RunDirectory(tmp_path))
    (saved,) = checkpoint.checkpoints(tmp_path / "checkpoints")
    belongs_to = configuration_digest(other.config)
    checkpoint.save(saved.parent, 1, checkpoint.load(saved), keep=1, configuration=belongs_to)
    with pytest.raises(RecordError, match=rf"holds 13706 values, this model {other.initial.size}"):
        resume_state(other, InProcessBackend(), RunDirectory(tmp_path))
    assert RunDirectory(tmp_path).finished_rounds() == 1


class Losing(InProcessBackend):
    """`lose` makes everything that tasks left behind so far lie nowhere, as if on a node that is lost."""

    def __init__(self):
        super().__init__()
        self.left, self.gone = [], []

    def lose(self):
        self.gone = list(self.left)

    def get(self, reference):
        if any(reference is lost for lost in self.gone):
            raise LostWork("gone with its node")
        return super().get(reference)

    def map(self, stage, fn, items, *, keep=0, needs=Needs()):
        found = super().map(stage, fn, items, keep=keep, needs=needs)
        self.left += [reference for references, _ in found for reference in references] if keep else []
        return found


REMEMBERS = {
    **federations.tiny(),
    "rounds": 5,
    "population": {"clients": 10, "malicious": 2, "cohort": 7},
    "defense": "tests.tiled_methods:Remembers",
}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """(The run of REMEMBERS in which nothing was lost, its digest)."""
    directory = RunDirectory(tmp_path_factory.mktemp("calm"))
    return directory, carry_out(REMEMBERS, directory.path)


@pytest.mark.parametrize(("every", "goes_on"), [(1, 3), (2, 2), (9, 0)])
def test_a_memory_that_is_lost_with_a_node_comes_back_from_the_checkpoint(calm, tmp_path, every, goes_on):
    config, lost = {**REMEMBERS, "checkpoint": {"every": every}}, RunDirectory(tmp_path)
    undisturbed, expected = calm
    events, backend = [], Losing()

    def disturb(event):
        events.append(event)
        if event.row and event.round == 2 and not backend.gone:
            backend.lose()

    experiment = compose(ExperimentConfig.from_mapping(config)).published(backend)
    assert execute(experiment, backend, lost, disturb) == expected
    assert (lost.path / "clients.parquet").read_bytes() == (undisturbed.path / "clients.parquet").read_bytes()
    (remark,) = [event.remark for event in events if "gone with its node" in event.remark]
    assert remark.endswith(f"goes on from the state after {goes_on} rounds")
    assert [event.round for event in events if event.row] == [0, 1, 2, *range(goes_on, 5)]
    again = [span for span in lost.read("spans").to_pylist() if span["stage"] == "restart"]
    assert [(span["round"], span["retries"]) for span in again] == [(goes_on, 1)]


def test_a_run_that_loses_its_memory_time_and_again_says_so(tiny, tmp_path):
    config = {**tiny, "defense": "tests.tiled_methods:Remembers", "checkpoint": {"every": 9}}
    backend = Losing()

    def disturb(event):
        if event.row:
            backend.lose()

    experiment = compose(ExperimentConfig.from_mapping(config)).published(backend)
    with pytest.raises(RunError, match=r"round 1.*gone with its node"):
        execute(experiment, backend, RunDirectory(tmp_path), disturb)
    assert RunDirectory(tmp_path).finished_rounds() == 1
