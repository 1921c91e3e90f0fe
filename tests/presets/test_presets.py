"""The papers' presets: names, numbers, and that every one composes, at full scale as far as it does without data."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import raysim
from raysim.composition.attackers import make_campaigns, place_malicious
from raysim.composition.methods import make_defense, written_out
from raysim.config.load import load_config, preset_names, read_yaml
from raysim.config.schema import ExperimentConfig
from raysim.context import Setting
from raysim.defense import Chain, check_setting
from raysim.errors import ConfigError, DataError
from raysim.metrics import Detection
from raysim.models import MODELS
from raysim.presets import PAPERS, generated
from raysim.presets.cam_setting import doubts
from raysim.presets.preset import numbers, row
from raysim.studies.papers.measures import label

CLASSES = {"cifar100": 100, "gtsrb": 43, "tiny_imagenet": 200, "celeba": 2, "kather": 8, "femnist": 62}
VARIANTS = [f"{attack}{maps}" for attack in ("", "_gae", "_gae_code") for maps in ("", "_raw")]
REPORTING = {
    "gcama": {f"fig2{variant}": 1 for variant in VARIANTS},
    "layercam_ae": {
        **{f"table{n}{attack}": 12 for n in (2, 3, 4, 5) for attack in ("", "_gae")},
        "table4_gae_code": 12,
        **{f"table{n}{attack}_raw": 6 for n in (2, 3, 4, 5) for attack in ("", "_gae")},
        "table6": 1, "table6_raw": 1, "table7": 5, "table7_raw": 5, "fig5": 2, "fig10": 1, "fig11": 1, "fig12": 2, "fig15": 6,
    },
    "fedgrad": {"table2": 8 * 6 + 1, "table3": 12, "table4": 4, "section6": 4},
    "pdrr": {"table1": 5, "table2": 5, "table2_full": 1, "table3": 12},
    "flare": {"table2": 18, "table3": 42, "table4": 42, "table5": 10, "seconds": 2},
}  # fmt: skip
"""Paper -> table -> how many of its cells report a number."""


def test_every_number_of_the_tables_has_a_preset():
    found: dict[str, Counter[str]] = {paper: Counter() for paper in PAPERS}
    for preset in generated().values():
        if preset.reported:
            found[preset.source][preset.table] += 1
    assert found == REPORTING


def test_figures_that_show_clients_say_what_of_them():
    drawn: dict[str, set[str]] = {}
    for preset in generated().values():
        if preset.drawn:
            drawn.setdefault(f"{preset.source}, {preset.drawn}", set()).add(preset.table)
    assert drawn == {
        "pdrr, scores": {"fig4", "fig5", "fig6", "fig7"},
        "layercam_ae, maps": {"fig7", "fig11", "fig14"},
        "flare, representations": {"fig1", "fig4", "fig6", "fig10", "fig11"},
    }


def test_names_are_listed_once_behind_the_written_presets():
    names = preset_names()
    assert names[:2] == ["backdoors", "quickstart"]
    assert len(set(names)) == len(names) == len(generated()) + 2
    assert all(preset.name == name for name, preset in generated().items())
    assert {preset.source for preset in generated().values()} == set(PAPERS)


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("layercam_ae/table4-resnet50-cifar100-layercam_krum",
         {"recall": 0.337, "precision": 0.337, "fpr": 0.095, "acc": 0.834, "f1": 0.337, "auc_hard": 0.621}),
        ("layercam_ae/table5_gae-regnet-svhn-gradcam_ae",
         {"recall": 0.848, "precision": None, "fpr": 0.004, "acc": 0.977, "f1": 0.844, "auc_hard": 0.922}),
        ("fedgrad/table2-cifar10-pgd-fedgrad",
         {"main_accuracy_best": 0.851, "attack_success_rate_best": 0.0408}),
        ("fedgrad/table3-dba-mnist-fedgrad", {"main_accuracy_best": 0.989, "attack_success_rate_best": 0.001}),
        ("fedgrad/table4-soft",
         {"main_accuracy_best": 0.8162, "attack_success_rate_best": 0.4817, "recall": 0.95, "fpr": 0.36}),
        ("fedgrad/section6-ratio0.7-rlr", {"main_accuracy_best": 0.915, "attack_success_rate_best": None}),
        ("pdrr/table1-krum-lfr",
         {"far@1": 0, "far@20": 0.1, "far@50": 0.13, "far@100": 0.2,
          "mar@1": 0, "mar@20": 0.15, "mar@50": 0.2, "mar@100": 0.3}),
        ("flare/table3-krum_backdoor-fmnist-flare", {"main_accuracy": 0.912, "attack_success_rate": 0.0}),
        ("flare/table4-fang_krum-kather-krum", {"main_accuracy": 0.1234}),
        ("gcama/fig2-cifar10-gradcam_ae", {"main_accuracy": 0.8}),
    ],
)  # fmt: skip
def test_reported_numbers_are_in_the_preset(name, reported):
    assert generated()[name].mapping("paper")["reported"] == reported
    assert generated()[name].mapping("small")["reported"] == reported


@pytest.mark.parametrize("paper", PAPERS)
def test_every_preset_composes_as_far_as_it_does_without_data(paper):
    for preset in generated().values():
        if preset.source != paper:
            continue
        for scale in ("paper", "small"):
            config = load_config(preset.name, scale=scale)
            malicious = place_malicious(config)
            defense, campaigns = make_defense(config), make_campaigns(config, malicious)
            setting = Setting(
                population=config.population.total,
                cohort=config.population.cohort_size,
                num_malicious=len(malicious),
                rounds=config.rounds,
                num_classes=config.data.options.get("num_classes", CLASSES.get(config.data.name, 10)),
                server_samples=config.server_data.samples,
            )
            for step in defense.steps if isinstance(defense, Chain) else (defense,):
                check_setting(step, setting)
            for campaign in campaigns:
                campaign.attack.check(setting)
            assert set(config.model.options) <= set(MODELS[config.model.name].options)
            assert written_out(config).population == config.population
        assert preset.description
        assert set(preset.reported) <= set(preset.metrics)
        assert set(preset.doubts) <= set(preset.reported)
        assert all(label(key) for key in preset.metrics)


def test_scales_differ_in_size_and_not_in_what_is_tested():
    for preset in generated().values():
        paper, small = (
            ExperimentConfig.from_mapping(read_yaml(preset.name, at)) for at in ("paper", "small")
        )
        assert [item.name for item in paper.attack] == [item.name for item in small.attack]
        assert [item.name for item in paper.defense] == [item.name for item in small.defense]
        assert small.rounds <= 12
        assert small.population.total <= 50


def test_the_attack_rate_of_layercam_ae_is_kept_at_small_scale():
    for scale in ("paper", "small"):
        population = load_config("layercam_ae/table7-beta2.5-layercam_ae", scale=scale).population
        assert population.num_malicious / population.total == 0.125


@pytest.mark.parametrize(
    ("name", "measure", "says"),
    [
        ("layercam_ae/fig10-layercam_ae", "fpr", "about .004"),
        ("layercam_ae/table7-beta0.5-layercam_ae", "auc_hard", "0.841"),
        ("layercam_ae/table5-regnet-cifar100-gradcam_ae", "acc", "0.961"),
        ("flare/table3-krum_backdoor-kather-fltrust", "attack_success_rate", "1/60"),
    ],
)
def test_numbers_that_contradict_each_other_are_doubted(name, measure, says):
    assert says in generated()[name].doubts[measure]


def test_rates_that_agree_are_not_doubted():
    rates = dict.fromkeys(vars(Detection(*[0.0] * 7)), None) | {"recall": 0.737, "fpr": 0.751}
    assert doubts({**rates, "auc_hard": 0.493, "acc": 0.310}, 21, 3) == {}
    assert doubts({**rates, "auc_hard": 0.593}, 21, 3) == {"auc_hard": "recall and FPR imply 0.493"}
    assert doubts({"main_accuracy": 0.7}, 21, 3) == {}


def test_rows_are_read_as_printed():
    assert numbers("1/.5 -") == [1.0, 0.5, None]
    assert row(("a", "b"), "84.32/5", percent=True) == {"a": 0.8432, "b": 0.05}
    with pytest.raises(ValueError):
        row(("a", "b"), "1")


def test_only_the_papers_presets_have_a_small_scale(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("rounds: 2\n")
    for source in ("quickstart", str(file)):
        with pytest.raises(ConfigError, match="scale: must be left out"):
            load_config(source, scale="small")
    with pytest.raises(ConfigError, match="scale: must be paper or small"):
        load_config("quickstart", scale="tiny")  # type: ignore[arg-type]


def test_presets_need_no_torch():
    code = "import sys; from raysim.presets import generated; generated(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


ONE_EACH = [
    "gcama/fig3_gae-gtsrb-gradcam_ae",
    "layercam_ae/table2-resnet50-svhn-layercam_ae",
    "layercam_ae/table5_gae-regnet-svhn-layercam_krum",
    "layercam_ae/table6-regnet-cifar100-layercam_ae",
    "layercam_ae/fig15-auror",
    "fedgrad/table2-emnist-pgd_mr-fedgrad",
    "fedgrad/table3-dba-cifar10-fedgrad",
    "fedgrad/table4-hard",
    "fedgrad/fig7-ratio0.7-rlr",
    "pdrr/table1-krum-lfr",
    "pdrr/table2-trimmed_mean-pdrr",
    "pdrr/table3-median-err",
    "flare/table2-kather-flare",
    "flare/table3-coomed_backdoor-cifar10-fltrust",
    "flare/table4-fang_krum-kather-bulyan",
    "flare/table5-krum_backdoor-fmnist-coomed",
    "flare/fig13-flare_adaptive-fmnist-flare",
]


@pytest.mark.parametrize("name", ONE_EACH)
def test_one_cell_of_each_kind_runs_a_round_at_small_scale(name: str, tmp_path: Path, monkeypatch, data_root):
    monkeypatch.setenv("RAYSIM_DATA", str(data_root))
    voting = [f"defense.interval={1}", "defense.votes=1"] if name.endswith("_ae") else []
    config = load_config(name, ["rounds=1", "training.epochs=1", "data.limit=600", *voting], scale="small")
    rounds = raysim.run(config, name="cell", out=tmp_path, backend="inprocess").rounds
    assert len(rounds) == 1
    assert 0 <= rounds[0]["main_accuracy"] <= 1
    backdoor = "attack_success_rate" in " ".join(generated()[name].metrics)
    assert math.isnan(rounds[0]["attack_success_rate"]) != backdoor


def test_full_scale_presets_ask_for_the_paper_s_data(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSIM_DATA", str(tmp_path))
    with pytest.raises(DataError, match="svhn"):
        raysim.run(load_config("layercam_ae/table2-resnet50-svhn-auror"), out=tmp_path, backend="inprocess")
