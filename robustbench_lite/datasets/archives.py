"""The official files of each data set: names, addresses, pinned hashes.

The hashes are the publishers' own where they publish them (CIFAR: the table on the download page;
Fashion-MNIST: the README of zalandoresearch/fashion-mnist), else the values that the common public
loaders pin (MNIST, SVHN, Tiny ImageNet).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """One official file.

    Args:
        file_name: its name, both when downloaded and when placed by hand.
        urls: where it lies, tried in order.
        known_hash: `"md5:..."` or `"sha256:..."`; a file with another hash is never read.
    """

    file_name: str
    urls: tuple[str, ...]
    known_hash: str


def file_hash(path: Path, like: str) -> str:
    """Hash of a file by the algorithm that `like` names, in the same `"algorithm:hex"` form.

    Args:
        path: an existing file.
        like: a known hash such as `"md5:..."`.

    Returns:
        For example `"md5:9e107d9d372bb6826bd81d3542a419d6"`.
    """
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"


def _idx_pair(
    prefix: str, hosts: tuple[str, ...], images_md5: str, labels_md5: str
) -> tuple[Archive, ...]:
    names = (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    return tuple(
        Archive(name, tuple(host + name for host in hosts), f"md5:{md5}")
        for name, md5 in zip(names, (images_md5, labels_md5), strict=True)
    )


def _both_splits(archive: Archive) -> dict[str, tuple[Archive, ...]]:
    return {"train": (archive,), "test": (archive,)}


_MNIST_HOSTS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",  # the author's page, often unreachable
)
_FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_SVHN_HOST = "http://ufldl.stanford.edu/housenumbers/"

ARCHIVES: Mapping[str, Mapping[str, tuple[Archive, ...]]] = {
    "mnist": {
        "train": _idx_pair(
            "train",
            _MNIST_HOSTS,
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
        ),
        "test": _idx_pair(
            "t10k",
            _MNIST_HOSTS,
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    },
    "fashion_mnist": {
        "train": _idx_pair(
            "train",
            _FASHION_HOSTS,
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
        ),
        "test": _idx_pair(
            "t10k",
            _FASHION_HOSTS,
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    },
    "cifar10": _both_splits(
        Archive(
            "cifar-10-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
        )
    ),
    "cifar100": _both_splits(
        Archive(
            "cifar-100-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
            "md5:03b5dce01913d631647c71ecec9e9cb8",
        )
    ),
    "svhn": {
        "train": (
            Archive(
                "train_32x32.mat",
                (_SVHN_HOST + "train_32x32.mat",),
                "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
            ),
        ),
        "test": (
            Archive(
                "test_32x32.mat",
                (_SVHN_HOST + "test_32x32.mat",),
                "md5:eb5a983be6a315427106f1b164d9cef3",
            ),
        ),
    },
    "tiny_imagenet": _both_splits(
        Archive(
            "tiny-imagenet-200.zip",
            ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
            "md5:90528d7ca1a48142e341f4ef8d21d0de",
        )
    ),
}
