"""Encoded images (PNG, JPEG) to one uint8 array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.info import DatasetInfo

_FORMATS = ("PNG", "JPEG")  # nothing else is tried: fewer decoders see untrusted bytes
_MODES = {1: ("L", "greyscale"), 3: ("RGB", "colour")}


def decode_images(
    encoded: Sequence[bytes | None], info: DatasetInfo, where: Callable[[int], str]
) -> NDArray[np.uint8]:
    """Decode a whole column of images.

    One thread: at 28 to 64 pixels a side the interpreter's lock dominates, and a pool measured
    slower for PNG and no faster for JPEG. About 0.1 ms an image.

    Args:
        encoded: one PNG or JPEG file each, as bytes.
        info: the data set, whose size and channels every image must have. Nothing is resized or
            converted, except that Tiny ImageNet's greyscale images become RGB.
        where: row number to its description for messages, such as `row 3 of train.parquet`.

    Returns:
        uint8 (N, C, H, W).

    Raises:
        InputError: bytes that are no image, or another size or mode; names the first such row.
    """
    images = np.empty((len(encoded), info.channels, *info.image_size), dtype=np.uint8)

    for row, data in enumerate(encoded):
        images[row] = _decode(data, info, where, row)
    return images


def _decode(
    data: bytes | None, info: DatasetInfo, where: Callable[[int], str], row: int
) -> NDArray[np.uint8]:
    """One image as uint8 (C, H, W)."""
    if data is None:
        raise InputError(f"{where(row)} has no image bytes; the pixels must be in the file itself")
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            _check_form(image, info, where, row)
            if info.grey_to_rgb and image.mode == "L":
                pixels = np.asarray(image.convert("RGB"))
            else:
                pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where(row)} cannot be decoded as {' or '.join(_FORMATS)} ({len(data)} bytes): "
            f"{error}; is the file damaged?"
        ) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _check_form(
    image: Image.Image, info: DatasetInfo, where: Callable[[int], str], row: int
) -> None:
    height, width = info.image_size
    mode, colour = _MODES[info.channels]
    if image.size != (width, height):
        raise InputError(
            f"{where(row)} is {image.height}x{image.width} (height x width), but {info.name} is "
            f"{height}x{width}; images are not resized: is it another data set?"
        )
    if image.mode != mode and not (info.grey_to_rgb and image.mode == "L"):
        raise InputError(
            f"{where(row)} has mode {image.mode}, but {info.name} is {colour} (mode {mode}); "
            "images are not converted: is it another data set?"
        )
