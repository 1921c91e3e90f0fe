import numpy as np
import pytest
from sklearn.datasets import load_digits

from raysim.data import load, normalise
from raysim.data.dataset import FederatedData
from raysim.errors import ConfigError


def nearest_mean_accuracy(data: FederatedData) -> float:
    train = data.train.images.reshape(len(data.train), -1).astype(float)
    test = data.test.images.reshape(len(data.test), -1).astype(float)
    means = np.stack([train[data.train.labels == label].mean(axis=0) for label in range(data.num_classes)])
    distances = ((test[:, None] - means) ** 2).sum(axis=2)
    return float((distances.argmin(axis=1) == data.test.labels).mean())


@pytest.mark.parametrize(
    ("shape", "num_classes"), [((1, 28, 28), 10), ((3, 32, 32), 20), ((3, 5, 7), 4), ((1, 1, 2), 2)]
)
def test_synthetic_classes_are_separable(shape: tuple, num_classes: int):
    data = load("synthetic", shape=shape, num_classes=num_classes, train_size=300, test_size=200)
    assert data.input_shape == shape
    assert data.num_classes == num_classes
    assert data.train.images.dtype == np.uint8
    assert nearest_mean_accuracy(data) == 1.0
    assert data.owners is None


def test_synthetic_classes_are_equally_frequent_and_shuffled():
    data = load("synthetic", train_size=203, num_classes=10)
    assert sorted(np.bincount(data.train.labels)) == [20] * 7 + [21] * 3
    assert (np.diff(data.train.labels) != 1).any()
    assert not np.array_equal(data.train.images[:100], data.test.images[:100])


def test_synthetic_noise_is_what_was_asked():
    still = load("synthetic", noise=0.0, train_size=40)
    assert all(len(np.unique(still.train.images[still.train.labels == k], axis=0)) == 1 for k in range(10))
    noisy = load("synthetic", noise=0.05, num_classes=1, shape=(1, 50, 50), train_size=50)
    residual = noisy.train.images.astype(float) - noisy.train.images.mean(axis=0)
    middling = (noisy.train.images.mean(axis=0) > 64) & (noisy.train.images.mean(axis=0) < 191)
    assert middling.any()
    assert abs(residual[:, middling].std() / 255 - 0.05) < 0.002


def test_synthetic_owners_follow_the_limit():
    whole = load("synthetic", train_size=100, num_owners=7)
    assert whole.owners is not None
    assert sorted(np.bincount(whole.owners)) == [14] * 5 + [15] * 2
    limited = load("synthetic", train_size=100, num_owners=7, limit=30)
    assert limited.owners is not None
    for image, owner in zip(limited.train.images, limited.owners, strict=True):
        match = (whole.train.images == image).all(axis=(1, 2, 3))
        assert owner in whole.owners[match]


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"train_size": 2.5},
        {"shape": (28, 28)},
        {"shape": (1, 0, 28)},
        {"noise": -0.1},
        {"num_owners": 0},
        {"num_owners": 2001},
        {"shape": (1, 1, 1), "num_classes": 100},
    ],
)
def test_synthetic_refuses(options: dict):
    with pytest.raises(ConfigError):
        load("synthetic", **options)


def test_digits_are_scikit_learns():
    data = load("digits")
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.input_shape == (1, 8, 8)
    assert data.train.images.dtype == np.float32
    together = np.concatenate([data.train.images, data.test.images]).reshape(-1, 64) * 16
    source = load_digits().data
    order, expected = np.lexsort(together.T), np.lexsort(source.T)
    np.testing.assert_array_equal(together[order], source[expected])
    labels = np.concatenate([data.train.labels, data.test.labels])
    np.testing.assert_array_equal(labels[order], load_digits().target[expected])
    scaled = normalise(data.train.images, data.mean, data.std)
    assert (float(scaled.min()), float(scaled.max())) == (0.0, 1.0)
