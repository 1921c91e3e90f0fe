"""Crops and mirrored images against loops by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raysim.errors import ConfigError
from raysim.training.augmentation import PADDING, check_augmentable, crop_flip


def test_crops_of_the_reflected_image_mirrored_half_of_the_time() -> None:
    images = np.random.default_rng(0).random((40, 2, 6, 7), np.float32)
    found = crop_flip(torch.from_numpy(images), np.random.default_rng(1)).numpy()
    draw = np.random.default_rng(1)
    down, right = draw.integers(0, 2 * PADDING + 1, (2, 40))
    mirrored = draw.random(40) < 0.5
    padded = np.pad(images, ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)), mode="reflect")
    for number in range(40):
        crop = padded[number, :, down[number] : down[number] + 6, right[number] : right[number] + 7]
        np.testing.assert_array_equal(found[number], crop[..., ::-1] if mirrored[number] else crop)
    assert 5 < mirrored.sum() < 35
    assert set(down) == set(range(2 * PADDING + 1))


@pytest.mark.parametrize("shape", [(7,), (1, 4, 9), (3, 9, 4)])
def test_what_is_no_image_of_five_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"training\.augmentation"):
        check_augmentable(shape)
    check_augmentable((1, 5, 5))
