"""Given weights: what is read, what is refused, and a run that starts from them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import raysim
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, DataError
from raysim.matrix.layout import Layout
from raysim.models.weights import load_weights, read_weights


def network(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, classes))


def other(model: nn.Module) -> dict[str, torch.Tensor]:
    """Values unlike the network's own, of its shapes and kinds."""
    return {
        name: value + 1 + torch.arange(value.numel()).reshape(value.shape) % 5
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", "nested.pt"])
def test_every_kind_of_file_gives_the_same_model(tmp_path: Path, suffix: str) -> None:
    model = network()
    given, path = other(model), tmp_path / f"held{suffix}"
    if suffix == ".safetensors":
        save_file(given, path)
    else:
        torch.save({"state_dict": given, "epoch": 3} if "nested" in suffix else given, path)
    load_weights(model, read_weights(path))
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())


def test_floats_of_other_widths_become_float32() -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        model = network()
        given = {
            name: value.to(kind) if value.is_floating_point() else value
            for name, value in other(model).items()
        }
        load_weights(model, given)
        found = model.state_dict()
        assert all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in given.items())


def test_fresh_parts_keep_the_networks_own_values() -> None:
    model, given = network(), other(network(classes=7))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    load_weights(model, given, ["3"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name] if name.startswith("3.") else given[name])


@pytest.mark.parametrize(
    ("change", "fresh", "says"),
    [
        (lambda t: t.pop("0.weight"), [], r"it lacks 0\.weight"),
        (lambda t: t.update({"0.wieght": t.pop("0.weight")}), [], r"it lacks 0\.weight \(nearest: 0\.wieght\)"),
        (lambda t: t.update({"3.weights": t["0.bias"]}), [], r"also holds 3\.weights \(nearest: 3\.weight\)"),
        (lambda t: t.update({"3.bias": torch.zeros(5)}), [], r"3\.bias must have the shape \(3,\) .*fresh=3\.bias"),
        (lambda t: t.update({"3.bias": torch.zeros(3, dtype=torch.int32)}), [], r"numbers like torch\.float32"),
        (lambda t: t.update({"3.bias": torch.zeros(3, dtype=torch.complex64)}), [], "numbers like"),
        (lambda t: t.update({"1.num_batches_tracked": torch.tensor(1.0)}), [], r"numbers like torch\.int64"),
        (lambda t: t["3.bias"].fill_(float("nan")), [], r"3\.bias must hold finite"),
        (lambda t: t.update({"3.bias": torch.full((3,), 1e300, dtype=torch.float64)}), [], "finite numbers in"),
        (lambda t: t["1.running_var"].fill_(-1), [], "must not be negative"),
        (lambda t: None, ["heda"], r"model\.fresh"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(change: Any, fresh: list[str], says: str) -> None:
    model = network()
    before = Layout.of(model).vector(model)
    tensors = other(model)
    change(tensors)
    with pytest.raises(ConfigError, match=says):
        load_weights(model, tensors, fresh)
    assert Layout.of(model).vector(model).tobytes() == before.tobytes()


class Harmful:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        return (print, ("ran",))


def test_files_that_are_no_weights_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Harmful()}, tmp_path / "harmful.pth")
    (tmp_path / "short.safetensors").write_bytes(b"1234")
    for name in ("harmful.pth", "short.safetensors"):
        with pytest.raises(DataError, match="cannot be read"):
            read_weights(tmp_path / name)
    assert "ran" not in capfd.readouterr().out
    torch.save([1, 2], tmp_path / "list.pth")
    for name, says in (
        ("list.pth", "tensors by name"),
        ("none.pth", "file that is there"),
        ("held.npz", "ending in"),
    ):
        with pytest.raises(ConfigError, match=says):
            read_weights(tmp_path / name)


# -- runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def held(tiny: dict[str, Any], tmp_path: Path) -> tuple[dict[str, Any], np.ndarray, Path]:
    """(a configuration of one round more that starts where a run ended, the vector it starts from, the file)."""
    first = raysim.run({**tiny, "rounds": 1}, name="first", out=tmp_path, backend="inprocess")
    path = tmp_path / "held.safetensors"
    save_file(first.state_dict(), path)
    config = {**tiny, "rounds": 2, "model": {"name": "digits_cnn", "weights": str(path)}}
    return config, first.global_vector, path


def test_a_run_starts_from_what_another_ended_with_records_it_and_resumes(held, tmp_path) -> None:
    config, start, path = held
    assert compose(ExperimentConfig.from_mapping(config)).initial.tobytes() == start.tobytes()
    whole = raysim.run(config, name="whole", out=tmp_path, backend="inprocess")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert whole.config.model.weights_digest == digest
    assert json.loads((whole.path / "began.json").read_text())["model.weights_digest"] == digest
    half = raysim.run({**config, "rounds": 1}, name="half", out=tmp_path, backend="inprocess")
    assert raysim.resume(half.path, rounds=2, backend="inprocess").digest == whole.digest
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ConfigError, match="its digest differs"):
        raysim.resume(half.path, rounds=3, backend="inprocess")


def test_mistakes_are_found_before_a_run_begins(held, tiny, tmp_path) -> None:
    config, _, path = held
    for model, says in (
        ({"name": "digits_cnn", "width": 0.5, "weights": str(path)}, r"model\.weights"),
        ({"name": "digits_cnn", "fresh": ["head"]}, r"model\.fresh: must be empty without"),
    ):
        with pytest.raises(ConfigError, match=says):
            raysim.run({**config, "model": model}, name="bad", out=tmp_path)  # the backend is Ray
        assert not (tmp_path / "bad").exists()


def test_an_object_that_is_given_keeps_its_own_values(tmp_path, tiny) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = module[1].weight.detach().clone()
    save_file(other(module), tmp_path / "held.safetensors")
    config = {**tiny, "rounds": 1, "model": {"name": "digits_cnn", "weights": str(tmp_path / "held.safetensors")}}  # fmt: skip
    run = raysim.run(config, model=module, name="run", out=tmp_path, backend="inprocess")
    assert torch.equal(module[1].weight, before)
    assert (run.state_dict()["1.weight"] - before).abs().min() > 0.5
