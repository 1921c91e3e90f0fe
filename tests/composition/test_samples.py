"""The samples that the server sets aside, from either set, and those that are left to clients and to tests."""

from __future__ import annotations

import numpy as np
import pytest

from raysim import ConfigError, DataError
from raysim.composition.compose import compose
from raysim.composition.samples import load_data, set_aside
from raysim.data.dataset import normalise
from tests.composition.own_components import config_of


@pytest.fixture(scope="module")
def digits():
    return load_data(config_of())


def test_server_samples_leave_the_training_set(digits):
    held, taken, test = set_aside(config_of(), digits)
    assert len(held) == len(taken) == 20
    assert test is digits.test
    own = {image.tobytes() for image in held.images}
    assert own == {
        image.tobytes() for image in normalise(digits.train.images[taken], digits.mean, digits.std).numpy()
    }
    labels = {image.tobytes(): label for image, label in zip(held.images, held.labels, strict=True)}
    for index in taken:
        image = normalise(digits.train.images[[index]], digits.mean, digits.std).numpy()[0]
        assert labels[image.tobytes()] == digits.train.labels[index]


def test_server_samples_leave_the_test_set(digits):
    held, taken, test = set_aside(config_of(server_data={"samples": 10, "source": "test"}), digits)
    assert len(taken) == 0
    assert (len(held), len(test)) == (10, len(digits.test) - 10)
    kept = {image.tobytes() for image in test.images}
    assert not kept & {image.tobytes() for image in held.images}


@pytest.mark.parametrize("source", ["train", "test"])
def test_server_samples_of_certain_classes(digits, source):
    wanted = {"samples": 6, "classes": [3, 8], "source": source}
    held, taken, _ = set_aside(config_of(server_data=wanted), digits)
    assert set(held.labels.tolist()) <= {3, 8}
    assert len(held) == 6
    if source == "train":
        assert sorted(digits.train.labels[taken]) == sorted(held.labels)


def test_server_samples_follow_the_seed_and_none_are_none(digits):
    def drawn(**values):
        return set_aside(config_of(**values), digits)[1].tolist()

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    held, taken, test = set_aside(config_of(server_data={"samples": 0}), digits)
    assert held is None
    assert len(taken) == 0
    assert test is digits.test


@pytest.mark.parametrize(
    ("wanted", "key", "rule"),
    [
        ({"samples": 200}, "server_data.samples", "some of the 200 samples of that kind in the train set"),
        ({"samples": 40, "source": "test"}, "server_data.samples", "some of the 40 samples"),
        ({"samples": 5, "classes": [1, 10]}, "server_data.classes", "classes from 0 to 9"),
        ({"samples": 5, "classes": []}, "server_data.classes", "classes from 0 to 9"),
    ],
)
def test_more_than_there_is_cannot_be_set_aside(digits, wanted, key, rule):
    with pytest.raises(ConfigError) as caught:
        set_aside(config_of(server_data=wanted), digits)
    assert caught.value.key == key
    assert rule in caught.value.rule


@pytest.mark.parametrize("source", ["train", "test"])
def test_no_client_and_no_test_set_holds_a_server_sample(source):
    experiment = compose(config_of(server_data={"samples": 20, "source": source}))
    images, _, indices, offsets, test_images, _ = experiment.arrays
    assert len(set(indices.tolist())) == len(indices)
    mean, std = experiment.setup.mean, experiment.setup.std
    server = {image.tobytes() for image in experiment.server_data.images}
    for others in (images[indices], test_images):
        assert not server & {image.tobytes() for image in normalise(others, mean, std).numpy()}
    assert offsets[-1] == len(indices) == (180 if source == "train" else 200)
    np.testing.assert_array_equal(np.diff(offsets), experiment.sizes)
    assert experiment.test_sizes == (len(test_images),)


def test_missing_data_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cifar10"):
        compose(config_of(data={"name": "cifar10", "root": str(tmp_path)}))
