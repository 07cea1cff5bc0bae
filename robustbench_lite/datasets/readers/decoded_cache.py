"""Decoded splits on disk, so that images are decoded once per machine.

One uncompressed .npz per split holds the pixels, the labels and their content hash. The CRC-32 of
the zip finds a damaged file, which is then rebuilt. A file is named by what it was decoded from, so
another source never meets it. Without a writable folder everything is decoded again each time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from robustbench_lite.core.errors import StorageError
from robustbench_lite.core.storage import write_atomically
from robustbench_lite.datasets.arrays import Arrays, content_hash
from robustbench_lite.datasets.info import DatasetInfo

_LOG = logging.getLogger(__name__)
_READER_VERSION = 1  # raise it when a reader's output changes


def file_identity(paths: Sequence[Path]) -> tuple[str, ...]:
    """Path, size and modification time of each file: the identity of a local source."""
    identities = []
    for path in paths:
        status = path.stat()
        identities.append(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}")
    return tuple(identities)


def cache_path(folder: Path, name: str, split: str, identity: Sequence[str]) -> Path:
    """Where the decoded form of one source lies: the name holds a hash of `identity`."""
    described = json.dumps([_READER_VERSION, name, split, *identity])
    key = hashlib.sha256(described.encode()).hexdigest()[:20]
    return folder / "decoded" / f"{re.sub('[^A-Za-z0-9_.-]', '_', name)}-{split}-{key}.npz"


def decode_once(path: Path, info: DatasetInfo, decode: Callable[[], Arrays]) -> tuple[Arrays, str]:
    """Return the decoded split from the cache, or decode it and store it.

    Args:
        path: from `cache_path`.
        info: the data set, to check a stored file against.
        decode: called when there is no usable file.

    Returns:
        The arrays and their content hash.
    """
    stored = _load(path, info)
    if stored is not None:
        return stored
    arrays = decode()
    digest = content_hash(arrays.images, arrays.labels)
    _store(path, arrays, digest)
    return arrays, digest


def _load(path: Path, info: DatasetInfo) -> tuple[Arrays, str] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = Arrays(stored["images"], stored["labels"])
            digest, key = str(stored["content_hash"]), str(stored["key"])
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive raises nearly anything in zipfile and numpy
        _LOG.warning("%s is damaged (%s); decoding again", path, error)
        return None
    images, labels = arrays
    expected = (labels.size, info.channels, *info.image_size)
    kind = np.float32 if info.sixteen_bit else np.uint8
    wrong_types = images.dtype != kind or labels.dtype != np.int64
    if wrong_types or labels.ndim != 1 or images.shape != expected:
        _LOG.warning("%s holds other arrays than %s has; decoding again", path, info.name)
        return None
    if content_hash(images, labels) != digest or key != path.stem:
        _LOG.warning("%s is damaged, or another file renamed; decoding again", path)
        return None
    return arrays, digest


def _store(path: Path, arrays: Arrays, digest: str) -> None:
    """Write the file; a reader sees the whole of it or none."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file,
                images=arrays.images,
                labels=arrays.labels,
                content_hash=np.array(digest),
                key=np.array(path.stem),
            )

    try:
        write_atomically(path, write)
    except StorageError as error:
        _LOG.warning("cannot keep decoded images (%s); they are decoded each time", error)
