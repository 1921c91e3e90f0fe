"""raysim list, as it is printed."""

from __future__ import annotations

import re

import pytest
from click.testing import Result
from typer.testing import CliRunner

from raysim.cli.listing import KINDS
from raysim.cli.main import app
from raysim.composition.catalogue import catalogue
from raysim.config.load import preset_names


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["list", *words])


def lines(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.stderr
    return [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "presets"])
def test_a_line_for_every_name(kind: str) -> None:
    cited = kind in ("attacks", "defenses")
    expected = [[entry.name, entry.text, *([entry.paper] if cited else [])] for entry in catalogue(kind)]
    assert lines(call(kind)) == lines(call(kind.removesuffix("s"))) == expected


def test_alone_it_names_what_can_be_listed() -> None:
    assert [line[0].split()[2] for line in lines(call())] == list(KINDS)


def test_presets_by_paper_by_words_and_all() -> None:
    every = preset_names()
    assert [line[0] for line in lines(call("presets", "--all"))] == every
    heading, *groups, _, first, _ = lines(call("presets"))
    counts = {name: int(count) for name, count, _ in groups}
    assert heading == ["preset, or paper", "presets"]
    assert first[0].startswith(f"{len(every)} in all.")
    assert sum(counts.values()) == len(every)
    assert counts["flare"] == sum(name.startswith("flare/") for name in every)
    assert counts["quickstart"] == 1
    chosen = lines(call("presets", "FLARE", "table2", "krum"))
    assert [line[0] for line in chosen] == [
        f"flare/table2-{data}-krum" for data in ("fmnist", "cifar10", "kather")
    ]


def test_what_is_printed_of_one() -> None:
    printed = call("defense", "flame").stdout
    assert printed.startswith("flame: Keeps the majority cluster")
    for said in (
        "paper                Nguyen et al., USENIX Security 2022",
        "needs gram           the inner products of all updates [K, K]",
        "noise_factor  float  0.001    at least 0    Standard deviation of the noise in median norms",
        "variants  clustering=cosine|rows",
        "in a file:            defense: {name: flame, noise_factor: 0.001}\n",
        "on the command line:  raysim run defense.name=flame defense.noise_factor=0.001\n",
    ):
        assert said in printed


def test_several_at_once_and_one_without_options() -> None:
    printed = call("partition", "natural", "iid").stdout
    assert "\nnatural: " in "\n" + printed
    assert "\n\niid: " in printed
    assert "\nno options\n" in call("defense", "oracle").stdout
