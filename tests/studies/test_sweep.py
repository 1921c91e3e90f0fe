"""A sweep: its points, its runs, what goes on after a failure, and the table in three forms."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import raysim
from raysim.backends.capacity import Capacity
from raysim.cli.main import app
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, RecordError, RunError
from raysim.studies import kept_runs
from raysim.studies.kept_runs import MEASURES, measures_of
from raysim.studies.latex import booktabs
from raysim.studies.of_runs import room_for
from raysim.studies.runner import carry_out
from raysim.studies.sweep import AS_GIVEN, Sweep, SweepCell, SweepPlan
from raysim.studies.sweep_page import page_of

FIXED = ("population.clients=6", "data.limit=120", "training.batch_size=20", "rounds=1", "attack=noise")


def plan_of(*words: str, **options: Any) -> SweepPlan:
    return SweepPlan(
        **{"request": ("quickstart", *FIXED, *words), "backend": "inprocess", "workers": 1, **options}
    )


def sweep(plan: SweepPlan, out: Path, resume: bool = False) -> str:
    return carry_out(Sweep(), plan, out, resume=resume, tell=lambda line: None)


def test_points_are_all_combinations_of_the_values_that_vary():
    plan = plan_of("defense=krum,pdrr,rule=median", "population.malicious=1,2", seeds="0,3")
    assert plan.varied == ["defense", "population.malicious"]
    assert plan.points() == [
        "defense=krum population.malicious=1",
        "defense=krum population.malicious=2",
        "defense=pdrr,rule=median population.malicious=1",
        "defense=pdrr,rule=median population.malicious=2",
    ]
    cells = Sweep().cells(plan)
    assert [cell.seed for cell in cells] == [0] * 4 + [3] * 4
    assert len({cell.name for cell in cells}) == 8
    config = plan.config(cells[-1])
    assert (config.seed, config.population.malicious, config.population.clients) == (3, 2, 6)
    assert (config.defense[0].name, config.defense[0].options) == ("pdrr", {"rule": "median"})


def test_lists_in_brackets_are_one_value():
    plan = plan_of("population.malicious=2", "population.placement=[0,1],[2,3]")
    assert plan.points() == ["population.placement=[0,1]", "population.placement=[2,3]"]
    assert plan.config(SweepCell(plan.points()[1], 0)).population.placement == [2, 3]


def test_values_that_go_together_are_combined_with_the_others():
    plan = plan_of(
        "defense=krum,median",
        point=("population.malicious=1", "attack.schedule.start=1 population.malicious=2"),
        seeds="0",
    )
    assert plan.varied == ["population.malicious", "attack.schedule.start", "defense"]
    assert plan.points() == [
        "population.malicious=1 defense=krum",
        "population.malicious=1 defense=median",
        "attack.schedule.start=1 population.malicious=2 defense=krum",
        "attack.schedule.start=1 population.malicious=2 defense=median",
    ]
    config = plan.config(SweepCell(plan.points()[3], 0))
    assert (config.population.malicious, config.defense[0].name) == (2, "median")
    assert config.attack[0].schedule.start == 1
    assert plan.config(SweepCell(plan.points()[0], 0)).attack[0].schedule.start == 0


@pytest.mark.parametrize(
    ("point", "said"),
    [
        (("attack",), "must be KEY=VALUE words"),
        (("seed=1",), "must be given as --seeds"),
        (("defense=krum", "defense=krum"), "must be given once"),
        (("training.epochs=2",), "must name other keys"),
    ],
)
def test_points_that_cannot_be_are_refused(point: tuple[str, ...], said: str):
    with pytest.raises(ConfigError, match=said):
        plan_of("training.epochs=1,2", point=point)


def test_the_figure_of_points_takes_them_as_one_axis():
    points = ("population.malicious=1 attack.schedule.start=1", "population.malicious=2")
    plan = plan_of(point=points, seeds="0,1")
    rows = [
        {**dict.fromkeys(MEASURES, 0.5), "point": point, "seed": seed, "run": ""}
        for point in plan.points()
        for seed in (0, 1)
    ]
    page = page_of(plan, Sweep.tables["sweep"].table(rows))
    (axes,) = page.figures["means"][1].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["1, 1", "2, -"]


def test_nothing_varied_is_one_point():
    plan = plan_of(seeds="0,1")
    assert plan.points() == [AS_GIVEN]
    assert [cell.seed for cell in Sweep().cells(plan)] == [0, 1]


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (("defense=krum,krumm",), {}, "did you mean 'krum'"),
        (("roundz=1,2",), {}, "roundz"),
        (("seed=1,2",), {}, "must be given as --seeds"),
        (("lr",), {}, "must be a file or preset, then KEY=VALUE"),
        (("attack=ipm",), {}, "must be given once"),
        (("defense=krum,krum",), {}, "with different values"),
        ((), {"address": "here:1"}, "belongs to backend ray"),
        ((), {"metric": "acc"}, "metric"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words, options, said, tmp_path: Path):
    with pytest.raises(ConfigError, match=said):
        sweep(plan_of(*words, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepPlan, Path, str]:
    """Two defenses, two numbers of attackers, two seeds; not to be changed."""
    out = tmp_path_factory.mktemp("sweep")
    plan = plan_of("defense=krum,median", "population.malicious=1,2", seeds="0,1")
    return plan, out, sweep(plan, out)


def test_the_runs_are_those_of_raysim_run(swept: tuple[SweepPlan, Path, str], tmp_path: Path):
    plan, out, _ = swept
    cell = Sweep().cells(plan)[3]
    alone = raysim.run(plan.config(cell), name="alone", out=tmp_path, backend="inprocess")
    digest = (out / "runs" / cell.name / "digest.txt").read_text()
    assert digest == (alone.path / "digest.txt").read_text()


def test_the_table_has_means_over_seeds_in_three_forms(swept: tuple[SweepPlan, Path, str]):
    plan, out, text = swept
    runs = [
        measures_of(out / "runs" / cell.name)
        for cell in Sweep().cells(plan)
        if cell.point == plan.points()[0]
    ]
    accuracies = np.array([found["main_accuracy"] for found in runs])
    half = 12.706205 * accuracies.std(ddof=1) / np.sqrt(2)
    shown = f"{accuracies.mean():.3f} ± {half:.3f}"
    assert f"| krum | 1 | 2 | {shown} |" in text
    assert "![accuracy over defense and population.malicious](sweep-means.svg)" in text
    with open(out / "sweep-means.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert float(rows[0]["main_accuracy_mean"]) == accuracies.mean()
    assert rows[0]["defense"] == "krum"
    tex = (out / "sweep-means.tex").read_text()
    assert f"krum & 1 & 2 & {shown} &".replace("±", r"$\pm$") in tex


def test_finished_runs_are_skipped_and_others_added(tmp_path: Path, monkeypatch):
    small = plan_of("defense=krum,median", seeds="0")
    sweep(small, tmp_path)
    began: list[str] = []
    finish = kept_runs.finish
    monkeypatch.setattr(
        kept_runs,
        "finish",
        lambda config, path, *rest: (began.append(path.name), finish(config, path, *rest)),
    )
    text = sweep(plan_of("defense=krum,median,flame", seeds="0,1"), tmp_path, resume=True)
    assert len(began) == 4
    assert "| flame | 2 |" in text
    with pytest.raises(RecordError, match="already holds finished cells"):
        sweep(small, tmp_path)
    with pytest.raises(RecordError, match=r"evaluation\.every None, not .2."):
        sweep(plan_of("defense=krum,median", "evaluation.every=2"), tmp_path, resume=True)


def test_a_run_that_fails_is_told_of_and_tried_again(tmp_path: Path, monkeypatch, capsys):
    finish = kept_runs.finish

    def fails(config: ExperimentConfig, *rest: Any) -> None:
        if config.seed == 1:
            raise RunError("no memory", round=3)
        finish(config, *rest)

    monkeypatch.setattr(kept_runs, "finish", fails)
    plan = plan_of("defense=krum,median", seeds="0,1")
    with pytest.raises(RunError, match="2 of 4 cells have no numbers"):
        sweep(plan, tmp_path)
    assert "defense=krum, seed 1: round 3: no memory" in capsys.readouterr().err
    assert "- defense=krum, seed 1" in (tmp_path / "sweep.md").read_text()
    monkeypatch.setattr(kept_runs, "finish", finish)
    assert "Runs without numbers" not in sweep(plan, tmp_path, resume=True)


def drawn(plan: SweepPlan, means: list[float]) -> Figure:
    rows = [
        {**dict.fromkeys(MEASURES, float("nan")), "point": point, "seed": 0, "run": "", "main_accuracy": mean}
        for point, mean in zip(plan.points(), means, strict=True)
    ]
    return page_of(plan, Sweep.tables["sweep"].table(rows)).figures["means"][1]


def test_a_heat_map_has_every_mean_where_it_belongs():
    plan = plan_of("defense=krum,median", "population.malicious=1,2,3")
    (axes,) = drawn(plan, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).axes
    assert np.asarray(axes.images[0].get_array()).tolist() == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["krum", "median"]
    assert [text.get_text() for text in axes.texts][:2] == ["0.100", "0.200"]
    several = plan_of("defense=krum,median", "population.malicious=1,2", "attack.sigma=1,2")
    assert len(drawn(several, [0.1] * 8).axes) == 2


def test_a_curve_over_one_key():
    (axes,) = drawn(plan_of("population.malicious=1,2"), [0.25, 0.5]).axes
    assert axes.lines[0].get_ydata().tolist() == [0.25, 0.5]


def test_room_is_what_the_runs_need():
    config = ExperimentConfig(
        population={"clients": 8}, resources={"clients_per_actor": 4, "client_gpus": 0.5}
    )
    assert room_for(config, Capacity(cpus=16, gpus=4.0)) == 4  # two actors of half a GPU; 3 CPUs each
    assert room_for(config, Capacity(cpus=8, gpus=4.0)) == 2
    assert room_for(ExperimentConfig(), Capacity(cpus=2)) == 1


def test_special_characters_of_latex():
    assert r"a\_b \& 5 \% \\" in booktabs(["a_b & 5 %"], [])


def test_the_command(tmp_path: Path):
    words = ["sweep", "quickstart", *FIXED, "defense=krum,median", "--backend", "inprocess", "--workers", "1"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert "2 of 2: defense=median, seed 0: accuracy" in result.stderr
    assert "| median | 1 |" in result.stdout


def test_runs_share_one_cluster(ray_cluster: None, tmp_path: Path, swept: tuple[SweepPlan, Path, str]):
    """Two runs at a time, in processes of their own, end in the bytes of those that ran in one process."""
    points = ("defense=krum population.malicious=1", "defense=median population.malicious=2")
    plan = plan_of("resources.clients_per_actor=6", point=points, seeds="0", backend="ray", workers=2)
    sweep(plan, tmp_path)
    cells = Sweep().cells(plan)
    assert {cell.name for cell in cells} < {cell.name for cell in Sweep().cells(swept[0])}
    for cell in cells:
        digests = [(out / "runs" / cell.name / "digest.txt").read_text() for out in (tmp_path, swept[1])]
        assert digests[0] == digests[1]
