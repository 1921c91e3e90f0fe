import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from raysim.data.edge_cases import EDGE_CASES, load_ardis_sevens, load_southwest, read_array_pickle
from raysim.errors import DataError

PLANES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def write_pickles(folder: Path, train: object, test: object, protocol: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in (("train", train), ("test", test)):
        (folder / f"southwest_images_new_{part}.pkl").write_bytes(pickle.dumps(content, protocol))


def test_southwest_from_npz(tmp_path: Path):
    (tmp_path / "edge_case").mkdir()
    np.savez(tmp_path / "edge_case" / "southwest_airlines.npz", train=PLANES[:4], test=PLANES[4:])
    train, test = load_southwest(tmp_path)
    np.testing.assert_array_equal(train.images, PLANES[:4].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test.images, PLANES[4:].transpose(0, 3, 1, 2))
    assert train.labels.tolist() == [9] * 4
    assert test.labels.tolist() == [9] * 2


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["edge_case", "."])
def test_southwest_from_the_authors_pickles(tmp_path: Path, protocol: int, place: str):
    write_pickles(tmp_path / place, PLANES[:4], np.asfortranarray(PLANES[4:]), protocol)
    train, test = load_southwest(tmp_path)
    np.testing.assert_array_equal(train.images, PLANES[:4].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test.images, PLANES[4:].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_pickles_of_old_and_new_numpy_are_read(tmp_path: Path, module: bytes):
    text = pickle.dumps(PLANES, 2).replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module)
    (tmp_path / "a.pkl").write_bytes(text)
    np.testing.assert_array_equal(read_array_pickle(tmp_path / "a.pkl"), PLANES)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_pickle_is_not_run(tmp_path: Path):
    marker = tmp_path / "was run"
    write_pickles(tmp_path, Hostile(marker), PLANES)
    with pytest.raises(DataError, match="mkdir"):
        load_southwest(tmp_path)
    assert not marker.exists()
    pickle.loads((tmp_path / "southwest_images_new_train.pkl").read_bytes())
    assert marker.exists()  # so the file was hostile indeed


@pytest.mark.parametrize(
    "content",
    [
        [1, 2, 3],
        {"train": PLANES},
        PLANES.astype(np.float32),
        np.array([[1], "text", None], dtype=object),
        np.dtype(np.uint8),
        b"",
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_other_pickles_are_refused(tmp_path: Path, content: object, protocol: int):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(DataError, match="uint8 array"):
        read_array_pickle(tmp_path / "a.pkl")


def test_damaged_pickles_are_refused(tmp_path: Path):
    whole = pickle.dumps(PLANES, 3)
    for cut in (0, 10, 60, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.pkl").write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read_array_pickle(tmp_path / "a.pkl")
    shorter = pickle.dumps(PLANES, 3).replace(b"K\x06K K K\x03", b"K\x07K K K\x03")
    assert shorter != whole
    (tmp_path / "a.pkl").write_bytes(shorter)
    with pytest.raises(DataError):
        read_array_pickle(tmp_path / "a.pkl")


def test_southwest_shapes_are_checked(tmp_path: Path):
    for wrong in (PLANES[:, :30], PLANES.astype(np.float32), PLANES[:0], PLANES[0]):
        np.savez(tmp_path / "southwest_airlines.npz", train=wrong, test=PLANES)
        with pytest.raises(DataError, match="must be uint8"):
            load_southwest(tmp_path)
    np.savez(tmp_path / "southwest_airlines.npz", train=PLANES)
    with pytest.raises(DataError, match="arrays train and test"):
        load_southwest(tmp_path)


def write_ardis(folder: Path, one_hot: bool) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 784))
    digits = np.array([7, 3, 7, 0, 9])
    for part in ("train", "test"):
        np.savetxt(folder / f"ARDIS_{part}_2828.csv", pixels, fmt="%.1f")
        np.savetxt(folder / f"ARDIS_{part}_labels.csv", np.eye(10)[digits] if one_hot else digits, fmt="%d")
    return pixels[[0, 2]].reshape(2, 1, 28, 28)


@pytest.mark.parametrize("one_hot", [True, False])
def test_ardis_sevens_from_the_published_texts(tmp_path: Path, one_hot: bool):
    sevens = write_ardis(tmp_path / "edge_case", one_hot)
    train, test = load_ardis_sevens(tmp_path)
    np.testing.assert_array_equal(train.images, sevens)
    np.testing.assert_array_equal(test.images, sevens)
    assert train.images.dtype == np.uint8
    assert train.labels.tolist() == [1, 1]


def test_ardis_sevens_from_npz(tmp_path: Path):
    sevens = np.arange(3 * 784).reshape(3, 28, 28).astype(np.uint8)
    np.savez(tmp_path / "ardis_sevens.npz", train=sevens, test=sevens[:1])
    train, test = load_ardis_sevens(tmp_path)
    np.testing.assert_array_equal(train.images[:, 0], sevens)
    assert (len(test), test.labels.tolist()) == (1, [1])


def test_ardis_texts_are_checked(tmp_path: Path):
    write_ardis(tmp_path, one_hot=True)
    (tmp_path / "ARDIS_train_labels.csv").write_text("7\n7\n")
    with pytest.raises(DataError, match="one line for each of the 2 labels"):
        load_ardis_sevens(tmp_path)
    write_ardis(tmp_path, one_hot=True)
    (tmp_path / "ARDIS_test_2828.csv").write_text("1,2,3\n")
    with pytest.raises(DataError, match="cannot be read"):
        load_ardis_sevens(tmp_path)
    write_ardis(tmp_path, one_hot=True)
    np.savetxt(tmp_path / "ARDIS_test_2828.csv", np.full((5, 784), 300))
    with pytest.raises(DataError, match=r"not 0\.\.255"):
        load_ardis_sevens(tmp_path)


@pytest.mark.parametrize("name", sorted(EDGE_CASES))
def test_missing_files_are_named(tmp_path: Path, name: str):
    with pytest.raises(DataError, match=f"{name}: put .*npz.* into"):
        EDGE_CASES[name](tmp_path)


@pytest.mark.data
def test_the_real_southwest_set(data_root: Path):
    if not (data_root / "edge_case").is_dir():
        pytest.skip("no edge_case folder among the real data")
    train, test = load_southwest(data_root)
    assert train.images.shape == (784, 3, 32, 32)
    assert test.images.shape == (196, 3, 32, 32)
    assert train.images.std() > 30
