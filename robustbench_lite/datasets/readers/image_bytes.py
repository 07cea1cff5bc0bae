"""Encoded images (PNG, JPEG) to one array."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Pixels
from robustbench_lite.datasets.info import DatasetInfo

_FORMATS = ("PNG", "JPEG")  # of a user's files: fewer decoders see untrusted bytes
_MODES = {1: ("L", "greyscale"), 3: ("RGB", "colour")}
_SIXTEEN = ("I;16", "16-bit greyscale")
_FORMS = {"L": 1, "I;16": 1, "RGB": 3, "P": 3}  # of a user's images: mode to channels
_MOST_PIXELS = 50_000_000  # of one image: a small file can hold far more

Where = Callable[[int], str]


def decode_images(encoded: Sequence[bytes | None], info: DatasetInfo, where: Where) -> Pixels:
    """Decode a whole column of images.

    One thread: at 28 to 64 pixels a side the interpreter's lock dominates, and a pool measured
    slower for PNG and no faster for JPEG. About 0.1 ms an image.

    Args:
        encoded: one PNG or JPEG file each, as bytes.
        info: the data set, whose size and channels every image must have. Nothing is resized or
            converted, except as its `resize` and `to_rgb` say.
        where: row number to its description for messages, such as `row 3 of train.parquet`.

    Returns:
        uint8 (N, C, H, W); of 16-bit images float32 in [0, 1].

    Raises:
        InputError: bytes that are no image, or another size or mode; names the first such row.
    """
    shape = (len(encoded), info.channels, *info.image_size)
    images: Pixels = np.empty(shape, dtype=np.uint8)
    if info.sixteen_bit:
        images = np.empty(shape, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_check_form` refuses
        for row in range(len(encoded)):
            images[row] = _decode(encoded[row], info, lambda row=row: where(row))  # type: ignore[misc]
    return images


def first_form(data: bytes | None, where: str) -> tuple[int, tuple[int, int], bool]:
    """What a user's first image is: the form that all must have.

    Args:
        data: a PNG or JPEG file.
        where: its name, for messages.

    Returns:
        Channels, (height, width), and whether it is greyscale of 16 bits.

    Raises:
        InputError: bytes that are no image, or neither greyscale nor RGB.
    """
    with _opened(data, _FORMATS, lambda: where) as image:
        if image.mode not in _FORMS:
            raise InputError(
                f"{where} has mode {image.mode}; images must be greyscale (L, 16 bits: I;16) or "
                "colour (RGB): convert them, and transparency to a background"
            )
        return _FORMS[image.mode], (image.height, image.width), image.mode == "I;16"


def _decode(data: bytes | None, info: DatasetInfo, where: Callable[[], str]) -> Pixels:
    """One image as uint8 or float32 (C, H, W)."""
    with _opened(data, info.formats, where) as image:
        _check_form(image, info, where)
        try:
            pixels: Pixels = np.asarray(_prepared(image, info))
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(data or b"", info.formats, where, error) from error
    if info.sixteen_bit:
        pixels = pixels.clip(0.0, 1.0)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _opened(data: bytes | None, formats: tuple[str, ...], where: Callable[[], str]) -> Image.Image:
    """The image whose header is read, and whose size and depth can be decoded."""
    if data is None:
        raise InputError(f"{where()} has no image bytes; the pixels must be in the file itself")
    try:
        image = Image.open(BytesIO(data), formats=formats)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(data, formats, where, error) from error
    if image.width * image.height > _MOST_PIXELS:
        raise InputError(
            f"{where()} is {image.height}x{image.width}; at most {_MOST_PIXELS:,} pixels an image "
            "are read: make it smaller"
        )
    # The header of a PNG gives bits a channel at byte 24.
    if data[:4] == b"\x89PNG" and data[24:25] == b"\x10" and image.mode != "I;16":
        raise InputError(
            f"{where()} has 16 bits a channel, of which Pillow reads 8 (mode {image.mode}): store "
            "float images in [0, 1] in an .npz instead"
        )
    return image


def _damaged(
    data: bytes, formats: tuple[str, ...], where: Callable[[], str], error: Exception
) -> InputError:
    # Pillow's own text names the buffer by its address, which says nothing.
    why = "cannot identify image file" if "BytesIO" in str(error) else str(error)
    return InputError(
        f"{where()} cannot be decoded as {' or '.join(formats)} ({len(data)} bytes): "
        f"{why}; is the file damaged?"
    )


def _check_form(image: Image.Image, info: DatasetInfo, where: Callable[[], str]) -> None:
    height, width = info.image_size
    mode, colour = _SIXTEEN if info.sixteen_bit else _MODES[info.channels]
    if image.size != (width, height) and info.resize is None:
        size = f"{image.height}x{image.width} (height x width)"
        if info.own:
            raise InputError(
                f"{where()} is {size}, but the first image is {height}x{width}: give "
                "--image-size N (or HxW) to bring all to one size"
            )
        raise InputError(
            f"{where()} is {size}, but {info.name} is {height}x{width}; images are not resized: "
            "is it another data set?"
        )
    if image.mode == mode or image.mode in info.to_rgb:
        return
    if info.own:
        raise InputError(
            f"{where()} has mode {image.mode}, but the first image is {colour} (mode {mode}): "
            "convert all to one kind"
        )
    raise InputError(
        f"{where()} has mode {image.mode}, but {info.name} is {colour} (mode {mode}); "
        "images are not converted: is it another data set?"
    )


def _prepared(image: Image.Image, info: DatasetInfo) -> Image.Image:
    """The image in its final mode and size."""
    if info.sixteen_bit:
        image = Image.fromarray(np.asarray(image).astype(np.float32) / np.float32(65535))
    elif image.mode in info.to_rgb:
        image = image.convert("RGB")
    height, width = info.image_size
    if info.resize is None or (info.resize.cover is None and image.size == (width, height)):
        return image
    if info.resize.cover is None:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    image = image.resize(covering(image.size, info.resize.cover), Image.Resampling.BILINEAR)
    left, top = (round((image.width - width) / 2), round((image.height - height) / 2))
    return image.crop((left, top, left + width, top + height))


def covering(size: tuple[int, int], cover: tuple[int, int]) -> tuple[int, int]:
    """(width, height) to which an image is scaled to cover (height, width) just so.

    For a square it is torchvision's `Resize(n)`: the shorter side becomes n, and the longer one
    is rounded down.
    """
    (width, height), (rows, columns) = size, cover
    if width * rows <= height * columns:
        return columns, columns * height // width
    return rows * width // height, rows
