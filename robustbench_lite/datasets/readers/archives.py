"""Official files: names, addresses, pinned hashes.

Those of each data set stand in its file in `datasets/sets/`. Sizes and SHA-256 hashes are those of
TensorFlow Datasets pins: github.com/tensorflow/datasets, tensorflow_datasets/url_checksums/, the
files mnist, fashion_mnist, kmnist, cifar10, cifar100, cifar10_corrupted, cifar100_corrupted,
svhn_cropped, stl10, imagenette and tiny_imagenet (.txt). For MNIST they
stand beside another address of the same four files. The MD5 in the comments is what was pinned here
before: the authors' own for CIFAR (download page) and Fashion-MNIST (README of
zalandoresearch/fashion-mnist), else that of other public loaders.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from robustbench_lite.core.errors import InputError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """One official file.

    Args:
        file_name: its name, both when downloaded and when placed by hand.
        urls: where it lies, tried in order.
        known_hash: `"sha256:..."`; a file with another hash is never read. Empty where none is
            published: then the file is only ever read from a user's folder, as it lies there.
        size: in bytes; nobody has to send more.
    """

    file_name: str
    urls: tuple[str, ...]
    known_hash: str
    size: int


def file_hash(path: Path, like: str) -> str:
    """Hash of a file by the algorithm that `like` names, in the same `"algorithm:hex"` form.

    Args:
        path: an existing file.
        like: a known hash such as `"sha256:..."`.

    Returns:
        For example `"sha256:"` and 64 hexadecimal digits.
    """
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"


def archive(name: str, hosts: tuple[str, ...], size: int, sha256: str) -> Archive:
    """An official file that lies under the same name on every host."""
    return Archive(name, tuple(host + name for host in hosts), f"sha256:{sha256}", size)


def local_file(name: str, page: str) -> Archive:
    """A file without a published SHA-256, which users download themselves from `page`."""
    return Archive(name, (page,), known_hash="", size=0)


def both_splits(file: Archive) -> dict[str, tuple[Archive, ...]]:
    """The same file for train and test."""
    return {"train": (file,), "test": (file,)}


def damaged(path: Path, reason: object) -> InputError:
    """The error of an official file that cannot be decoded."""
    return InputError(
        f"{path} cannot be read as the official file: {reason}; delete it and download it again"
    )
