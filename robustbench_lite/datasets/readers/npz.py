"""Images and labels in an .npz of numpy, read without running anything from it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.describe_diff import first_line
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Arrays, Pixels

_DAMAGED = (OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError)
NPZ_KEYS = (("x", "y"), ("images", "labels"), ("image", "label"))
_LARGE, _MOST_RATIO = 1 << 30, 100  # a member of over 1 GiB that shrank to under 1 % is a bomb


def read_npz(path: Path, split: str) -> Arrays:
    """The images and labels of a split.

    Args:
        path: with arrays `x` and `y` (or `images` and `labels`, or `image` and `label`), which
            are its test split, or with `x_train`, `y_train`, `x_test`, `y_test`.
        split: `"train"` or `"test"`.

    Returns:
        Images uint8 or float32 (N, C, H, W), labels int64 (N,).

    Raises:
        InputError: a damaged file, pickled objects, arrays that are missing or of another kind.
    """
    return read_arrays(path, split=split)


def read_arrays(path: Path, names: tuple[str, str] | None = None, *, split: str = "") -> Arrays:
    """The arrays called `names`, else those of a split; see `read_npz`."""
    with one_line_errors(path), np.load(path, allow_pickle=False) as stored:
        names = names or _names(list(stored.files), split, path)
        images, labels = (stored[name] for name in names)
    x, y = (f"{path}: {name}" for name in names)
    return Arrays(as_images(images, x), as_labels(labels, y))


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Whatever goes wrong with an .npz in the block becomes an InputError of one line; what is no
    .npz, or unpacks to far more than it is, is refused before."""
    try:
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is no .npz; save both arrays with np.savez(path, x=x, y=y)")
        _refuse_bombs(path)
        yield
    except InputError:
        raise
    except (*_DAMAGED, zipfile.BadZipFile, zlib.error) as error:
        why = f"{first_line(error)}; is the file whole?"
        if "pickle" in str(error).lower() or "Object arrays" in str(error):
            why = "it holds pickled objects, which could run code: save plain arrays with np.savez"
        raise InputError(f"{path} cannot be read: {why}") from error


def as_images(images: NDArray[Any], what: str) -> Pixels:
    """Images as (N, C, H, W), uint8 or float32; where the channels are is read off the shape.

    Args:
        images: (N, H, W), (N, C, H, W) or (N, H, W, C), with 1 or 3 channels, else fewer channels
            than rows and columns.
        what: its name, for messages.

    Raises:
        InputError: for another type or shape, or channels that could be first or last.
    """
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(f"{what} is {images.dtype}; need uint8 of 0 to 255, or floats in [0, 1]")
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or not images.size:
        raise InputError(f"{what} has shape {images.shape}; need (N, C, H, W), or (N, H, W, C)")
    first, last = images.shape[1], images.shape[3]
    usual = [size in (1, 3) for size in (first, last)]
    if first == last or all(usual):
        raise InputError(
            f"{what} has shape {images.shape}: are the channels first or last? Save the images as "
            "(N, C, H, W) of another size"
        )
    channels_last = usual[1] if any(usual) else last < first
    if channels_last:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images, dtype=np.uint8)
    return np.ascontiguousarray(images, dtype=np.float32)


def as_labels(labels: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Labels as int64 (N,); one column is taken as that.

    Raises:
        InputError: for anything but whole numbers, or one-hot rows.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        cure = "of one-hot rows store y.argmax(axis=1)"
        cure = cure if labels.ndim == 2 else "need integers (N,)"
        raise InputError(f"{what} is {labels.dtype} {labels.shape}: {cure}, counted from 0")
    return labels.astype(np.int64)


def _names(there: list[str], split: str, path: Path) -> tuple[str, str]:
    """The two arrays that hold a split."""
    ours = (f"x_{split}", f"y_{split}")
    if set(ours) <= set(there):
        return ours
    for pair in NPZ_KEYS:
        if set(pair) <= set(there) and split == "test":
            return pair
    shown = ", ".join(there[:6]) or "no array"
    also = " or x and y" if split == "test" else ""
    raise InputError(
        f"{path} holds {shown}; its {split} split needs arrays {' and '.join(ours)}{also}"
    )


def _refuse_bombs(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > max(_LARGE, _MOST_RATIO * member.compress_size):
                raise InputError(
                    f"{path}: {member.filename} unpacks from {member.compress_size:,} to "
                    f"{member.file_size:,} bytes; if that is right, save it with np.savez "
                    "(uncompressed)"
                )
