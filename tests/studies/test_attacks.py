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
from raysim.studies.costs.attack_cost import measure_attack, parse_attacks
from raysim.studies.costs.attacks import CRAFTING, Attacks, AttacksPlan
from raysim.studies.costs.subjects import parse_subjects
from raysim.studies.matrix import Matrix, MatrixSpec, build_matrix

SIZE = ["--clients", "8", "--malicious", "3", "--model", "digits_cnn", "--image", "1x8x8", "--classes", "10"]


def tiny_matrix() -> Matrix:
    return build_matrix(MatrixSpec("digits_cnn", (1, 8, 8), 10, clients=8, malicious=3), InProcessBackend())


def test_every_attack_that_looks_at_others_is_measured():
    looking = {
        name for name, cls in ATTACKS.items()
        if cls.craft is not Attack.craft and (name in ("sign_flip",) or cls().visibility is not Visibility.OWN)
    }  # fmt: skip
    measured = parse_attacks(CRAFTING)
    assert {label.partition(",")[0] for label, _ in measured} == looking
    assert dict(measured)["fang_krum,knowledge=partial"].visibility is Visibility.COLLUDING


def test_crafting_is_timed_beside_the_defense_on_the_same_rows(monkeypatch: pytest.MonkeyPatch):
    matrix, views, judged = tiny_matrix(), [], []
    ((label, attack),) = parse_attacks(["ipm"])
    (krum,) = parse_subjects(["krum"])
    craft, apply = type(attack).craft, type(krum.defense).apply

    def watched_craft(self, state, view, ctx):
        views.append((view, ctx.round, ctx.role))
        return craft(self, state, view, ctx)

    def watched_apply(self, state, updates, ctx):
        judged.append(updates.num_clients)
        return apply(self, state, updates, ctx)

    monkeypatch.setattr(type(attack), "craft", watched_craft)
    monkeypatch.setattr(type(krum.defense), "apply", watched_apply)
    cost = measure_attack(label, attack, krum, matrix, repeats=2)
    assert [round for _, round, _ in views] == [0, 1, 2, 3]
    assert judged == [8] * 3
    view, _, role = views[0]
    assert role == "attack 0"
    assert view.own.client_ids.tolist() == np.flatnonzero(matrix.truth).tolist()
    assert view.benign.client_ids.tolist() == np.flatnonzero(~matrix.truth).tolist()
    assert [len(values) for values in (cost.craft_s, cost.defense_s, cost.gram_s)] == [2] * 3


def test_what_an_attack_says_is_kept_and_colluders_see_no_benign_row():
    (krum,) = parse_subjects(["median"])
    said = [
        measure_attack(label, attack, krum, tiny_matrix(), 1).said
        for label, attack in parse_attacks(["alie", "fang_krum,knowledge=partial"])
    ]
    assert said[0].keys() == {"z"}
    assert said[1]["failed"] in (True, False)


def test_ratios_are_taken_repeat_by_repeat():
    plan = AttacksPlan(attack=("alie",), defense=("median",))
    rows = [
        {"attack": "alie", "repeat": n, "craft_s": craft, "defense_s": judged, "gram_s": 1.0, "said": "z 1",
         "task_memory_bytes": 3 * 2**20}
        for n, (craft, judged) in enumerate([(2.0, 1.0), (5.0, 1.0), (1.0, 4.0)])
    ]  # fmt: skip
    page = Attacks().page(plan, {"attacks": Attacks.tables["attacks"].table(rows)})
    assert "| alie | 2.000 | 2.00 | 2.00 | 3 | z 1 |" in page.sections[0]
    assert "| x median |" in page.sections[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["alli"], "did you mean 'alie'"), (["trigger"], "other clients"), (["sign_flip"], "other clients"),
     (["alie,z"], "name,key=value"), (["alie,zz=1"], "attack.zz")],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        parse_attacks(words)


def test_the_command_shows_attacks(tmp_path: Path):
    words = ["bench", "attacks", "alie", "fang_krum", "--repeats", "1", "--backend", "inprocess"]
    words += ["--workers", "1", *SIZE, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--malicious", "2"])
    assert result.exit_code == 0, result.output
    assert "x krum" in result.stdout
    assert "lambda_0" in result.stdout
    assert (tmp_path / "out" / "attacks-ratios.svg").exists()
    nobody = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "no"), "--malicious", "0"])
    assert nobody.exit_code == 2
    assert "malicious: must be from 1 to 7" in nobody.stderr
    assert not (tmp_path / "no").exists()
