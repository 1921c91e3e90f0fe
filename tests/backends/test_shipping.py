"""Which modules of a program are sent to Ray's workers by value, and the runtime environment for the rest."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from raysim import ConfigError
from raysim.backends.ray_connection import check_runtime_env
from raysim.backends.shipping import callers_own

FILES = {
    "shipped_method.py": "from shipped_kit.deep import tools\nclass Method: pass\n",
    "shipped_kit/__init__.py": "",
    "shipped_kit/deep/__init__.py": "",
    "shipped_kit/deep/tools.py": "from shipped_beside import SIZE\nclass Tool: pass\n",
    "shipped_beside.py": "SIZE = 3\n",
    "elsewhere/shipped_other.py": "SIZE = 4\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of modules and packages in one folder, and a module in a folder that it does not import from."""
    for name, text in FILES.items():
        path = tmp_path / "program" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "program" / "elsewhere").rename(tmp_path / "elsewhere")
    for folder in ("program", "elsewhere"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("shipped_")]:
        del sys.modules[name]


@pytest.mark.parametrize("seen_from", ["shipped_method:Method", "shipped_kit.deep.tools:Tool"])
def test_modules_beside_a_method_and_packages_there_go_with_it(project: Path, seen_from: str) -> None:
    for name in ("shipped_method", "shipped_other"):
        importlib.import_module(name)
    module, name = seen_from.split(":")
    thing = getattr(sys.modules[module], name)()
    names = [module.__name__ for module in callers_own([thing, np.zeros(1), "text"])]
    assert names == [
        "shipped_beside",
        "shipped_kit",
        "shipped_kit.deep",
        "shipped_kit.deep.tools",
        "shipped_method",
    ]


def test_what_is_installed_is_imported_there() -> None:
    assert callers_own([np.float32(1), importlib.import_module("raysim").Verdict, Path()]) == []


@pytest.mark.parametrize(
    ("wanted", "key", "rule"),
    [
        ({"working_dri": "."}, "resources.runtime_env.working_dri", "working_dir"),
        ({"working_dir": "/nowhere/at/all"}, "resources.runtime_env", "not a valid path"),
        ({"env_vars": {"A": 1}}, "resources.runtime_env", "must be of type"),
        ({"py_modules": "x"}, "resources.runtime_env", "list"),
    ],
)
def test_a_runtime_environment_is_one_of_rays(wanted: dict, key: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        check_runtime_env(wanted)
    assert caught.value.key == key
