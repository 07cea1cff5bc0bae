"""Readers of the official archives of MNIST, Fashion-MNIST, CIFAR and SVHN.

Only the expected members are read, into memory: nothing is extracted, no name in an archive becomes
a path, and no pickle is involved (CIFAR comes from the binary archives).
"""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Arrays
from robustbench_lite.datasets.catalogue import DatasetInfo

_CIFAR_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _CifarLayout:
    """A record is `label_bytes` bytes, of which number `label_at` is the label, then the pixels."""

    label_bytes: int
    label_at: int
    members: Mapping[str, tuple[str, ...]]


_CIFAR = {
    "cifar10": _CifarLayout(
        1,
        0,
        {
            "train": tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("cifar-10-batches-bin/test_batch.bin",),
        },
    ),
    "cifar100": _CifarLayout(  # coarse label, then fine label
        2,
        1,
        {"train": ("cifar-100-binary/train.bin",), "test": ("cifar-100-binary/test.bin",)},
    ),
}


def read_official(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Decode the official files of one split; their hashes were checked before.

    Args:
        files: paths in the order of `ARCHIVES[name][split]`.
        info: which data set.
        split: `"train"` or `"test"`.

    Returns:
        images uint8 (N, C, H, W) and labels int64 (N,) in the archive's own order.

    Raises:
        InputError: a truncated or foreign file, or a missing member.
    """
    if info.name in ("mnist", "fashion_mnist"):
        images = read_idx(files[0])
        return Arrays(images[:, None], read_idx(files[1]).astype(np.int64))
    if info.name in _CIFAR:
        return read_cifar(files[0], info.name, split)
    if info.name == "svhn":
        return read_svhn(files[0])
    from robustbench_lite.datasets.sets.tiny_imagenet import read_tiny_imagenet

    return read_tiny_imagenet(files[0], info, split)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes (format: LeCun's MNIST page).

    Returns:
        uint8, of the shape in the file's header.

    Raises:
        InputError: not gzip, cut short, or not IDX of unsigned bytes.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":  # two zeros, 0x08 = unsigned byte, rank
        raise _damaged(path, f"starts with {data[:4].hex()!r}, expected an IDX file of bytes")
    rank = data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise _damaged(path, f"its header ends after {len(data)} of {start} bytes")
    shape = struct.unpack(f">{rank}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise _damaged(path, f"its header says {shape}, but {len(data) - start} bytes follow")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


def read_cifar(path: Path, name: str, split: str) -> Arrays:
    """Read CIFAR-10 or CIFAR-100 (fine labels) from the binary tar.gz.

    A record is the label byte (CIFAR-100: coarse, then fine) and 3,072 pixel bytes, channel first.

    Returns:
        images uint8 (N, 3, 32, 32), labels int64 (N,), members in their numbered order.

    Raises:
        InputError: a damaged archive, a missing member, or a member that is not whole records.
    """
    layout = _CIFAR[name]
    record = layout.label_bytes + _CIFAR_PIXELS
    wanted = layout.members[split]
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if member.name in wanted and stream is not None:
                    found[member.name] = stream.read()
                if len(found) == len(wanted):
                    break
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise _damaged(path, error) from error
    missing = [member for member in wanted if member not in found]
    if missing:
        raise _damaged(path, f"it has no member {missing[0]}")
    for name_inside, content in found.items():
        if len(content) % record:
            raise _damaged(
                path, f"{name_inside} has {len(content)} bytes, not a multiple of {record}"
            )
    data = b"".join(found[member] for member in wanted)
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, record)
    images = np.ascontiguousarray(rows[:, layout.label_bytes :]).reshape(-1, 3, 32, 32)
    return Arrays(images, rows[:, layout.label_at].astype(np.int64))


def read_svhn(path: Path) -> Arrays:
    """Read a cropped-digits SVHN .mat file; its label 10 means the digit 0.

    Returns:
        images uint8 (N, 3, 32, 32), labels int64 (N,) in 0..9.

    Raises:
        InputError: not a MATLAB 5 file, or without arrays X (H, W, 3, N) uint8 and y.
    """
    from scipy.io import loadmat  # type: ignore[import-untyped]
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]

    try:
        content = loadmat(path, variable_names=["X", "y"])
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise _damaged(path, error) from error
    if "X" not in content or "y" not in content:
        raise _damaged(path, "it has no arrays X and y")
    pixels = np.asarray(content["X"])
    if pixels.ndim != 4 or pixels.dtype != np.uint8:
        raise _damaged(path, f"X is {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3, N)")
    labels = np.asarray(content["y"]).reshape(-1).astype(np.int64)
    labels[labels == 10] = 0
    return Arrays(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels)


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(
        f"{path} cannot be read as the official file: {reason}; delete it and download it again"
    )
