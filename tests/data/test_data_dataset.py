import numpy as np
import pytest
import torch

from raysim.data.dataset import Dataset, FederatedData, channel_statistics, expect, normalise, statistics
from raysim.errors import ConfigError, DataError


def grey(count: int, dtype: type = np.uint8) -> Dataset:
    images: np.ndarray = np.arange(count * 4).reshape(count, 1, 2, 2).astype(dtype)
    return Dataset(images, np.arange(count, dtype=np.int64) % 3)


def test_select_copies_in_the_given_order():
    data = grey(5)
    chosen = data.select(np.array([3, 1]))
    assert len(chosen) == 2
    np.testing.assert_array_equal(chosen.images, data.images[[3, 1]])
    np.testing.assert_array_equal(chosen.labels, [0, 1])
    chosen.images[:] = 0
    assert data.images[3].sum() == 12 + 13 + 14 + 15


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 1, 3, 3), np.float64), np.zeros(2, np.int64)),
        (np.zeros((2, 1, 3, 3), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 1, 3, 3), np.uint8), np.zeros(2, np.int32)),
    ],
)
def test_dataset_refuses_other_shapes_and_types(images: np.ndarray, labels: np.ndarray):
    with pytest.raises(DataError):
        Dataset(images, labels)


def test_federated_data_describes_itself():
    data = FederatedData("some", grey(6), grey(3), ("a", "b", "c", "never seen"))
    assert data.num_classes == 4
    assert data.input_shape == (1, 2, 2)
    assert expect(data, (1, 2, 2), 4) is data


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": ("a", "b")}, "span 0..2, but there are 2 classes"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values for 1 channels"),
        ({"owners": np.zeros(2, np.int64)}, "owners"),
        ({"owners": np.zeros(6, np.int32)}, "owners"),
        ({"test": Dataset(np.zeros((1, 1, 2, 3), np.uint8), np.zeros(1, np.int64))}, "test images"),
        ({"test": Dataset(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, np.int64))}, "test set is empty"),
    ],
)
def test_federated_data_refuses(change: dict, says: str):
    fields = {"name": "some", "train": grey(6), "test": grey(3), "classes": ("a", "b", "c")} | change
    with pytest.raises(DataError, match=says):
        FederatedData(**fields)


def test_expect_refuses_another_shape_or_class_count():
    data = FederatedData("some", grey(6), grey(3), ("a", "b", "c"))
    with pytest.raises(DataError, match="images are"):
        expect(data, (1, 28, 28))
    with pytest.raises(DataError, match="3 classes, not 10"):
        expect(data, (1, 2, 2), 10)


def test_normalise_scales_bytes_then_standardises_each_channel():
    images = np.array([[[[0, 255]], [[51, 102]]]], np.uint8)
    result = normalise(images, (0.5, 0.0), (0.25, 2.0))
    expected = torch.tensor([[[[-2.0, 2.0]], [[0.1, 0.2]]]])
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_normalise_leaves_floats_unscaled_and_the_input_alone():
    images = np.full((2, 1, 1, 1), 0.5, np.float32)
    images.setflags(write=False)
    result = normalise(images, (0.0,), (1.0,))
    result += 1
    assert result.flatten().tolist() == [1.5, 1.5]
    assert images.ravel().tolist() == [0.5, 0.5]


def test_normalise_divides_exactly_as_the_reference_does():
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = torch.from_numpy(images.copy()).to(torch.float32).div(255)
    assert torch.equal(normalise(images, (0.0,), (1.0,)), expected)


@pytest.mark.parametrize(
    ("mean", "std", "key"),
    [((0.1, 0.2), (1.0,), "mean"), ((0.0,), (1.0,) * 4, "std"), ((0.0,), (0.0,), "std")],
)
def test_normalise_refuses_wrong_statistics(mean: tuple, std: tuple, key: str):
    with pytest.raises(ConfigError) as caught:
        normalise(np.zeros((1, 3, 2, 2), np.uint8), mean, std)
    assert caught.value.key == key


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channel_statistics_agree_with_the_definition(dtype: type):
    raw = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 4))
    images = raw.astype(np.uint8) if dtype is np.uint8 else (raw / 255).astype(np.float32)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (raw / 255).mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, (raw / 255).std(axis=(0, 2, 3)), rtol=1e-6)
    standard = normalise(images, mean, std).double()
    assert standard.mean().abs() < 1e-6
    assert abs(float(standard.std(correction=0)) - 1) < 1e-6


def test_a_constant_channel_gets_deviation_one():
    assert channel_statistics(np.full((2, 1, 2, 2), 255, np.uint8)) == ((1.0,), (1.0,))


def test_statistics_by_name():
    images = np.zeros((1, 3, 1, 1), np.uint8)
    assert statistics("none", images) == ((0.0,), (1.0,))
    assert statistics("measured", images) == ((0.0,) * 3, (1.0,) * 3)
    assert statistics("imagenet", images)[0] == (0.485, 0.456, 0.406)
    with pytest.raises(ConfigError, match="measured"):
        statistics("mesured", images)
