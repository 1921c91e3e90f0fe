"""Import paths of version 0.1 give what they gave, with a warning that says where it is now."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

from raysim import _moved
from raysim._moved import MOVED, MOVED_NAMES


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_module_that_moved(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{old} is now {MOVED[old]}; ") as caught:
        module = importlib.import_module(old)
    assert caught[0].filename != _moved.__file__
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == module.__spec__.name == MOVED[old]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert importlib.import_module(old) is module, "said once"


@pytest.mark.parametrize(
    ("package", "name", "place"),
    [(package, name, place) for package, names in MOVED_NAMES.items() for name, place in names.items()],
)
def test_an_old_name_is_what_moved(package, name, place):
    with pytest.warns(DeprecationWarning, match=f"^{package}.{name} is now {place}.{name}; "):
        value = getattr(importlib.import_module(package), name)
    assert value is getattr(importlib.import_module(place), name)


@pytest.mark.parametrize("package", MOVED_NAMES)
def test_other_names_of_a_folder_are_attribute_errors(package):
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        importlib.import_module(package).nothing  # noqa: B018


def test_the_warning_points_at_the_line_that_imports(tmp_path):
    script = tmp_path / "old.py"
    script.write_text(
        "import sys\nfrom raysim.records import COLUMNS\nimport raysim.updates\nprint(len(COLUMNS), raysim.updates.Updates.__name__)\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert run.stdout == "3 Updates\n"
    assert f"{script}:2: DeprecationWarning: raysim.records is now raysim.runs.directory" in run.stderr
    assert f"{script}:3: DeprecationWarning: raysim.updates is now raysim.matrix.updates" in run.stderr


def test_unknown_modules_are_still_refused():
    with pytest.raises(ModuleNotFoundError, match=r"raysim\.nowhere"):
        importlib.import_module("raysim.nowhere")


def test_the_finder_is_there_once():
    _moved.install()
    assert sum(type(finder).__module__ == "raysim._moved" for finder in sys.meta_path) == 1
