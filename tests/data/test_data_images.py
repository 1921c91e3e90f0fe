import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raysim.data import load
from raysim.data.images import ImageFormat, stack
from raysim.errors import ConfigError, DataError


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_pixels_arrive_unchanged_channels_first_in_place(tmp_path: Path):
    first, second = pixels(0, 4, 6, 3), pixels(1, 4, 6, 3)
    (tmp_path / "b.png").write_bytes(encode(second))
    result = stack([(1, encode(first), "a"), (0, tmp_path / "b.png", "b")], 2, ImageFormat())
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[1], first.transpose(2, 0, 1))
    np.testing.assert_array_equal(result[0], second.transpose(2, 0, 1))


def test_grey_stays_grey_and_fills_colour():
    grey, colour = pixels(0, 3, 3), pixels(1, 3, 3, 3)
    assert stack([(0, encode(grey), "g")], 1, ImageFormat()).shape == (1, 1, 3, 3)
    mixed = stack([(0, encode(colour), "c"), (1, encode(grey), "g")], 2, ImageFormat())
    np.testing.assert_array_equal(mixed[1], np.stack([grey] * 3))
    with pytest.raises(DataError, match="channels"):
        stack([(0, encode(grey), "g"), (1, encode(colour), "c")], 2, ImageFormat())
    assert ImageFormat().like(mixed).channels == 3
    assert ImageFormat().like(mixed[:, :1]).channels is None


def test_colour_to_grey_is_the_luma():
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert stack([(0, encode(red), "r")], 1, ImageFormat.of(None, 1)).ravel().tolist() == [76] * 4


def test_palette_and_transparency_become_colour():
    buffer = io.BytesIO()
    Image.fromarray(pixels(0, 4, 4, 3)).convert("P").save(buffer, "PNG")
    rgba = encode(pixels(1, 4, 4, 4))
    assert stack([(0, buffer.getvalue(), "p"), (1, rgba, "a")], 2, ImageFormat()).shape == (2, 3, 4, 4)


def test_resizing_and_the_centre_square():
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 200
    square = stack([(0, encode(wide), "w")], 1, ImageFormat.of(2, None, square=True))
    assert square.tolist() == [[[[200, 200], [200, 200]]]]
    assert stack([(0, encode(wide), "w")], 1, ImageFormat.of((3, 5), 3)).shape == (1, 3, 3, 5)


def test_unequal_sizes_need_the_option():
    images = [(0, encode(pixels(0, 4, 4)), "first"), (1, encode(pixels(1, 5, 4)), "second")]
    with pytest.raises(DataError, match=r"second is 5 x 4 pixels.*size"):
        stack(images, 2, ImageFormat())
    assert stack(images, 2, ImageFormat.of(4, None)).shape == (2, 1, 4, 4)


def test_what_cannot_be_decoded_is_named():
    good = encode(pixels(0, 40, 40, 3), "JPEG")
    for bad in (b"", b"no image", good[: len(good) // 2]):
        with pytest.raises(DataError, match="row 7"):
            stack([(0, bad, "row 7")], 1, ImageFormat())
    deep = encode(np.full((2, 2), 40_000, np.uint16))
    with pytest.raises(DataError, match="not 8-bit"):
        stack([(0, deep, "deep")], 1, ImageFormat())
    with pytest.raises(DataError, match="no images"):
        stack([], 0, ImageFormat())


@pytest.mark.parametrize("size", [0, -3, 2.5, (3,), (3, 0), "ab", True])
def test_sizes_are_checked(size: object):
    with pytest.raises(ConfigError, match="size"):
        ImageFormat.of(size, None)  # type: ignore[arg-type]


def test_channels_are_checked():
    with pytest.raises(ConfigError, match="channels"):
        ImageFormat.of(None, 2)


def make_folder(
    root: Path, classes: dict[str, int], shape: tuple[int, ...] = (4, 4, 3), suffix: str = ".png"
) -> None:
    for label, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture = np.full(shape, 40 * label + number, np.uint8)
            Image.fromarray(picture).save(root / name / f"{number:02d}{suffix}")


def test_image_folder_with_a_split(tmp_path: Path):
    make_folder(tmp_path / "train", {"cat": 3, "ant": 2})
    make_folder(tmp_path / "val", {"cat": 1, "ant": 2})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    data = load("image_folder", tmp_path)
    assert data.classes == ("ant", "cat")
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [40, 41, 0, 1, 2]
    assert data.test.labels.tolist() == [0, 0, 1]
    with pytest.raises(ConfigError, match="val"):
        load("image_folder", tmp_path, test_share=0.2)


def test_image_folder_without_a_split_is_held_out(tmp_path: Path):
    make_folder(tmp_path, {"a": 6, "b": 4})
    data = load("image_folder", tmp_path, test_share=0.3, seed=5)
    assert (len(data.train), len(data.test)) == (7, 3)
    seen = np.concatenate([data.train.images, data.test.images])[:, 0, 0, 0]
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 40, 41, 42, 43]
    np.testing.assert_array_equal(data.train.labels, data.train.images[:, 0, 0, 0] // 40)


def test_image_folder_decodes_only_what_a_limit_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_folder(tmp_path / "train", {"a": 20, "b": 20})
    make_folder(tmp_path / "test", {"a": 5, "b": 5})
    opened: list[object] = []
    real = Image.open

    def counting(file: Any) -> Image.Image:
        opened.append(file)
        return real(file)

    monkeypatch.setattr(Image, "open", counting)
    data = load("image_folder", tmp_path, limit=10)
    assert len(opened) == 12
    assert (len(data.train), len(data.test)) == (10, 2)
    np.testing.assert_array_equal(data.train.labels, data.train.images[:, 0, 0, 0] // 40)


def test_image_folder_mistakes(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 1, "b": 1})
    with pytest.raises(DataError, match="none of test, val"):
        load("image_folder", tmp_path)
    make_folder(tmp_path / "test", {"a": 1, "c": 1})
    with pytest.raises(DataError, match=r"not classes of the training set.*'c'"):
        load("image_folder", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        load("image_folder", tmp_path / "empty")
    (tmp_path / "test" / "c").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="holds no image"):
        load("image_folder", tmp_path)


def test_hidden_copies_and_what_is_no_image_are_left_out(tmp_path: Path):
    make_folder(tmp_path, {"a": 5, "b": 5})
    for name in ("a", "b"):
        for hidden in (".ipynb_checkpoints", "deeper/.thumbnails"):
            copy = tmp_path / name / hidden / "00-checkpoint.png"
            copy.parent.mkdir(parents=True)
            copy.write_bytes((tmp_path / name / "00.png").read_bytes())
        for junk in ("._00.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (tmp_path / name / junk).write_bytes(b"\0\5\26\7 no image")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    data = load("image_folder", tmp_path)
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.test) == 10


def test_a_folder_below_a_hidden_one_is_an_ordinary_folder(tmp_path: Path):
    make_folder(tmp_path / ".cache" / "mine", {"a": 2, "b": 2})
    assert load("image_folder", tmp_path / ".cache" / "mine").num_classes == 2


# what Pillow says of the rest of a damaged TIFF file before it gives up
@pytest.mark.filterwarnings("ignore:(Corrupt EXIF data|Truncated File Read):UserWarning")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".ppm", ".bmp", ".tif", ".webp"])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, suffix: str):
    make_folder(tmp_path, {"a": 2, "b": 2}, suffix=suffix)
    broken = tmp_path / "b" / f"01{suffix}"
    whole = broken.read_bytes()
    for length in (0, 3, 9, 20, len(whole) // 2):
        broken.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"b/01\{suffix}: cannot be decoded as an image"):
            load("image_folder", tmp_path)
