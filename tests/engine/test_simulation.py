"""The round loop, in-process: determinism, threat model, rows that must not be used, sampling, large populations."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

import raysim
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.data.assignment import Partition
from raysim.engine.cohort import draw_cohort
from raysim.engine.experiment import active_attackers


def run(config, tmp_path, name="run", **changes):
    return raysim.run({**config, **changes}, name=name, out=tmp_path, backend="inprocess")


def clients(result):
    return result.table("clients").to_pylist()


def test_same_configuration_same_bytes(tiny, tmp_path):
    first, second = run(tiny, tmp_path, "a"), run(tiny, tmp_path, "b")
    assert first.digest == second.digest
    assert (first.path / "clients.parquet").read_bytes() == (second.path / "clients.parquet").read_bytes()


def test_another_seed_gives_another_model(tiny, tmp_path):
    assert run(tiny, tmp_path, "a").digest != run(tiny, tmp_path, "b", seed=1).digest


@pytest.mark.parametrize(
    "model", [{"name": "lenet_wang", "width": 0.1}, {"name": "dba_resnet18", "width": 0.1}]
)
def test_row_blocks_and_shards_change_nothing(tiny, tmp_path, model):
    """Dropout and BatchNorm models: however the matrix is cut, the bytes are the same."""
    whole = run(tiny, tmp_path, "whole", model=model)
    cut = run(tiny, tmp_path, "cut", model=model, resources={"clients_per_actor": 3, "tile_bytes": 4096})
    assert cut.config.resources.column_shards >= whole.config.resources.column_shards
    assert whole.digest == cut.digest
    assert clients(whole) == clients(cut)


def test_the_global_torch_generator_is_left_alone(tiny, tmp_path):
    import torch

    torch.default_generator.manual_seed(5)
    before = torch.get_rng_state()
    run(tiny, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_federated_averaging_learns(tiny, tmp_path):
    result = run(
        tiny, tmp_path, attack=None, population={"clients": 10}, defense="fedavg", rounds=8,
        data={"name": "digits"}, training={"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.05, "momentum": 0.9}},
    )  # fmt: skip
    accuracies = [row["main_accuracy"] for row in result.rounds]
    assert accuracies[-1] > 0.8
    assert all(np.isnan(row["recall"]) for row in result.rounds)


def test_one_client_and_fedavg_is_plain_training(tiny, tmp_path):
    """With one client the round is that client's training: the aggregate is its update, whole."""
    from raysim.backends.base import ThreadLimit
    from raysim.engine.host import ClientHost, RoundOrder

    result = run(tiny, tmp_path, rounds=1, population={"clients": 1}, attack=None, defense="fedavg")
    experiment = compose(result.config)
    host = ClientHost(experiment.setup, *experiment.arrays)
    with ThreadLimit(1)():
        *tiles, _ = host.train(RoundOrder(0, 1), [0], experiment.initial, None)
    expected = experiment.initial + np.concatenate([tile[0] for tile in tiles])
    np.testing.assert_array_equal(result.global_vector, expected)


def test_the_attack_is_recorded_as_truth_and_krum_avoids_it(tiny, tmp_path):
    rows = clients(run(tiny, tmp_path))
    assert {row["client"] for row in rows if row["malicious"]} == {8, 9}
    assert all(row["weight"] == 0 for row in rows if row["malicious"])
    assert all(row["flagged"] for row in rows if row["malicious"])


def test_a_schedule_decides_when_clients_are_malicious(tiny, tmp_path):
    result = run(tiny, tmp_path, attack={"name": "noise", "schedule": {"start": 1, "stop": 2}})
    assert [row["malicious"] for row in result.rounds] == [0, 2, 0]


@pytest.mark.parametrize(
    ("what", "reason"),
    [("nan", "non-finite"), ("shape", "wrong shape"), ("none", "missing"), ("text", "not an array")],
)
def test_unusable_uploads_are_flagged_with_the_reason(tiny, tmp_path, what, reason):
    attack = {"name": "tests.faulty_methods:BadUpload", "what": what}
    result = run(tiny, tmp_path, attack=attack, defense="fedavg")
    for row in clients(result):
        assert row["flagged"] == row["malicious"]
        assert (reason in row["reason"]) == row["malicious"]
        assert (row["weight"] == 0) == row["malicious"]
    assert np.isfinite(result.global_vector).all()
    assert all(row["recall"] == 1 and row["fpr"] == 0 for row in result.rounds)


def test_crafted_rows_that_are_not_finite_are_flagged_with_the_reason(tiny, tmp_path):
    result = run(tiny, tmp_path, attack={"name": "tests.faulty_methods:BadCraft"}, defense="fedavg")
    for row in clients(result):
        assert row["reason"] == ("non-finite" if row["client"] == 8 else "")
    assert np.isfinite(result.global_vector).all()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("shape", r"BadCraft: rows must be numbers of shape \(2, 13706\), .*; received float32 \(2, 13705\)"),
        ("text", r"BadCraft: rows must be numbers .*; received <U3 \(2, 13706\)"),
        ("ragged", r"BadCraft: rows must be numbers .*; received list \[\[1.0\], \[1.0, 2.0\]\]"),
        ("others", r"BadCraft: rows must be for the attacker's clients 8, 9; received rows for 0, 1"),
        (
            "alone",
            r"BadCraft: its answer must be a pair \(rows or None, state\); received float32 \(2, 13706\)",
        ),
        ("state", r"BadCraft: its state must be a dict; received None; return \{\}"),
    ],
)
def test_crafted_rows_that_have_no_place_in_the_matrix_are_refused(tiny, tmp_path, what, said):
    attack = {"name": "tests.faulty_methods:BadCraft", "what": what}
    with pytest.raises(raysim.RunError, match=f"round 0, stage craft: {said}"):
        run(tiny, tmp_path, attack=attack, defense="fedavg")


def test_when_nothing_usable_is_left_the_global_model_stays(tiny, tmp_path):
    result = run(
        tiny, tmp_path, population={"clients": 4, "malicious": 4}, defense="fedavg",
        attack={"name": "tests.faulty_methods:BadUpload"},
    )  # fmt: skip
    np.testing.assert_array_equal(result.global_vector, compose(result.config).initial)
    assert [row["accepted"] for row in result.rounds] == [0, 0, 0]
    assert all(np.isnan([row["recall"], row["acc"]]).all() for row in result.rounds), "nobody gave a verdict"


@pytest.mark.parametrize("crafts", [False, True])
def test_a_negative_variance_is_kept_from_the_model(tiny, tmp_path, crafts):
    result = run(
        tiny, tmp_path, rounds=1, defense="fedavg", model={"name": "dba_resnet18", "width": 0.1},
        attack={"name": "tests.faulty_methods:NegativeVariance", "crafts": crafts},
    )  # fmt: skip
    assert all(row["reason"] == ("negative variance" if row["malicious"] else "") for row in clients(result))
    assert json.loads(result.rounds[0]["notes"])["rejected"] == {"negative variance": 2}
    layout = compose(result.config).setup.layout
    assert (result.global_vector[layout.variance_columns] > 0).all()
    assert result.rounds[0]["main_accuracy"] >= 0


@pytest.mark.parametrize("target", [0, 1])
def test_a_model_without_finite_logits_has_no_accuracy_and_no_attack_success(tiny, tmp_path, target):
    attack = [
        {"name": "trigger", "target": target, "clients": 1},
        {"name": "tests.faulty_methods:Overflow", "clients": 1},
    ]
    result = run(tiny, tmp_path, rounds=1, defense="fedavg", attack=attack)
    (row,) = result.rounds
    names = ("main_accuracy", "main_loss", "attack_success_rate", "target_confidence")
    assert np.isfinite(result.global_vector).all()
    assert np.isnan([row[name] for name in names]).all()
    samples = compose(result.config).test_sizes
    said = f"logits are not finite for {samples[0]} of {samples[0]} test inputs, {samples[1]} of {samples[1]} triggered inputs"
    assert json.loads(row["notes"])["undefined"] == said


EMPTY = {
    "rounds": 4, "population": {"clients": 20}, "attack": None, "server_data": {"samples": 0},
    "data": {"name": "digits", "limit": 300, "partition": {"name": "dirichlet", "alpha": 0.01, "min_samples": 0}},
}  # fmt: skip


def test_clients_without_samples_stay_out_of_the_round(tiny, tmp_path):
    """Krum would choose one of them: zero updates are each other's nearest."""
    result = run({**tiny, **EMPTY}, tmp_path, defense={"name": "krum"}, checkpoint={"every": 1})
    empty = np.flatnonzero(compose(result.config).sizes == 0).tolist()
    assert len(empty) > 2
    rows = clients(result)
    assert sorted({row["client"] for row in rows if row["reason"]}) == empty
    for row in rows:
        if row["client"] in empty:
            assert (row["reason"], row["weight"], row["flagged"], row["num_examples"]) == (
                "no samples",
                None,
                None,
                0,
            )
    assert [row["clients"] for row in result.rounds] == [20 - len(empty)] * 4
    assert json.loads(result.rounds[0]["notes"])["absent"] == {"no samples": len(empty)}
    assert result.config.defense[0].options["num_byzantine"] == (20 - len(empty) - 3) // 2
    assert not np.array_equal(result.global_vector, compose(result.config).initial)
    whole = result.digest
    last = max((result.path / "checkpoints").iterdir())
    shutil.rmtree(last) if last.is_dir() else last.unlink()
    assert raysim.resume(result.path, backend="inprocess").digest == whole


@dataclass(frozen=True)
class Uneven:
    """Client 0 holds nothing, client 1 a single sample, the others ten each."""

    def split(self, labels, num_clients, generator, owners=None):
        sizes = np.array([0, 1, *[10] * (num_clients - 2)])
        return Partition(np.arange(sizes.sum(), dtype=np.int32), np.concatenate([[0], np.cumsum(sizes)]))


@pytest.mark.parametrize(("model", "absent"), [("digits_cnn", {0}), ("dba_resnet18", {0, 1})])
def test_a_single_sample_is_too_few_where_the_model_normalises_over_batches(tiny, tmp_path, model, absent):
    """Nothing can be trained on it then: its update would be zero, which Krum might choose."""
    config = {**tiny, "rounds": 1, "model": {"name": model, "width": 0.1} if absent > {0} else model}
    config["data"] = {"name": "digits", "limit": 300, "partition": f"{__name__}:Uneven"}
    news = []
    result = raysim.run(config, name="run", out=tmp_path, backend="inprocess", observe=news.append)
    reasons = {row["client"]: row["reason"] for row in clients(result) if row["reason"]}
    assert reasons.keys() == absent
    assert result.rounds[0]["clients"] == 10 - len(absent)
    why = "a single sample, and the model normalises over batches"
    said = [event.remark for event in news if event.remark]
    assert said == ([f"1 clients stay out of every round: they hold {why}"] if 1 in absent else [])
    if 1 in absent:
        assert reasons[1] == why
        assert json.loads(result.rounds[0]["notes"])["absent"] == {"no samples": 1, why: 1}


def test_a_round_of_clients_without_samples_changes_nothing(tiny, tmp_path):
    config = {**tiny, **EMPTY, "population": {"clients": 20, "cohort": 1}, "rounds": 6}
    result = run(config, tmp_path, defense="fedavg")
    nobody = [row["round"] for row in result.rounds if row["clients"] == 0]
    assert 0 < len(nobody) < 6
    assert all(row["main_accuracy"] >= 0 and np.isnan(row["fpr"]) for row in result.rounds)


def test_what_is_left_open_is_filled_in_and_written_to_the_configuration(tiny, tmp_path):
    result = run(tiny, tmp_path, defense="krum", rounds=1)
    assert result.config.defense[0].options["num_byzantine"] == 3
    assumed = {"by": "Krum", "malicious": 3, "of": 10, "most": True}
    assert json.loads(result.rounds[0]["notes"])["assumed"] == assumed
    again = raysim.run(result.config, name="again", out=tmp_path, backend="inprocess")
    assert again.digest == result.digest


@pytest.mark.parametrize("defense", ["rfa", "norm_clip"])
def test_scores_alone_are_enough_for_an_auc(tiny, tmp_path, defense):
    """Noise of U(1, 2) on every weight is farther from the median, and longer, than what honest clients send."""
    for row in run(tiny, tmp_path, defense=defense).rounds:
        assert row["auc_score"] == 1
        assert np.isnan([row[name] for name in ("recall", "precision", "fpr", "acc", "f1", "auc_hard")]).all()


def test_an_error_in_an_attack_names_round_stage_and_client(tiny, tmp_path):
    attack = {"name": "tests.faulty_methods:BadUpload", "what": "raise", "schedule": {"start": 1}}
    with pytest.raises(raysim.RunError, match=r"round 1, stage train, client 8: ZeroDivisionError"):
        run(tiny, tmp_path, attack=attack)
    assert raysim.load_config(tmp_path / "run" / "config.yaml").rounds == 3
    assert len(raysim.runs.runner.RunResult(tmp_path / "run").rounds) == 1


def test_an_error_in_a_defense_names_round_and_stage(tiny, tmp_path):
    with pytest.raises(raysim.RunError, match=r"round 0, stage crash: ZeroDivisionError"):
        run(tiny, tmp_path, defense="tests.faulty_methods:Crash")
    with pytest.raises(raysim.RunError, match=r"round 0, stage judge: BadVerdict: aggregate must be finite"):
        run(tiny, tmp_path, "other", defense="tests.faulty_methods:BadVerdict")


def test_cohorts_depend_on_seed_and_round_alone(tiny):
    config = {**tiny, "population": {"clients": 50, "cohort": 7, "malicious": 5}}
    experiment = compose(ExperimentConfig.from_mapping(config))
    cohorts = [draw_cohort(experiment, number) for number in range(3)]
    assert all(len(set(c.tolist())) == 7 and (np.diff(c) > 0).all() for c in cohorts)
    assert not np.array_equal(cohorts[0], cohorts[1])
    np.testing.assert_array_equal(cohorts[2], draw_cohort(experiment, 2))
    np.testing.assert_array_equal(active_attackers(experiment, 0), np.arange(45, 50))


def test_attackers_of_fixed_frequency_join_the_rounds_they_attack_in(tiny):
    attack = {"name": "noise", "clients": 2, "schedule": {"start": 1, "every": 3}}
    population = {"clients": 50, "cohort": 7, "malicious": 5}
    pool = compose(ExperimentConfig.from_mapping({**tiny, "population": population, "attack": attack}))
    attack["schedule"]["participation"] = "frequency"
    joined = compose(ExperimentConfig.from_mapping({**tiny, "population": population, "attack": attack}))
    for number in range(8):
        drawn, cohort = draw_cohort(pool, number), draw_cohort(joined, number)
        assert len(cohort) == 7
        if number % 3 != 1:
            np.testing.assert_array_equal(cohort, drawn)
        else:
            assert {45, 46} <= set(cohort.tolist()) <= {45, 46, *drawn.tolist()}
            assert (np.diff(cohort) > 0).all()


def test_colluders_that_are_not_sampled_do_nothing(tiny, tmp_path):
    population = {"clients": 30, "cohort": 8, "malicious": 2}
    result = run(tiny, tmp_path, population=population, defense="fedavg", rounds=6)
    seen = [row["malicious"] for row in result.rounds]
    assert min(seen) == 0
    assert all(row["clients"] == 8 for row in result.rounds)


def test_append_mode_adds_attackers_beyond_the_benign(tiny, tmp_path):
    result = run(tiny, tmp_path, population={"clients": 10, "malicious": 2, "mode": "append"})
    assert result.rounds[0]["clients"] == 12
    assert {row["client"] for row in clients(result) if row["malicious"]} == {10, 11}


def test_two_attacks_at_once_each_with_its_own_clients(tiny, tmp_path):
    attack = [{"name": "noise", "clients": 1}, {"name": "tests.faulty_methods:BadUpload", "clients": [9]}]
    rows = clients(run(tiny, tmp_path, attack=attack, defense="fedavg"))
    assert {row["client"] for row in rows if row["malicious"]} == {8, 9}
    assert {row["client"] for row in rows if row["reason"]} == {9}


def test_attack_notes_are_kept(tiny, tmp_path):
    notes = [json.loads(row["notes"]) for row in run(tiny, tmp_path).rounds]
    assert all(len(note["bases"].split()) == 2 for note in notes)


def test_every_stage_and_task_has_a_span(tiny, tmp_path):
    spans = run(tiny, tmp_path).table("spans").to_pylist()
    for number in range(3):
        stages = {s["stage"] for s in spans if s["round"] == number and s["task"] == -1}
        assert {"train", "noise", "gram", "combine", "evaluate"} <= stages
    whole = next(s for s in spans if s["stage"] == "train" and s["task"] == -1)
    tasks = [s for s in spans if s["stage"] == "train" and s["task"] >= 0 and s["round"] == whole["round"]]
    assert len(tasks) == 3
    assert whole["bytes_out"] == sum(s["bytes_out"] for s in tasks) > 8 * 13706 * 4
    assert whole["wall_s"] >= max(s["wall_s"] for s in tasks) > 0
    assert all(s["peak_memory_bytes"] > 2**20 for s in spans)


def owners_of(result, stage):
    spans = result.table("spans").to_pylist()
    return [span["owner"] for span in spans if span["stage"] == stage and span["task"] == -1]


@pytest.mark.parametrize("own", [False, True])
def test_what_an_attack_does_beyond_one_training_is_the_attacks(tiny, tmp_path, own):
    """Its clients train apart from the others; the first training and everything honest stay the clients'."""
    toil = {"name": "tests.faulty_methods:Toil", "own": own}
    honest = run(tiny, tmp_path, "honest", attack=None, population={"clients": 10}, rounds=2)
    result = run(tiny, tmp_path, "toil", attack=toil, rounds=2)
    assert owners_of(result, "poison") == ["attack"] * 2
    assert owners_of(result, "train") == ["client"] * 2
    spans = result.table("spans").to_pylist()
    seconds = [span["wall_s"] for span in spans if span["stage"] == "poison"]
    asleep = 2 * 0.02 if own else 2 * 0.04  # of two clients
    assert min(seconds) > 0.9 * asleep
    assert owners_of(honest, "poison") == []
    assert owners_of(run(tiny, tmp_path, "noise", rounds=1), "poison") == [], "it has no hand in training"


def test_heat_maps_are_kept_as_often_as_asked(tiny, tmp_path):
    result = run(tiny, tmp_path, defense="layercam_ae", record={"every": 2})
    kept = sorted(path.name for path in (result.path / "artifacts").iterdir())
    assert kept == ["round-000000", "round-000002"]
    maps = np.load(result.path / "artifacts" / "round-000002" / "heat_maps.npy")
    assert maps.shape == (10, 4, 4)


def test_evaluation_every_other_round_and_always_the_last(tiny, tmp_path):
    result = run(tiny, tmp_path, rounds=4, evaluation={"every": 3})
    measured = [not np.isnan(row["main_accuracy"]) for row in result.rounds]
    assert measured == [False, False, True, True]


def test_a_chain_clips_before_it_selects(tiny, tmp_path):
    defense = [{"name": "clip_norm", "bound": 0.5}, {"name": "krum", "num_byzantine": 2}]
    result = run(tiny, tmp_path, defense=defense)
    initial = compose(result.config).initial
    assert np.linalg.norm(result.global_vector[:13706] - initial[:13706]) <= 3 * 0.5 + 1e-4


def test_a_population_of_a_million_costs_two_arrays(tiny):
    config = {
        **tiny,
        "population": {"clients": 1_000_000, "cohort": 100, "malicious": 0.1},
        "data": {"name": "digits", "partition": {"name": "iid", "samples_per_client": 10}},
    }
    experiment = compose(ExperimentConfig.from_mapping(config))
    partition = experiment.arrays[2:4]
    assert sum(array.nbytes for array in partition) < 100e6
    cohort = draw_cohort(experiment, 0)
    assert len(cohort) == 100
    assert len(experiment.malicious) == 100_000
