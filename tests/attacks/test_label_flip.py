from __future__ import annotations

import numpy as np
import pytest

from attacks.label_flip import LabelFlip
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset
from raysim.errors import ConfigError
from tests.attacks.local_attackers import client_context, client_data, tiny_trainer

LABELS = np.array([0, 1, 2, 3, 2, 2, 0], np.int64)


def flipped(attack: LabelFlip, labels: np.ndarray = LABELS, **options: object) -> np.ndarray:
    ctx = client_context(tiny_trainer(), **options)
    data = ClientData(np.zeros((len(labels), 1, 8, 8), np.float32), labels)
    return attack.poison_data(data, ctx).labels


def test_inverse_mirrors_the_classes() -> None:
    assert flipped(LabelFlip()).tolist() == [3, 2, 1, 0, 1, 1, 3]


def test_pair_changes_the_source_class_alone() -> None:
    assert flipped(LabelFlip("pair", source=2, target=3)).tolist() == [0, 1, 3, 3, 3, 3, 0]


def test_all_to_one() -> None:
    assert flipped(LabelFlip("all_to_one", target=1)).tolist() == [1] * 7


def test_random_labels_are_wrong_valid_and_the_same_in_every_round() -> None:
    labels = np.repeat(np.arange(4), 50)
    first = flipped(LabelFlip("random"), labels, round=0)
    assert (first != labels).all()
    assert set(first.tolist()) == {0, 1, 2, 3}
    np.testing.assert_array_equal(first, flipped(LabelFlip("random"), labels, round=7))
    assert (first != flipped(LabelFlip("random"), labels, client=6)).any()


def test_ratio_is_of_the_samples_the_mode_touches() -> None:
    labels = np.array([2] * 8 + [0] * 8)
    result = flipped(LabelFlip("pair", source=2, target=1, ratio=0.25), labels)
    assert (result == 1).sum() == 2
    assert (result[8:] == 0).all()


def test_a_client_without_the_source_is_honest_and_says_so() -> None:
    ctx = client_context(tiny_trainer())
    data = client_data(4)
    without = ClientData(data.images[:2], data.labels[:2])
    assert LabelFlip("pair", source=2, target=0).poison_data(without, ctx) is without
    assert ctx.notes == ["no label to flip"]


def test_input_is_not_changed() -> None:
    data = client_data(8)
    before = data.labels.copy()
    poisoned = LabelFlip().poison_data(data, client_context(tiny_trainer()))
    np.testing.assert_array_equal(data.labels, before)
    assert poisoned.images is data.images


def test_success_is_measured_where_there_is_a_target() -> None:
    test = Dataset(np.arange(7 * 64, dtype=np.float32).reshape(7, 1, 8, 8) / 448, LABELS)
    pair = LabelFlip("pair", source=2, target=3).triggered_test(test)
    assert pair is not None
    assert pair.labels.tolist() == [3, 3, 3]
    np.testing.assert_array_equal(pair.images, test.images[[2, 4, 5]])
    to_one = LabelFlip("all_to_one", target=0).triggered_test(test)
    assert to_one is not None
    assert len(to_one) == 5
    assert LabelFlip().triggered_test(test) is None
    with pytest.raises(ConfigError, match="source"):
        LabelFlip("pair", source=2, target=3).triggered_test(test.select(np.array([0, 1])))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"mode": "inverted"}, "mode"),
        ({"mode": "pair", "target": 1}, "source"),
        ({"mode": "pair", "source": 1}, "target"),
        ({"mode": "pair", "source": 1, "target": 1}, "target"),
        ({"mode": "inverse", "target": 1}, "target"),
        ({"mode": "all_to_one", "target": 1, "source": 0}, "source"),
        ({"ratio": 0.0}, "ratio"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LabelFlip(**options)  # type: ignore[arg-type]
    assert caught.value.key == key


def test_classes_that_do_not_exist_are_refused() -> None:
    setting = Setting(population=4, cohort=4, num_malicious=1, rounds=1, num_classes=10)
    LabelFlip("pair", source=2, target=7).check(setting)
    with pytest.raises(ConfigError, match="target"):
        LabelFlip("pair", source=2, target=10).check(setting)
