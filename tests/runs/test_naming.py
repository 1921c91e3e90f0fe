"""Names of runs: hostile ones are refused before anything is written."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import raysim
from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.runs.naming import claimed

REFUSED = {
    "../../x": "must be one folder's name, without /",
    "/etc/x": "must be one folder's name, without /",
    "a/b": "must be one folder's name, without /",
    "..": "must be a folder's own name",
    ".": "must be a folder's own name",
    "": "must not be empty",
    "  ": "must not be empty",
    "-x": "must not begin with -",
    "a\0b": "must hold no control characters",
    "a\nb": "must hold no control characters",
    "\x1b[31mred": "must hold no control characters",
    "ü" * 101: "must be at most 200 bytes",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_name_is_refused_by_its_rule(tiny, tmp_path, name):
    out = tmp_path / "deep" / "runs"
    with pytest.raises(ConfigError, match=f"^name: {REFUSED[name]}"):
        raysim.run(tiny, name=name, out=out, backend="inprocess")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_so_in_one_sentence(tmp_path):
    result = CliRunner().invoke(app, ["run", "rounds=1", "--name", "../x", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == "error: name: must be one folder's name, without /; received '../x'\n"


def test_names_in_use_around_the_world_are_taken(tmp_path):
    for name in (
        "krum, seed 7",
        ".hidden",
        "über-läufer",
        "実験",
        "a" * 200,
        "<script>alert(1)</script>".replace("/", ""),
    ):
        with claimed(tmp_path, name) as path:
            assert path == tmp_path / name


@pytest.mark.parametrize(
    ("out", "rule"), [("file/runs", "is a file"), ("file", "is a file"), ("a\0b", "null")]
)
def test_a_place_that_cannot_be_written_is_refused(tiny, tmp_path, out, rule):
    (tmp_path / "file").touch()
    for name in ("x", None):
        with pytest.raises(ConfigError, match=f"^out: must be a folder.*{rule}"):
            raysim.run(tiny, name=name, out=tmp_path / out, backend="inprocess")
