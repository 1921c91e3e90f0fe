"""Pixel patterns against the published ones, and stamping."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.triggers import corner_patch, dba_strips, stamp, triggered, white
from raysim.data.dataset import Dataset, normalise
from raysim.errors import ConfigError
from tests.attacks.local_attackers import client_context, tiny_trainer


def cells(rows: range, columns: range) -> set[tuple[int, int]]:
    return {(row, column) for row in rows for column in columns}


def as_cells(pattern: np.ndarray) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in pattern}


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        (28, [range(0, 1), range(3, 4)], [range(0, 4), range(6, 10)]),  # MNIST: 1 x 4, gap 2
        (32, [range(0, 1), range(4, 5)], [range(0, 6), range(9, 15)]),  # CIFAR: 1 x 6, gap 3
        (64, [range(0, 2), range(4, 6)], [range(0, 10), range(12, 22)]),  # Tiny-ImageNet: 2 x 10, gap 2
        (8, [range(0, 1), range(2, 3)], [range(0, 3), range(4, 7)]),
    ],
)
def test_strips_lie_where_published(size: int, rows: list[range], columns: list[range]) -> None:
    strips = dba_strips(size, size)
    expected = [cells(row, column) for row in rows for column in columns]
    assert [as_cells(strip) for strip in strips] == expected


def test_segment_and_gap_can_be_given() -> None:
    strips = dba_strips(28, 28, segment=8, gap=2)
    assert as_cells(strips[3]) == cells(range(3, 4), range(10, 18))


def test_patch_is_the_lower_right_corner() -> None:
    assert as_cells(corner_patch(8, 10, 3)) == cells(range(5, 8), range(7, 10))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: corner_patch(2, 8, 3), "patch_size"),
        (lambda: dba_strips(28, 28, segment=14), "segment"),
        (lambda: dba_strips(2, 28), "gap"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(make: object, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()  # type: ignore[operator]
    assert caught.value.key == key


def test_white_is_what_a_white_pixel_becomes() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    ctx = client_context(tiny_trainer(), mean=mean, std=std)
    value = white(3, ctx)
    np.testing.assert_allclose(value[:, 0], (1 - np.array(mean)) / np.array(std), rtol=1e-6)
    raw = np.full((1, 3, 2, 2), 255, np.uint8)
    np.testing.assert_array_equal(normalise(raw, mean, std).numpy()[0, :, 0, :1], value)


def test_stamping_normalised_images_equals_normalising_stamped_ones() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    ctx = client_context(tiny_trainer(), mean=mean, std=std)
    raw = np.random.default_rng(0).integers(0, 255, (2, 3, 8, 8), dtype=np.uint8)
    pixels = dba_strips(8, 8)[1]
    images = normalise(raw, mean, std).numpy()
    stamp(images, pixels, white(3, ctx))
    stamp(raw, pixels, 255)
    np.testing.assert_array_equal(images, normalise(raw, mean, std).numpy())


@pytest.mark.parametrize(("dtype", "bright"), [(np.uint8, 255.0), (np.float32, 1.0)])
def test_triggered_test_leaves_out_the_target_class(dtype: type, bright: float) -> None:
    images: np.ndarray = np.tile(np.linspace(0, bright / 2, 4)[:, None, None, None], (1, 2, 8, 8)).astype(
        dtype
    )
    test = Dataset(images, np.array([2, 0, 2, 1]))
    before = test.images.copy()
    result = triggered(test, corner_patch(8, 8, 3), target=2)
    assert result.labels.tolist() == [2, 2]
    assert result.images.dtype == dtype
    assert (result.images[:, :, 5:, 5:] == bright).all()
    np.testing.assert_array_equal(result.images[:, :, :5], test.images[[1, 3], :, :5])
    np.testing.assert_array_equal(test.images, before)


def test_a_test_set_of_the_target_alone_is_refused() -> None:
    test = Dataset(np.zeros((2, 1, 8, 8), np.uint8), np.array([2, 2]))
    with pytest.raises(ConfigError, match="target"):
        triggered(test, corner_patch(8, 8), 2)
