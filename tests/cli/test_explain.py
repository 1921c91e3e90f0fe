"""The keys in words: every one has a meaning, and its default and range are those of the schema."""

from __future__ import annotations

from typer.testing import CliRunner

from raysim.cli.main import app
from raysim.config.explain import explained


def test_every_key_has_a_meaning() -> None:
    keys = list(explained())
    assert not [key.name for key in keys if not key.meaning]
    assert len({key.name for key in keys}) == len(keys) > 40


def test_kind_range_and_default_are_the_schemas() -> None:
    found = {key.name: key for key in explained()}
    cohort, lr = found["population.cohort"], found["training.optimizer.lr"]
    assert (cohort.kind, cohort.range, cohort.default) == ("int | null", "at least 1", "null")
    assert (lr.kind, lr.range, lr.default) == ("float", "above 0", "0.1")
    assert (found["resources.tile_bytes"].kind, found["resources.tile_bytes"].range) == (
        "auto | int",
        "at least 4096",
    )
    assert found["population.placement"].kind == "last or random | list of int"
    assert (found["model.name"].default, found["defense.name"].default) == ("digits_cnn", "fedavg")
    assert (found["attack.name"].default, found["record.updates"].default) == ("required", "false")


def test_the_command_line_explains_every_key() -> None:
    result = CliRunner().invoke(app, ["show", "--explain"])
    assert result.exit_code == 0
    assert "population.cohort (int | null, at least 1, default null): clients sampled" in result.stdout
    assert len(result.stdout.splitlines()) == len(list(explained()))
    assert CliRunner().invoke(app, ["show", "quickstart", "--explain"]).exit_code == 2
