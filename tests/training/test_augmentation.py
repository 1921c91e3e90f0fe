"""Crops and mirrored images against loops by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raysim.errors import ConfigError
from raysim.training.augmentation import augmented, check_augmentable
from raysim.training.recipe import Augmentation


@pytest.mark.parametrize(("kind", "padding"), [("crop_flip", 4), ("crop", 2), ("flip", 4)])
def test_crops_of_the_reflected_image_and_images_mirrored_half_of_the_time(
    kind: Augmentation, padding: int
) -> None:
    images = np.random.default_rng(0).random((40, 2, 6, 7), np.float32)
    found = augmented(torch.from_numpy(images), kind, padding, np.random.default_rng(1)).numpy()
    draw = np.random.default_rng(1)
    down = right = np.full(40, padding)
    if "crop" in kind:
        down, right = draw.integers(0, 2 * padding + 1, (2, 40))
        assert set(down) == set(range(2 * padding + 1))
    mirrored = draw.random(40) < 0.5 if "flip" in kind else np.zeros(40, bool)
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode="reflect")
    for number in range(40):
        crop = padded[number, :, down[number] : down[number] + 6, right[number] : right[number] + 7]
        np.testing.assert_array_equal(found[number], crop[..., ::-1] if mirrored[number] else crop)
    assert ("flip" in kind) == (5 < mirrored.sum() < 35)


def test_images_are_left_alone_without_augmentation() -> None:
    images = torch.rand(3, 1, 5, 5)
    assert augmented(images, "none", 4, np.random.default_rng(0)) is images


@pytest.mark.parametrize("shape", [(7,), (1, 4, 9), (3, 9, 4)])
def test_what_is_no_image_of_five_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"training\.augmentation.*4 x 4"):
        check_augmentable(shape, "crop_flip", 4)
    check_augmentable((1, 5, 5), "crop_flip", 4)
    check_augmentable(shape, "none", 4)


def test_small_images_are_mirrored_or_cropped_less() -> None:
    check_augmentable((1, 4, 9), "flip", 4)
    check_augmentable((1, 4, 9), "crop", 2)
    with pytest.raises(ConfigError, match="only images are mirrored"):
        check_augmentable((7,), "flip", 4)
