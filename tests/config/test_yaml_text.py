"""Hostile YAML: whatever the text, it is a valid configuration or refused in one sentence, soon."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from raysim.cli.main import app
from raysim.composition.methods import written_out
from raysim.config.explain import explained
from raysim.config.load import load_config
from raysim.config.method_text import parse_method
from raysim.config.overrides import apply_overrides
from raysim.config.schema import ExperimentConfig
from raysim.config.yaml_text import MOST_BYTES, MOST_DEPTH, MOST_NODES, values_in
from raysim.errors import ConfigError

BOMB = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))]
)


def refusal(text):
    with pytest.raises(ConfigError) as caught:
        values_in(text, "key")
    return caught.value.rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (BOMB, f"at most {MOST_NODES} values"),
        ("a: &a [1, *a]", r"line 1, column 11: the alias \*a lies inside"),
        ("a: &a {b: *a}", r"the alias \*a lies inside"),
        ("a: *b", "undefined alias"),
        ("[" * 100_000, f"at most {MOST_DEPTH} lists"),
        ("a: &a " + "[" * 20 + "]" * 20 + "\nb: " + "[" * 20 + "*a" + "]" * 20, f"at most {MOST_DEPTH} lists"),
        ("- " * 1000 + "1", f"at most {MOST_DEPTH} lists"),
        ("[" + "1," * MOST_NODES + "]", f"at most {MOST_NODES} values"),
        (" " * (MOST_BYTES + 1), f"at most {MOST_BYTES} characters"),
        ("seed: " + "9" * 5000, "within 64 bits"),
        ("seed: " + "1:" * 100_000 + "1", "within 64 bits"),
        (f"seed: {2**64}", "within 64 bits"),
        ("seed: 0x_", "number well-formed"),
        ("seed: 1\nrounds: 2\nseed: 3", "line 3, column 1: the key 'seed' is given twice"),
        ("{1: a, 0x1: b}", "the key 1 is given twice"),
        ("? [1]\n: 2", "unhashable key"),
        ('a: "\\0"', "without NUL"),
        ('a: "\\ud800"', "."),
        ("a: !!python/object/apply:os.system [ls]", r"the tag tag:yaml\.org,2002:python.* must be left out"),
        ("!!binary x", "the tag .*binary must be left out"),
        ("<<: 1", "for merging"),
        ("--- a\n--- b", "another document"),
        ("a: 'b", "end of stream"),
        ("a: \x01", "."),
    ],
)  # fmt: skip
def test_what_is_refused(text, rule):
    assert re.search(rule, refusal(text))


def test_plain_values_are_as_yaml_has_them():
    text = (
        "{a: [1, -2.5, yes, null, ~, 1e-3, .inf], b: &b {c: x}, d: *b, e: {<<: *b, f: 0x10}, 7: 2026-01-02}"
    )
    assert values_in(text, "key") == {
        "a": [1, -2.5, True, None, None, "1e-3", float("inf")],
        "b": {"c": "x"}, "d": {"c": "x"}, "e": {"c": "x", "f": 16}, 7: "2026-01-02",
    }  # fmt: skip
    assert values_in("", "key") is None
    assert values_in(f"[{2**64 - 1}, {-(2**63)}]", "key") == [2**64 - 1, -(2**63)]
    assert values_in("b: &b {x: 1}\nc: {<<: *b, x: 2}", "key")["c"] == {"x": 2}, (
        "what << brings may be given again"
    )


def test_files_that_are_none_are_refused(tmp_path):
    for make, name in ((os.mkfifo, "pipe.yaml"), (os.mkdir, "folder.yaml")):
        make(tmp_path / name)
        with pytest.raises(ConfigError, match=r"^config: must be a file; received .*\.yaml"):
            load_config(tmp_path / name)
    (tmp_path / "large.yaml").write_text(" " * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        load_config(tmp_path / "large.yaml")
    with pytest.raises(ConfigError, match="must be the name of a file"):
        load_config("a\0.yaml")


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"population": {"malicious": float("inf")}}, "population.malicious: should be a finite number"),
        ({"population": {"malicious": float("nan")}}, "population.malicious: should be a finite number"),
        ({"training": {"optimizer": {"lr": float("inf")}}}, "training.optimizer.lr: should be a finite number"),
        ({"training": {"batch_size": 1e20}}, "training.batch_size: "),
        ({"training": {"batch_size": 10**20}}, "training.batch_size: .*nearest valid: 2147483647"),
        ({"population": {"clients": 10**30}}, "population.clients: .*nearest valid: 10000000"),
        ({"population": {"clients": 1e30}}, "population.clients: "),
        ({"population": {"malicious": 1e300}}, "population.malicious: "),
        ({"rounds": 10**12}, "rounds: .*nearest valid: 2147483647"),
        ({"seed": 10**5000}, "seed: .*received a value of type int"),
        ({"server_data": {"classes": [2**70]}}, "server_data.classes"),
        ({"attack": "x" * 10_000}, r"attack.name: .*\.\.\. \(10002 characters\)"),
    ],
)  # fmt: skip
def test_numbers_beyond_all_use_are_refused(values, rule):
    with pytest.raises(ConfigError, match=f"^{rule}"):
        written_out(ExperimentConfig.from_mapping(values))


def test_overrides_defenses_and_options_are_read_within_the_same_bounds():
    for read in (
        lambda text: apply_overrides({}, [f"seed={text}"]),
        lambda text: parse_method("defense", f"krum,a={text}"),
    ):
        for text in ("[" * 1000, "&a [*a]", "!!binary x", "9" * 5000):
            with pytest.raises(ConfigError):
                read(text)
    with pytest.raises(ConfigError, match="fewer than 32 parts"):
        apply_overrides({}, ["a." * 40 + "b=1"])


# -- fuzzed ---------------------------------------------------------------------------------------------

GROUPS = sorted({key.name.split(".")[0] for key in explained()})
KEYS = sorted({part for key in explained() for part in key.name.split(".")} | {"num_byzantine", "beta", "1"})
DOTTED = sorted(key.name for key in explained())
WORDS = [
    "krum",
    "median",
    "noise",
    "fedavg",
    "iid",
    "dirichlet",
    "auto",
    "none",
    "digits",
    "os:system",
    "../x",
    "",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 30)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=8)
)
VALUES = SCALARS | st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
INDICATORS = st.text(st.sampled_from("&*a1:{}[],-?!|>%@`'\"# \n\t.~<=\0\u2028é"), max_size=60)


def nested(dotted):
    """{"a.b": 1} as {"a": {"b": 1}}; of two keys of which one lies in the other, the first stays."""
    values = {}
    for key, value in dotted.items():
        *groups, last = key.split(".")
        node = values
        for group in groups:
            node = node.setdefault(group, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node.setdefault(last, value)
    return values


def shown(path: Path) -> str:
    """The configuration in a file as `raysim show` prints it, with the methods that it names made; "" if refused."""
    try:
        return written_out(load_config(path)).to_yaml()
    except ConfigError as error:
        return "" if len(str(error)) < 2000 else str(error)


def assert_a_configuration_or_a_sentence(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.yaml"
        path.write_bytes(text.encode(errors="surrogatepass"))
        first = shown(path)
        if first:
            path.write_text(first)
            assert shown(path) == first


@settings(max_examples=100, deadline=None, derandomize=True)
@given(INDICATORS | INDICATORS.map(lambda text: f"defense: {text}"))
def test_any_text_is_a_configuration_or_refused(text):
    assert_a_configuration_or_a_sentence(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(GROUPS + DOTTED), VALUES, min_size=1, max_size=3))
def test_any_values_are_a_configuration_or_refused(values):
    assert_a_configuration_or_a_sentence(yaml.safe_dump(nested(values)))


@pytest.mark.parametrize("command", ["run", "plan", "show", "resume", "replay"])
def test_every_command_ends_with_status_2_and_one_sentence(tmp_path, command):
    (tmp_path / "config.yaml").write_text(BOMB)
    words = {"resume": [str(tmp_path)], "replay": [str(tmp_path), "--defense", "krum"]}
    result = CliRunner().invoke(app, [command, *words.get(command, [str(tmp_path / "config.yaml")])])
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"error: config: must be valid YAML (line 6, column 20: at most {MOST_NODES}"
    )
    assert len(result.stderr.splitlines()) == 1


def test_no_text_is_read_as_yaml_elsewhere():
    """The bounds hold nowhere else."""
    root = Path(__file__).parents[2]
    readers = [
        path.relative_to(root)
        for package in ("raysim", "attacks", "defenses", "cluster")
        for path in (root / package).rglob("*.py")
        if re.search(r"yaml\.(safe_|full_|unsafe_)?load", path.read_text())
    ]
    assert readers == [Path("raysim/config/yaml_text.py")]
