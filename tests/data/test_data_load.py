import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raysim.data import DATASETS, default_root, load, loader_options
from raysim.errors import ConfigError, DataError


def test_the_table_is_complete():
    assert set(DATASETS) == {
        "celeba",
        "cifar10",
        "cifar100",
        "digits",
        "emnist",
        "fashion_mnist",
        "femnist",
        "gtsrb",
        "image_folder",
        "kather",
        "mnist",
        "parquet",
        "shards",
        "svhn",
        "synthetic",
        "tiny_imagenet",
    }


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_each_loader_has_a_one_line_description(name: str):
    first = (DATASETS[name].__doc__ or "").splitlines()[0]
    assert first.endswith(".")
    assert 30 < len(first) < 120


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits", "synthetic"}))
def test_missing_files_are_named(name: str, tmp_path: Path):
    with pytest.raises(DataError) as caught:
        load(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ConfigError) as caught:
        load("fashion-mnist")
    assert caught.value.nearest == "fashion_mnist"
    with pytest.raises(ConfigError):
        loader_options("nothing")


def test_unknown_options_are_refused_before_any_file_is_touched():
    with pytest.raises(ConfigError) as caught:
        load("gtsrb", "/nowhere", sise=32)
    assert caught.value.nearest == "size"
    with pytest.raises(ConfigError, match="no options"):
        load("mnist", "/nowhere", size=32)
    with pytest.raises(ConfigError, match="limit"):
        load("mnist", "/nowhere", limit=0)


def test_options_show_their_defaults():
    assert loader_options("mnist") == {}
    assert loader_options("celeba") == {"attribute": "Smiling", "size": 128, "normalisation": "none"}


def test_the_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RAYSIM_DATA", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    with pytest.raises(DataError, match="here"):
        load("kather")
    monkeypatch.delenv("RAYSIM_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "raysim"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "raysim"


@pytest.mark.parametrize("home", ["/nonexistent/home", "/" + "x" * 300, ""])
def test_a_home_that_is_not_there_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, home: str):
    monkeypatch.delenv("RAYSIM_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    assert len(load("digits", limit=10).train) == 10
    monkeypatch.setenv("RAYSIM_DATA", "~nobody-of-that-name/data")
    assert len(load("digits", limit=10).train) == 10
    with pytest.raises(DataError, match="~nobody-of-that-name/data"):
        load("image_folder")


def test_a_user_without_a_home_is_no_obstacle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYSIM_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987654)  # of whom the password database knows nothing
    assert default_root().name == "raysim"
    assert len(load("digits", limit=10).train) == 10


def test_importing_the_package_is_light():
    heavy = ("torch", "torchvision", "sklearn", "pyarrow", "PIL", "scipy")
    code = (
        "import sys, raysim.data, raysim.data.partition, raysim.data.edge_cases;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_the_same_seed_gives_the_same_bytes(name: str):
    first, again, other = (
        load(name, limit=60, seed=1),
        load(name, limit=60, seed=1),
        load(name, limit=60, seed=2),
    )
    assert first.train.images.tobytes() == again.train.images.tobytes()
    assert first.test.labels.tobytes() == again.test.labels.tobytes()
    assert first.train.images.tobytes() != other.train.images.tobytes()
    assert (len(first.train), len(first.test)) == (60, 12)
    smaller = load(name, limit=20, seed=1)
    np.testing.assert_array_equal(smaller.train.images, first.train.images[:20])
