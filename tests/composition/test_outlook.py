"""Runs that are looked at before they can take place."""

from __future__ import annotations

import pytest

from raysim.backends.capacity import Capacity
from raysim.composition import estimate
from raysim.composition.outlook import SIZES, on_random_images, outlook
from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.data import DATASETS
from raysim.errors import DataError
from raysim.presets import generated

ROOMY = Capacity(cpus=2, object_store_bytes=2**33)


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSIM_DATA", str(tmp_path))


def config(**data) -> ExperimentConfig:
    return ExperimentConfig.from_mapping(
        {
            "rounds": 2,
            "population": {"clients": 4, "malicious": 1, "mode": "append"},
            "data": {"limit": 400, **data},
            "model": {"name": "digits_cnn", "width": 0.25},
            "training": {"epochs": 3, "batch_size": 8},
            "attack": "noise",
            "defense": "krum",
        }
    )


def test_every_data_set_of_a_paper_has_a_size():
    named = {preset.paper["data"]["name"] for preset in generated().values()}
    assert named - {"digits", "synthetic"} <= set(SIZES) <= set(DATASETS)


def test_without_its_data_a_run_is_planned_on_random_images():
    seen = outlook(config(name="mnist"), ROOMY)
    (remark,) = seen.remarks
    assert "400 random images (60,000 in the published set), everybody honest" in remark
    assert seen.experiment.config.data.name == "synthetic"
    assert (
        seen.experiment.sizes.tolist() == [60] * 5
    )  # the server took 100; the appended attacker is a client like all
    assert seen.experiment.test_sizes[0] == 66


def test_data_that_are_here_are_used():
    seen = outlook(config(name="digits"), ROOMY)
    assert seen.remarks == ()
    assert seen.experiment.config.data.name == "digits"
    assert seen.experiment.config.population.num_malicious == 1


def test_data_of_unknown_size_are_an_error():
    with pytest.raises(DataError, match="parquet"):
        outlook(config(name="parquet"), ROOMY)


def test_a_preset_that_reads_an_attack_s_files_is_planned_without_them():
    made = on_random_images(load_config("fedgrad/table2-emnist-pgd-fedgrad"), SIZES["emnist"], 6766)
    assert (made.attack, made.population.clients, made.population.malicious) == ((), 3383, 0)
    assert made.data.partition.name == "phi_groups"
    made = on_random_images(load_config("pdrr/table1-krum-pdrr"), SIZES["femnist"], 500)
    assert made.data.partition.name == "iid"


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_few_batches_stand_for_all(name, monkeypatch):
    seen = outlook(config(name=name), ROOMY)
    lighter = seen.lighter
    assert lighter is not None
    assert lighter.config.training.epochs == 1
    assert lighter.sizes.tolist() == [16] * 5  # two batches of 8
    monkeypatch.setattr(estimate, "calibration", lambda experiment, call: (0.5, 2.0))
    plan = estimate.make_plan(seen.experiment, ROOMY, 2**34, lighter=lighter)
    assert plan.train_s == 0.5 * 3 * 8 / 2  # three epochs of eight batches for one of two
    assert plan.evaluate_s == 2.0 * seen.experiment.test_sizes[0] / lighter.test_sizes[0]


def test_a_run_of_few_batches_is_timed_as_it_is():
    values = config(name="digits").to_mapping()
    values["training"] |= {"epochs": 1, "batch_size": 64}
    assert outlook(ExperimentConfig.from_mapping(values), ROOMY).lighter is None
