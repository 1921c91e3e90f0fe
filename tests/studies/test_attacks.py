"""`raysim bench attacks` at a tiny size: what is measured and printed, never how long it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attacks import ATTACKS
from raysim.attack import Attack, Visibility
from raysim.backends.base import InProcessBackend
from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.studies.costs.study import ATTACKS_MEASURED, Attacks, AttacksPlan, measure_subject
from raysim.studies.costs.subjects import FIRST_ROUND, parse_attacks, parse_subjects
from raysim.studies.matrix import Matrix, MatrixSpec, build_matrix

SIZE = ["--clients", "8", "--malicious", "3", "--model", "digits_cnn", "--image", "1x8x8", "--classes", "10"]


def tiny_matrix() -> Matrix:
    return build_matrix(MatrixSpec("digits_cnn", (1, 8, 8), 10, clients=8, malicious=3), InProcessBackend())


def test_every_attack_that_looks_at_others_is_measured():
    looking = {
        name for name, cls in ATTACKS.items()
        if cls.craft is not Attack.craft and (name in ("sign_flip",) or cls().visibility is not Visibility.OWN)
    }  # fmt: skip
    measured = parse_attacks(ATTACKS_MEASURED)
    assert {subject.name for subject in measured} == looking
    (partial,) = [one for one in measured if one.label == "fang_krum,knowledge=partial"]
    assert partial.attack.visibility is Visibility.COLLUDING


def test_crafting_is_timed_beside_the_defense_on_the_same_rows(monkeypatch: pytest.MonkeyPatch):
    matrix, views, judged = tiny_matrix(), [], []
    (ipm,) = parse_attacks(["ipm"])
    (krum,) = parse_subjects(["krum"])
    craft, apply = type(ipm.attack).craft, type(krum.defense).apply

    def watched_craft(self, state, view, ctx):
        views.append((view, ctx.round, ctx.role))
        return craft(self, state, view, ctx)

    def watched_apply(self, state, updates, ctx):
        judged.append(updates.num_clients)
        return apply(self, state, updates, ctx)

    monkeypatch.setattr(type(ipm.attack), "craft", watched_craft)
    monkeypatch.setattr(type(krum.defense), "apply", watched_apply)
    found, spans = measure_subject(ipm, matrix, 2, beside=krum)
    assert [round for _, round, _ in views] == [FIRST_ROUND + number for number in range(4)]
    assert judged == [8] * 3
    view, _, role = views[0]
    assert role == "attack 0"
    assert view.own.client_ids.tolist() == np.flatnonzero(matrix.truth).tolist()
    assert view.benign.client_ids.tolist() == np.flatnonzero(~matrix.truth).tolist()
    assert all(row[name] > 0 for row in found for name in ("wall_s", "pass_s", "gram_s"))
    assert len(found) == len(spans) == 2


def test_what_an_attack_says_is_kept_and_colluders_see_no_benign_row():
    (krum,) = parse_subjects(["median"])
    alie, fang = (
        measure_subject(attack, tiny_matrix(), 1, krum)[0][0]["said"]
        for attack in parse_attacks(["alie", "fang_krum,knowledge=partial"])
    )
    assert alie.startswith("z ")
    assert "failed" in fang


def test_ratios_are_taken_repeat_by_repeat():
    plan = AttacksPlan(attack=("alie",), defense=("median",))
    rows = [
        {"method": "alie", "repeat": n, "wall_s": craft, "pass_s": judged, "gram_s": 1.0, "said": "z 1",
         "task_memory_bytes": 3 * 2**20, "resident_bytes": 2**30, "package": "raysim", "arrays": "", "copy_s": 0.5,
         "gram32_s": 1.0, "dim": 10, "row_blocks": 2, "column_shards": 1}
        for n, (craft, judged) in enumerate([(2.0, 1.0), (5.0, 1.0), (1.0, 4.0)])
    ]  # fmt: skip
    tables = {"attacks": Attacks.tables["attacks"].table(rows), "spans": Attacks.tables["spans"].empty()}
    page = Attacks().page(plan, tables)
    assert "| **alie** | 2.000 | 4.00 | 2.00 | 2.00 |  |  |  |  | 1024 | 3 | z 1 |" in page.sections[2]
    assert "| x median |" in page.sections[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["alli"], "did you mean 'alie'"), (["trigger"], "other clients"), (["sign_flip"], "other clients"),
     (["alie,z"], "name,key=value"), (["alie,zz=1"], "attack.zz")],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        parse_attacks(words)


@pytest.mark.usefixtures("drawn")
def test_the_command_shows_attacks(tmp_path: Path):
    words = ["bench", "attacks", "alie", "fang_krum", "--repeats", "1", "--backend", "inprocess"]
    words += ["--workers", "1", *SIZE, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--malicious", "2"])
    assert result.exit_code == 0, result.output
    assert "x krum" in result.stdout
    assert "lambda_0" in result.stdout
    assert (tmp_path / "out" / "attacks-stages.svg").exists()
    nobody = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "no"), "--malicious", "0"])
    assert nobody.exit_code == 2
    assert "malicious: must be from 1 to 7" in nobody.stderr
    assert not (tmp_path / "no").exists()
