import pickle
import socket
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
from PIL import Image

from raysim.data import load, torchvision_sets
from raysim.errors import DataError
from raysim.models import torchvision_compat


def idx(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_idx(
    folder: Path, train: str, test: str, labels: tuple[list[int], list[int]]
) -> dict[str, np.ndarray]:
    images = {}
    for seed, (part, prefix) in enumerate((("train", train), ("test", test))):
        images[part] = np.random.default_rng(seed).integers(
            0, 256, (len(labels[seed]), 28, 28), dtype=np.uint8
        )
        idx(folder / f"{prefix}-images-idx3-ubyte", images[part])
        idx(folder / f"{prefix}-labels-idx1-ubyte", np.array(labels[seed]))
    return images


@pytest.fixture
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets torchvision accept small files of the real format."""
    datasets = torchvision_compat.import_torchvision().datasets
    for module in (datasets.cifar, datasets.svhn):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files(tmp_path: Path, name: str, folder: str):
    images = write_idx(tmp_path / folder / "raw", "train", "t10k", ([3, 1, 9, 0, 2], [7, 8]))
    data = load(name, tmp_path)
    np.testing.assert_array_equal(data.train.images, images["train"][:, None])
    np.testing.assert_array_equal(data.test.images, images["test"][:, None])
    assert data.train.labels.tolist() == [3, 1, 9, 0, 2]
    assert data.num_classes == 10
    assert (data.mean, data.std) == ((0.0,), (1.0,))
    limited = load(name, tmp_path, limit=2)
    assert (len(limited.train), len(limited.test)) == (2, 1)


def test_mnist_files_that_are_wrong(tmp_path: Path):
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, "train", "t10k", ([3, 10], [7]))
    with pytest.raises(DataError, match=r"span 3\.\.10"):
        load("mnist", tmp_path)
    idx(raw / "train-images-idx3-ubyte", np.zeros((2, 27, 28)))
    idx(raw / "train-labels-idx1-ubyte", np.zeros(2))
    with pytest.raises(DataError, match="27, 28"):
        load("mnist", tmp_path)
    whole = (raw / "t10k-images-idx3-ubyte").read_bytes()
    (raw / "t10k-images-idx3-ubyte").write_bytes(whole[:-5])
    with pytest.raises(DataError, match="MNIST/raw"):
        load("mnist", tmp_path)


def test_emnist_digits_and_their_orientation(tmp_path: Path):
    folder = tmp_path / "EMNIST" / "raw"
    images = write_idx(folder, "emnist-digits-train", "emnist-digits-test", ([3, 1], [7]))
    data = load("emnist", tmp_path)
    np.testing.assert_array_equal(data.train.images, images["train"][:, None])
    assert (data.mean, data.std) == ((0.1307,), (0.3081,))
    upright = load("emnist", tmp_path, upright=True)
    np.testing.assert_array_equal(upright.test.images[0, 0], images["test"][0].T)


def write_cifar(
    folder: Path, parts: dict[str, int], key: str, meta: tuple[str, str, list[str]]
) -> np.ndarray:
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 256, (sum(parts.values()), 3072), dtype=np.uint8)
    start = 0
    for name, count in parts.items():
        chunk = rows[start : start + count]
        (folder / name).write_bytes(pickle.dumps({"data": chunk, key: list(range(start, start + count))}))
        start += count
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: meta[2]}))
    return rows.reshape(-1, 3, 32, 32)


@pytest.mark.usefixtures("no_checksums")
def test_cifar10_files(tmp_path: Path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    parts = {f"data_batch_{k}": 1 for k in range(1, 6)} | {"test_batch": 2}
    meta = ("batches.meta", "label_names", names)
    images = write_cifar(tmp_path / "cifar-10-batches-py", parts, "labels", meta)
    data = load("cifar10", tmp_path)
    np.testing.assert_array_equal(data.train.images, images[:5])
    np.testing.assert_array_equal(data.test.images, images[5:])
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.classes == tuple(names)
    assert data.std == (0.2470, 0.2435, 0.2616)
    assert data.attack_std is None
    legacy = load("cifar10", tmp_path, legacy_norm=True)
    assert legacy.std == pytest.approx((0.24706, 0.24353, 0.26157), abs=1e-5)
    assert legacy.attack_std == (0.2023, 0.1994, 0.2010)
    assert legacy.mean == data.mean


@pytest.mark.usefixtures("no_checksums")
def test_cifar100_files(tmp_path: Path):
    meta = ("meta", "fine_label_names", [f"c{k}" for k in range(100)])
    images = write_cifar(tmp_path / "cifar-100-python", {"train": 3, "test": 2}, "fine_labels", meta)
    data = load("cifar100", tmp_path)
    np.testing.assert_array_equal(data.train.images, images[:3])
    assert data.test.labels.tolist() == [3, 4]
    assert data.num_classes == 100
    assert data.mean == (0.5071, 0.4865, 0.4409)


def test_cifar_files_with_wrong_checksums_are_refused(tmp_path: Path):
    write_cifar(tmp_path / "cifar-100-python", {"train": 3, "test": 2}, "fine_labels", ("meta", "x", []))
    with pytest.raises(DataError, match="corrupted"):
        load("cifar100", tmp_path)


@pytest.mark.usefixtures("no_checksums")
def test_svhn_files(tmp_path: Path):
    raw = {}
    for seed, (part, labels) in enumerate({"train": [10, 1, 2], "test": [3, 10], "extra": [4, 5]}.items()):
        raw[part] = np.random.default_rng(seed).integers(0, 256, (32, 32, 3, len(labels)), dtype=np.uint8)
        content = {"X": raw[part], "y": np.array(labels, np.uint8)[:, None]}
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", content)
    data = load("svhn", tmp_path)
    np.testing.assert_array_equal(data.train.images, raw["train"].transpose(3, 2, 0, 1))
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.test.labels.tolist() == [3, 0]
    np.testing.assert_allclose(data.mean, raw["train"].mean(axis=(0, 1, 3)) / 255)
    np.testing.assert_allclose(data.std, raw["train"].std(axis=(0, 1, 3)) / 255)
    more = load("svhn", tmp_path, extra=True)
    assert more.train.labels.tolist() == [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(more.train.images[3], raw["extra"][..., 0].transpose(2, 0, 1))


def write_gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    for label in range(43):
        folder = base / "GTSRB" / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((20 + label, 30, 3), label, np.uint8)).save(folder / "00000_00000.ppm")
        (folder / f"GT-{label:05d}.csv").write_text("Filename;Width\n")
    tests = base / "GTSRB" / "Final_Test" / "Images"
    tests.mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, label in enumerate((16, 1)):
        Image.fromarray(np.full((25, 25, 3), label, np.uint8)).save(tests / f"{number:05d}.ppm")
        lines.append(f"{number:05d}.ppm;25;25;5;5;20;20;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(lines) + "\n")


def test_gtsrb_files(tmp_path: Path):
    write_gtsrb(tmp_path)
    data = load("gtsrb", tmp_path, size=16)
    assert data.input_shape == (3, 16, 16)
    assert data.train.labels.tolist() == list(range(43))
    np.testing.assert_array_equal(data.train.images[:, 0, 0, 0], np.arange(43))
    assert data.test.labels.tolist() == [16, 1]
    np.testing.assert_allclose(data.mean, [21 / 255] * 3)
    assert load("gtsrb", tmp_path, limit=2).input_shape == (3, 128, 128)
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename,ClassId\n00000.ppm,16\n")
    with pytest.raises(DataError, match="semicolons"):
        load("gtsrb", tmp_path)
    (tmp_path / "gtsrb" / "GTSRB" / "Training" / "00042").rename(tmp_path / "away")
    with pytest.raises(DataError, match="43 class folders"):
        load("gtsrb", tmp_path)


def test_downloads_go_through_torchvision_and_only_when_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def fake_gtsrb(root: Path, split: str, download: bool) -> None:
        if not download:
            raise RuntimeError("Dataset not found")
        asked.append((split, download))
        if split == "test":
            write_gtsrb(root)

    fake = SimpleNamespace(datasets=SimpleNamespace(GTSRB=fake_gtsrb))
    monkeypatch.setattr(torchvision_compat, "import_torchvision", lambda: fake)
    with pytest.raises(DataError, match=r"put them there, or have them fetched: data\.download=true"):
        load("gtsrb", tmp_path)
    assert asked == []
    assert load("gtsrb", tmp_path, download=True, limit=1).num_classes == 43
    assert asked == [("train", True), ("test", True)]
    load("gtsrb", tmp_path, download=True, limit=1)
    assert len(asked) == 2


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(root: Path, train: bool, download: bool) -> None:
        if download:
            raise OSError("no route")
        raise RuntimeError("Dataset not found")

    fake = SimpleNamespace(datasets=SimpleNamespace(MNIST=fail))
    monkeypatch.setattr(torchvision_compat, "import_torchvision", lambda: fake)
    with pytest.raises(DataError, match=r"mnist: fetching MNIST/raw/.* failed: no route"):
        load("mnist", tmp_path, download=True)


@pytest.mark.parametrize(
    "name", ["mnist", "fashion_mnist", "emnist", "cifar10", "cifar100", "svhn", "gtsrb", "celeba"]
)
def test_missing_files_name_the_option_that_fetches_them(tmp_path: Path, name: str):
    with pytest.raises(DataError, match=r"put them there, or have them fetched: data\.download=true"):
        load(name, tmp_path)


def test_a_download_that_stalls_says_what_it_fetches_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Torchvision's own download, through a proxy of this machine that accepts and never answers."""
    monkeypatch.setattr(torchvision_sets, "STALLED_S", 0.2)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(scheme, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(
            DataError, match=r"mnist: fetching MNIST/raw/.* failed: nothing arrived for 0\.2 s"
        ):
            load("mnist", tmp_path, download=True)
    assert "mnist: fetching MNIST/raw/" in caplog.text
    assert socket.getdefaulttimeout() is None


def test_files_that_are_there_are_not_fetched(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_idx(tmp_path / "MNIST" / "raw", "train", "t10k", ([3, 1], [7]))
    assert len(load("mnist", tmp_path, download=True).train) == 2
    assert caplog.text == ""


def write_celeba(root: Path) -> None:
    base = root / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    names = [f"{k:06d}.jpg" for k in range(1, 7)]
    for value, name in enumerate(names):
        picture = np.zeros((218, 178, 3), np.uint8)
        picture[20:198] = 40 * value  # the centred square
        Image.fromarray(picture).save(base / "img_align_celeba" / name, quality=95)
    present = [("1", "-1"), ("-1", "1"), ("1", "1"), ("-1", "-1"), (" 1", "1"), ("1", "-1")]
    attributes = "\n".join(f"{name}  {a}  {b}" for name, (a, b) in zip(names, present, strict=True))
    (base / "list_attr_celeba.txt").write_text(f"6\nSmiling Young \n{attributes}\n")
    owners = [9, 9, 2, 5, 2, 7]
    (base / "identity_CelebA.txt").write_text(
        "".join(f"{n} {o}\n" for n, o in zip(names, owners, strict=True))
    )
    parts = [0, 0, 0, 1, 2, 2]
    (base / "list_eval_partition.txt").write_text(
        "".join(f"{n} {p}\n" for n, p in zip(names, parts, strict=True))
    )


def test_celeba_files(tmp_path: Path):
    write_celeba(tmp_path)
    data = load("celeba", tmp_path, size=8)
    assert data.classes == ("not Smiling", "Smiling")
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.test.labels.tolist() == [1, 1]
    assert data.owners is not None
    assert data.owners.tolist() == [9, 9, 2]
    assert data.input_shape == (3, 8, 8)
    np.testing.assert_allclose(data.train.images.mean(axis=(1, 2, 3)), [0, 40, 80], atol=1)
    assert load("celeba", tmp_path, attribute="Young", size=8).train.labels.tolist() == [0, 1, 1]
    limited = load("celeba", tmp_path, limit=2, size=8)
    assert limited.owners is not None
    whole = dict(zip(data.train.images[:, 0, 4, 4].tolist(), data.owners.tolist(), strict=True))
    assert [whole[value] for value in limited.train.images[:, 0, 4, 4].tolist()] == limited.owners.tolist()


def test_celeba_mistakes(tmp_path: Path):
    write_celeba(tmp_path)
    with pytest.raises(ValueError, match="did you mean 'Smiling'"):
        load("celeba", tmp_path, attribute="Smilling")
    (tmp_path / "celeba" / "identity_CelebA.txt").write_text("000001.jpg 3\n")
    with pytest.raises(DataError, match="different images"):
        load("celeba", tmp_path)
    (tmp_path / "celeba" / "identity_CelebA.txt").write_text("000001.jpg\n")
    with pytest.raises(DataError, match="identity_CelebA"):
        load("celeba", tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_the_real_mnist_files(data_root: Path, name: str, folder: str):
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder} folder among the real data")
    data = load(name, data_root)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.input_shape == (1, 28, 28)
    assert np.bincount(data.test.labels, minlength=10).min() > 800
    mean, std = {"mnist": (0.1307, 0.3081), "fashion_mnist": (0.2860, 0.3530)}[name]
    assert abs(data.train.images.mean() / 255 - mean) < 1e-4
    assert abs(data.train.images[:5000].std() / 255 - std) < 5e-3
