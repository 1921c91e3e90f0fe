"""Decoding image files of any common format into one uint8 array, with Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import doc

from raysim.errors import ConfigError, DataError
from raysim.options import PositiveInt

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"})
"""File name endings (lower case) that count as images in folders."""

Side = Annotated[PositiveInt, doc("Height and width, in pixels, that images are resized to.")]
"""The option `size` of data sets whose images are made square."""

Size = Annotated[
    PositiveInt | tuple[PositiveInt, PositiveInt] | None,
    doc("Pixels that images are resized to: a side, or [height, width]; null: as the first one is stored."),
]
"""The option `size` of data sets of any shape."""

Channels = Annotated[
    Literal[1, 3] | None,
    doc("1 (grey) or 3 (colour), which images are converted to; null: as the first one is."),
]
"""The option `channels` of data sets."""

GREY_MODES = frozenset({"1", "L", "LA"})


@dataclass(frozen=True)
class ImageFormat:
    """What every image of a data set is brought to.

    size: (height, width) to resize to (Pillow's bilinear filter, which averages when shrinking); None keeps
    the first image's own size and refuses images of another. channels: 1 (grey) or 3 (RGB); None takes the
    first image's and refuses colour after grey. square: cut the centred largest square out first.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    square: bool = False

    @classmethod
    def of(
        cls, size: int | tuple[int, int] | None, channels: int | None, square: bool = False
    ) -> ImageFormat:
        """From option values: `size` may be one number for a square. Raises ConfigError."""
        if channels not in (None, 1, 3):
            raise ConfigError("channels", "must be 1 or 3", channels)
        if size is None:
            return cls(None, channels, square)
        sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
        if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
            raise ConfigError("size", "must be a positive number or (height, width)", size)
        return cls(sides, channels, square)

    def like(self, images: np.ndarray) -> ImageFormat:
        """The format for more images to stand beside `images` [n, C, H, W]: colour if those are."""
        return replace(self, channels=3 if images.shape[1] == 3 else self.channels)


def stack(items: Iterable[tuple[int, bytes | Path, str]], count: int, form: ImageFormat) -> np.ndarray:
    """Decode `count` images into uint8 [count, C, H, W].

    items: (position in the result, encoded bytes or path, what to call it in errors), every position once.
    Raises DataError if one cannot be decoded or does not fit the others.
    """
    result: np.ndarray | None = None
    for position, source, name in items:
        pixels = _decode(source, name, form)
        if result is None:
            result = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape[1:] != result.shape[2:]:
            raise DataError(
                f"{name} is {pixels.shape[1]} x {pixels.shape[2]} pixels, the first image"
                f" {result.shape[2]} x {result.shape[3]}: give the option size"
            )
        if len(pixels) > result.shape[1]:
            raise DataError(f"{name} is in colour, the first image is grey: give the option channels")
        result[position] = pixels  # a grey image among colour ones fills all three channels
    if result is None:
        raise DataError("no images to decode")
    return result


def _decode(source: bytes | Path, name: str, form: ImageFormat) -> np.ndarray:
    """One image as uint8 [C, H, W]."""
    from PIL import Image

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise DataError(f"{name}: pixels of mode {image.mode} are not 8-bit")
            grey = image.mode in GREY_MODES if form.channels is None else form.channels == 1
            mode = "L" if grey else "RGB"
            picture = image if image.mode == mode else image.convert(mode)
            if form.square:
                picture = _centre_square(picture)
            if form.size is not None and picture.size != form.size[::-1]:
                picture = picture.resize(form.size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: cannot be decoded as an image: {error}") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _centre_square(picture: Picture) -> Picture:
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))
