"""torchvision imports beside any torch build, and a matched install is left alone."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch

from raysim.models import torchvision_compat
from raysim.models.torchvision_compat import import_torchvision


def test_networks_data_sets_and_transforms_work() -> None:
    torchvision = import_torchvision()
    assert torchvision.models.resnet18.__name__ == "resnet18"
    assert torchvision.datasets.CIFAR10.__name__ == "CIFAR10"
    assert torchvision.transforms.Normalize((0.5,), (0.5,))(torch.ones(1, 2, 2)).tolist() == [[[1.0] * 2] * 2]


def test_repeated_calls_return_the_same_package() -> None:
    assert import_torchvision() is import_torchvision() is sys.modules["torchvision"]


@pytest.mark.parametrize(("loads", "declared"), [(True, []), (False, ["nms", "qnms"])])
def test_schemas_are_declared_only_without_the_extension(
    monkeypatch: pytest.MonkeyPatch, loads: bool, declared: list[str]
) -> None:
    stand_in = ModuleType("torchvision")
    defined: list[str] = []
    namespace = type("Operators", (), {})()  # has no operator yet
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: stand_in)
    monkeypatch.setattr(torchvision_compat, "_extension_loads", lambda: loads)
    monkeypatch.setattr(torch.ops, "torchvision", namespace, raising=False)

    def define(name: str, schema: str) -> None:
        assert schema.endswith("-> Tensor")
        operator = name.removeprefix("torchvision::")
        setattr(namespace, operator, schema)
        defined.append(operator)

    monkeypatch.setattr(torch.library, "define", define)
    assert import_torchvision() is stand_in
    assert import_torchvision() is stand_in  # a failed import in between must not declare twice
    assert defined == declared


def test_a_missing_package_has_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not torchvision_compat._extension_loads()
