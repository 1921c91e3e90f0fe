"""Models, data and methods handed over as objects, by import path, and by entry points of installed packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import raysim
from defenses import DEFENSES
from raysim import Attack, ConfigError, DataError, Defense, Verdict
from raysim.composition import lookup
from raysim.composition.catalogue import Listed, catalogue
from raysim.data.dataset import Dataset, FederatedData, normalise
from raysim.data.given import federated
from raysim.data.partition import IID

HERE = __name__
DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 3, 90)
FEATURES = (DRAW.normal(size=(90, 6)) + 3 * np.eye(3, 6)[LABELS]).astype(np.float32)
TABLE = ((FEATURES[:60], LABELS[:60]), (FEATURES[60:], LABELS[60:]))


class Net(nn.Module):
    """Two layers for tabular data."""

    def __init__(self, num_classes: int, input_shape: tuple[int, ...], width: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_shape[0], width)
        self.last = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.hidden(x).relu())


@dataclass(frozen=True)
class Mean(Defense):
    """The mean, scaled."""

    scale: float = 1.0

    def apply(self, state, updates, ctx):
        weights = updates.shares
        return Verdict(updates.combine(weights * self.scale), weights), state


@dataclass(frozen=True)
class Quiet(Attack):
    """Does as the honest do."""


def loader(limit: int | None = None, shift: float = 0.0) -> Any:
    (x, y), test = TABLE
    return (x + np.float32(shift), y), test


def config(**groups: Any) -> dict[str, Any]:
    base = {
        "rounds": 2,
        "population": {"clients": 4},
        "server_data": {"samples": 12},
        "training": {"epochs": 20},
    }
    return {**base, "checkpoint": {"every": 1}, **groups}


def run(out, **given: Any) -> raysim.RunResult:
    groups = given.pop("groups", {})
    return raysim.run(
        config(**groups), out=out, name=str(len(list(out.iterdir()))), backend="inprocess", **given
    )


def test_objects_by_name_and_by_path_do_the_same(tmp_path) -> None:
    given = run(tmp_path, model=Net, data=TABLE, defense=Mean(0.5))
    named = run(
        tmp_path,
        groups={
            "model": f"{HERE}:Net",
            "data": f"{HERE}:loader",
            "defense": {"name": f"{HERE}:Mean", "scale": 0.5},
        },
    )
    assert given.digest == named.digest
    assert given.rounds[-1]["main_accuracy"] > 0.5
    written = given.config.to_mapping()
    assert written["defense"] == {"name": "object:Mean", "scale": 0.5}
    assert written["model"]["name"] == "object:Net"
    assert len(written["model"]["digest"]) == len(written["data"]["digest"]) == 16


def test_a_module_keeps_its_values_and_a_class_has_options(tmp_path) -> None:
    torch.manual_seed(7)
    net = Net(3, (6,))
    before = [parameter.clone() for parameter in net.parameters()]
    result = run(tmp_path, model=net, data=TABLE)
    assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
    assert len(result.global_vector) == sum(parameter.numel() for parameter in net.parameters())
    wide = run(tmp_path, data=TABLE, groups={"model": {"name": f"{HERE}:Net", "width": 11}})
    assert len(wide.global_vector) == 6 * 11 + 11 + 11 * 3 + 3
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        run(tmp_path, data=TABLE, groups={"model": {"name": f"{HERE}:Net", "widht": 11}})


def test_a_run_with_objects_goes_on_with_the_same_objects_alone(tmp_path) -> None:
    objects: dict[str, Any] = {"model": Net, "data": TABLE, "defense": Mean(0.5), "partition": IID(10)}
    path = run(tmp_path, **objects).path
    again = raysim.resume(path, backend="inprocess", **objects)
    assert len(again.rounds) == 2
    other = (TABLE[0][0] + 1, TABLE[0][1]), TABLE[1]
    for key, wrong, message in (
        ("model", None, r"raysim.resume\(..., model=...\)"),
        ("data", None, r"raysim.resume\(..., data=...\)"),
        ("defense", None, r"raysim.resume\(..., defense=...\)"),
        ("partition", None, r"raysim.resume\(..., partition=...\)"),
        ("defense", Mean(0.6), "started with"),
        ("partition", IID(11), "started with"),
        ("data", other, "digest differs"),
        ("model", Net(3, (6,)), "digest differs"),
    ):
        with pytest.raises(ConfigError, match=message):
            raysim.resume(path, backend="inprocess", **{**objects, key: wrong})


def test_attacks_keep_the_schedule_of_the_configuration(tmp_path) -> None:
    population = {"clients": 4, "malicious": 1}
    groups = {"population": population, "attack": {"name": "noise", "schedule": {"start": 1}}}
    written = run(tmp_path, groups=groups, model=Net, data=TABLE, attack=Quiet()).config.to_mapping()
    assert written["attack"]["name"] == "object:Quiet"
    assert written["attack"]["schedule"]["start"] == 1


class Items(torch.utils.data.Dataset):
    """A map-style set of (tensor, label)."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = torch.from_numpy(x), y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return self.x[place], int(self.y[place])


class Table:
    """What `datasets.Dataset` offers: column names, features, columns by name."""

    def __init__(self, names: tuple[str, ...] = (), **columns: Any) -> None:
        self.columns = columns
        self.features = {"label": type("ClassLabel", (), {"names": list(names)})()}

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, key: str) -> Any:
        return self.columns[key]


def test_every_form_of_data_holds_the_same() -> None:
    expected = federated(TABLE)
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in TABLE]
    pairs = [Items(x, y) for x, y in TABLE]
    sets = [torch.utils.data.TensorDataset(x, y) for x, y in tensors]
    named = {
        part: Table(("a", "b", "c"), features=x.tolist(), label=y.tolist())
        for part, (x, y) in zip(("train", "test"), TABLE, strict=True)
    }
    for given in (tensors, pairs, sets, named, expected):
        found = federated(given)
        for mine, other in ((found.train, expected.train), (found.test, expected.test)):
            np.testing.assert_array_equal(mine.images, other.images)
            np.testing.assert_array_equal(mine.labels, other.labels)
    assert federated(named).classes == ("a", "b", "c")
    assert len(federated(TABLE, limit=20).train) == 20


def test_images_and_tokens() -> None:
    from PIL import Image

    grey = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    pictures = Table(image=[Image.fromarray(picture) for picture in grey], label=[0, 1])
    for part in (pictures, (grey, [0, 1]), (grey[:, None], [0, 1])):
        np.testing.assert_array_equal(federated((part, part)).train.images, grey[:, None])
    tokens = Table(input_ids=[[1, 2], [3, 4]], label=[0, 1])
    found = federated((tokens, tokens)).train.images
    assert found.dtype == np.int64
    assert normalise(found, (0.0,), (1.0,)).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ConfigError, match="not scaled"):
        normalise(found, (0.5,), (1.0,))


@pytest.mark.parametrize("depth", [0, 2])
def test_a_table_knows_the_type_of_its_numbers(depth: int) -> None:
    """`datasets` hands out rows of Array2D, Array3D and lists as Python's numbers, whatever they were stored as."""
    feature: Any = type("Value", (), {"dtype": "uint8"})()
    for _ in range(depth):
        feature = type("List", (), {"feature": feature})()
    table = Table(image=[[[1, 2], [3, 255]]] * 2, label=[0, 1])
    table.features["image"] = feature
    found = federated((table, table)).train.images
    assert (found.dtype, found.shape, found.max()) == (np.uint8, (2, 1, 2, 2), 255)


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_models_for_images_refuse_other_inputs_by_name(kind: type, tmp_path) -> None:
    inputs = np.ones((30, 1, 8, 8) if kind is np.int64 else (30, 6), kind)
    with pytest.raises(ConfigError, match=r"model.name: is for images .* the data's inputs are") as caught:
        run(tmp_path, data=((inputs, np.arange(30) % 3),) * 2)
    assert np.dtype(kind).name in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_features_are_normalised_one_by_one() -> None:
    found = normalise(np.array([[1.0, 4.0]], np.float32), (1.0, 2.0), (1.0, 4.0))
    assert found.tolist() == [[0.0, 0.5]]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((np.zeros((2, 3)), [0.0, 1.0]), "labels must be integers"),
        ((np.zeros((2, 3)), [0, -1]), "at least 0"),
        ((np.zeros((2, 3)), [0, 1, 1]), "one for each"),
        ((np.full((2, 3), np.nan), [0, 1]), "finite"),
        ((np.zeros((2, 28, 28, 3)), [0, 1]), "channels last"),
        ((np.zeros((2, 3), np.uint8), [0, 1]), "uint8"),
        (([np.zeros(2), np.zeros(3)], [0, 1]), "one shape"),
        (Table(text=["good", "bad"], label=[0, 1]), "turn texts into tokens"),
        (Table(pixels=[[1], [2]], label=[0, 1]), "no column of inputs"),
        (Table(x=[[1], [2]], classes=[0, 1]), "no column of labels"),
        (3, "a pair of arrays"),
    ],
)
def test_data_that_is_none_is_refused(part: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        federated((part, part))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"defense": Mean}, "call it"),
        ({"defense": "krum"}, "a raysim.Defense"),
        ({"attack": Mean()}, "a raysim.Attack"),
        ({"partition": IID}, "an object with split"),
        ({"model": 3}, "must be a torch module"),
        ({"model": lambda: nn.Linear(5, 3)}, "must take the data's inputs"),
        ({"model": lambda: nn.Linear(6, 2)}, "3 classes"),
        ({"model": lambda: 3}, "not int"),
        ({"data": 3}, "two parts"),
    ],
)
def test_objects_that_are_of_no_use_are_refused(objects: dict[str, Any], message: str, tmp_path) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        run(tmp_path, **{"model": Net, "data": TABLE, **objects})
    assert not list(tmp_path.iterdir())


# -- packages -------------------------------------------------------------------------------------------


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch):
    """Entry points as if packages that offer them were installed."""

    def install(**offered: dict[str, str]) -> None:
        points = [
            metadata.EntryPoint(name, value, f"raysim.{kind}")
            for kind, named in offered.items()
            for name, value in named.items()
        ]
        monkeypatch.setattr(
            lookup.metadata, "entry_points", lambda group: [point for point in points if point.group == group]
        )

    return install


def test_packages_offer_all_five_kinds(packages: Any, tmp_path) -> None:
    packages(
        defenses={"my_mean": f"{HERE}:Mean"},
        attacks={"quiet": f"{HERE}:Quiet"},
        models={"net": f"{HERE}:Net"},
        datasets={"table": f"{HERE}:loader"},
        partitions={"dealt": "raysim.data.partition:IID"},
    )
    groups = {
        "population": {"clients": 4, "malicious": 1},
        "defense": {"name": "my_mean", "scale": 0.5},
        "attack": "quiet",
        "model": {"name": "net", "width": 5},
        "data": {"name": "table", "shift": 0.5, "partition": {"name": "dealt", "samples_per_client": 9}},
    }
    result = run(tmp_path, groups=groups)
    assert result.config.defense[0].name == "my_mean"
    assert catalogue("defenses")[-1] == Listed("my_mean", "The mean, scaled.")
    assert catalogue("models")[-1] == Listed("net", "Two layers for tabular data.")
    with pytest.raises(ConfigError, match="did you mean 'my_mean'"):
        run(tmp_path, groups={"defense": "my_maen"})


def test_a_name_that_is_taken_is_refused(packages: Any) -> None:
    packages(defenses={"krum": f"{HERE}:Mean"})
    with pytest.raises(ConfigError, match=r"claims a name of raysim itself"):
        lookup.find("defense", DEFENSES, "mine")


def test_sets_of_other_shapes_are_data(tmp_path) -> None:
    Dataset(np.zeros((2, 5), np.float32), np.zeros(2, np.int64))
    whole = FederatedData("mine", *(Dataset(x, y) for x, y in TABLE), ("a", "b", "c"), mean=(0.5,) * 6)
    assert run(tmp_path, model=Net, data=whole).rounds[-1]["main_accuracy"] > 0.5
