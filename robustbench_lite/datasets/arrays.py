"""Decoded images and labels as numpy arrays: their check, and the content hash over them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.info import DatasetInfo

_BLOCK = 4096  # images
Pixels = NDArray[np.uint8] | NDArray[np.float32]


class Arrays(NamedTuple):
    """One decoded split: `images` uint8 (N, C, H, W), or float32 in [0, 1]; `labels` int64 (N,)."""

    images: Pixels
    labels: NDArray[np.int64]


def content_hash(images: Pixels, labels: NDArray[np.int64]) -> str:
    """SHA-256 over one canonical byte layout of a split.

    The layout is: the ASCII line `robustbench_lite split v1 N C H W\\n` with decimal numbers, then
    the pixels as uint8 in (N, C, H, W) order, then the labels as little-endian int64. So it depends
    on pixels, labels, shape and order, and on nothing else. Float images are written as
    little-endian float32, and their first line ends in ` float32\\n`.

    Args:
        images: uint8 or float32 (N, C, H, W).
        labels: int64 (N,).

    Returns:
        `"sha256:"` and 64 hexadecimal digits.
    """
    return content_hash_of_parts([images], labels)


def content_hash_of_parts(parts: Sequence[Pixels], labels: NDArray[np.int64]) -> str:
    """The `content_hash` of images that lie in several arrays, one after the other."""
    shape = " ".join(str(size) for size in (sum(map(len, parts)), *parts[0].shape[1:]))
    kind, word = ("<f4", " float32") if parts[0].dtype == np.float32 else ("u1", "")
    digest = hashlib.sha256(f"robustbench_lite split v1 {shape}{word}\n".encode("ascii"))
    for part in parts:
        for begin in range(0, len(part), _BLOCK):  # a mapped file is never in memory as a whole
            digest.update(np.ascontiguousarray(part[begin : begin + _BLOCK], dtype=kind).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return f"sha256:{digest.hexdigest()}"


def check_arrays(arrays: Arrays, info: DatasetInfo, origin: str) -> Arrays:
    """Hold decoded arrays against the facts of their data set.

    Args:
        arrays: what a reader returned.
        info: the data set it should be.
        origin: the file or folder, for messages.

    Returns:
        `arrays`, unchanged.

    Raises:
        InputError: no rows, another shape than the data set has, another number of labels than
            images, or a label out of range (with its row).
    """
    images, labels = arrays
    expected = (info.channels, *info.image_size)
    if len(images) == 0:
        raise InputError(f"{origin} holds no images; {info.name} needs at least one")
    if images.shape[1:] != expected:
        raise InputError(
            f"{origin} holds images of (channels, height, width) {images.shape[1:]}, "
            f"but {info.name} has {expected}: is it another data set?"
        )
    if labels.shape != (len(images),):
        raise InputError(
            f"{origin} holds {len(images)} images but {labels.size} labels: is a file cut short?"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= info.num_classes))
    if wrong.size:
        raise InputError(
            f"{origin}: row {wrong[0]} has label {labels[wrong[0]]}, but {info.name} has labels "
            f"0 to {info.num_classes - 1} ({wrong.size} rows are wrong): is it another data set?"
        )
    return arrays
