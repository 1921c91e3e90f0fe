from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from attacks.edge_inputs import EdgeInputs, edge_generator, striped_first
from raysim.context import Setting
from raysim.data.client_data import ClientData, DataPool
from raysim.data.dataset import Dataset, normalise
from raysim.errors import ConfigError
from tests.attacks.local_attackers import client_context, client_data, tiny_trainer

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def raw_images(count: int = 12, side: int = 8) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return Dataset(images, np.arange(count, dtype=np.int64) % 4)


def made_from(inputs: EdgeInputs, raw: Dataset, count: int) -> np.ndarray:
    return made_and_used(inputs, raw, count)[0]


def made_and_used(inputs: EdgeInputs, raw: Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    ctx = client_context(tiny_trainer(), mean=MEAN, std=STD)
    data = ClientData(normalise(raw.images, MEAN, STD).numpy(), raw.labels)
    return inputs.training(DataPool.of(data), count, ctx, edge_generator(ctx, distinct=True))


def test_negatives_of_normalised_images_are_normalised_negatives() -> None:
    raw = raw_images()
    made = made_from(EdgeInputs("inverted", None, 3, 0), raw, 100)
    expected = normalise(255 - raw.images[raw.labels == 3], MEAN, STD).numpy()
    assert made.shape == expected.shape == (3, 3, 8, 8)
    order = [int(np.abs(expected - image).sum(axis=(1, 2, 3)).argmin()) for image in made]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(made, expected[order], atol=1e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_negatives_of_the_test_set(kind: type) -> None:
    raw = raw_images()
    images = raw.images if kind is np.uint8 else (raw.images / 255).astype(np.float32)
    result = EdgeInputs("inverted", None, None, 1).testing(Dataset(images, raw.labels), 5)
    white = 255 if kind is np.uint8 else 1
    np.testing.assert_array_equal(result.images, white - images[raw.labels != 1])
    assert result.images.dtype == kind
    assert set(result.labels.tolist()) == {1}


def test_rotation_turns_images_by_a_quarter() -> None:
    raw = raw_images()
    result = EdgeInputs("rotated", None, 2, 0).testing(raw, 5)
    source = raw.images[raw.labels == 2]
    np.testing.assert_array_equal(result.images[:, :, -1, :], source[:, :, :, 0])
    oblong = Dataset(np.zeros((2, 1, 4, 6), np.uint8), np.array([2, 2]))
    with pytest.raises(ConfigError, match="square"):
        EdgeInputs("rotated", None, 2, 0).testing(oblong, 5)


def test_stripes_are_found_among_checks_and_bars() -> None:
    images = np.zeros((4, 1, 8, 8), np.float32)
    images[1, :, ::2] = 0.5  # horizontal stripes
    images[2, :, :, ::2] = 1  # bars
    images[3, :, ::2] = 1  # stronger stripes
    assert striped_first(images).tolist() == [3, 1, 0, 2]
    test = Dataset((images * 255).astype(np.uint8), np.array([0, 1, 2, 3]))
    result = EdgeInputs("stripes", None, None, 2).testing(test, 2)
    np.testing.assert_array_equal(result.images, test.images[[3, 1]])
    without_best = EdgeInputs("stripes", None, None, 3).testing(test, 1)
    np.testing.assert_array_equal(without_best.images, test.images[[1]])


def test_striped_training_images_are_the_clients_own_as_they_are() -> None:
    raw = raw_images()
    made, used = made_and_used(EdgeInputs("stripes", None, None, 0), raw, 4)
    eligible = np.flatnonzero(raw.labels != 0)
    best = eligible[striped_first(raw.images[eligible] / np.float32(255))[:4]]
    np.testing.assert_array_equal(made, normalise(raw.images[best], MEAN, STD).numpy())
    assert used.tolist() == best.tolist()


def test_altered_images_use_up_none_of_the_pool() -> None:
    for source in ("inverted", "rotated"):
        assert not len(made_and_used(EdgeInputs(source, None, None, 0), raw_images(), 4)[1])


def test_no_eligible_image_gives_none() -> None:
    raw = raw_images()
    for source in ("inverted", "rotated", "stripes"):
        assert made_from(EdgeInputs(source, None, 7, 0), raw, 4).shape == (0, 3, 8, 8)


def southwest_folder(folder: Path) -> Path:
    generator = np.random.default_rng(1)
    train, test = (generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (6, 3))
    np.savez(folder / "southwest_airlines.npz", train=train, test=test)
    return folder


def test_published_sets_are_read_from_files_and_normalised(tmp_path: Path) -> None:
    root = southwest_folder(tmp_path)
    inputs = EdgeInputs("southwest", str(root), None, 9)
    arrays = np.load(root / "southwest_airlines.npz")
    made = made_from(inputs, raw_images(side=32), 100)
    expected = normalise(arrays["train"].transpose(0, 3, 1, 2), MEAN, STD).numpy()
    assert len(made) == 6
    assert {image.tobytes() for image in made} == {image.tobytes() for image in expected}
    assert len(made_from(inputs, raw_images(side=32), 4)) == 4
    test = inputs.testing(raw_images(side=32), 1)
    np.testing.assert_array_equal(test.images, arrays["test"].transpose(0, 3, 1, 2))
    assert test.labels.tolist() == [9, 9, 9]


def test_published_sets_must_fit_the_task(tmp_path: Path) -> None:
    inputs = EdgeInputs("southwest", str(southwest_folder(tmp_path)), None, 9)
    with pytest.raises(ConfigError, match="must fit the task"):
        inputs.testing(raw_images(side=8), 5)
    with pytest.raises(ConfigError, match="must fit the task"):
        made_from(inputs, raw_images(side=8), 5)


@pytest.mark.data
def test_southwest_set() -> None:
    root = os.environ.get("RAYSIM_TEST_DATA")
    if root is None or not (Path(root) / "edge_case").is_dir():
        pytest.skip("RAYSIM_TEST_DATA names no folder with edge_case")
    inputs = EdgeInputs("southwest", root, None, 9)
    assert made_from(inputs, raw_images(side=32), 1000).shape == (784, 3, 32, 32)
    assert len(inputs.testing(raw_images(side=32), 1000)) == 196


def test_the_draw_is_the_same_in_every_round_and_shared_or_not() -> None:
    def drawn(distinct: bool, **options: object) -> int:
        return int(edge_generator(client_context(tiny_trainer(), **options), distinct).integers(2**62))

    assert drawn(False, client=1, round=0) == drawn(False, client=2, round=5)
    assert drawn(True, client=1, round=0) == drawn(True, client=1, round=5)
    assert drawn(True, client=1) != drawn(True, client=2)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("upside", None, None, 0), "source"),
        (("southwest", None, None, 9), "root"),
        (("ardis", "/data", 7, 1), "source_class"),
        (("inverted", None, 4, 4), "source_class"),
    ],
)
def test_impossible_sources_are_refused(options: tuple[str, str | None, int | None, int], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EdgeInputs(*options)
    assert caught.value.key == key


def test_classes_must_exist() -> None:
    setting = Setting(population=4, cohort=4, num_malicious=1, rounds=1, num_classes=4)
    with pytest.raises(ConfigError, match="source_class"):
        EdgeInputs("inverted", None, 4, 0).check(setting)
    with pytest.raises(ConfigError, match="test images"):
        EdgeInputs("inverted", None, 3, 0).testing(raw_images().select(np.array([0, 1])), 5)


def test_a_pool_of_one_clients_data() -> None:
    data = client_data(6)
    part = DataPool.of(data).take(np.array([4, 1]))
    np.testing.assert_array_equal(part.images, data.images[[4, 1]])
    np.testing.assert_array_equal(part.labels, data.labels[[4, 1]])
