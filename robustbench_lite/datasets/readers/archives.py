"""The official files of each data set: names, addresses, pinned hashes.

Sizes and SHA-256 hashes are those that TensorFlow Datasets pins: github.com/tensorflow/datasets,
tensorflow_datasets/url_checksums/, the files mnist, fashion_mnist, cifar10, cifar100, svhn_cropped
and tiny_imagenet (.txt). For MNIST they stand beside another address of the same four files.
The MD5 in the comments is what was pinned here before: the authors' own for CIFAR (download page)
and Fashion-MNIST (README of zalandoresearch/fashion-mnist), else that of other public loaders.
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
        known_hash: `"sha256:..."`; a file with another hash is never read.
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


def _archive(name: str, hosts: tuple[str, ...], size: int, sha256: str) -> Archive:
    return Archive(name, tuple(host + name for host in hosts), f"sha256:{sha256}", size)


def _both_splits(archive: Archive) -> dict[str, tuple[Archive, ...]]:
    return {"train": (archive,), "test": (archive,)}


_MNIST_HOSTS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",  # the author's page, often unreachable
)
_FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_CIFAR_HOSTS = ("https://www.cs.toronto.edu/~kriz/",)
_SVHN_HOSTS = ("http://ufldl.stanford.edu/housenumbers/",)
_TINY_HOSTS = ("http://cs231n.stanford.edu/",)

ARCHIVES: Mapping[str, Mapping[str, tuple[Archive, ...]]] = {
    "mnist": {
        "train": (
            _archive(  # md5 f68b3c2dcbeaaa9fbdd348bbdeb94873
                "train-images-idx3-ubyte.gz",
                _MNIST_HOSTS,
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            _archive(  # md5 d53e105ee54ea40749a09fcbcd1e9432
                "train-labels-idx1-ubyte.gz",
                _MNIST_HOSTS,
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
        ),
        "test": (
            _archive(  # md5 9fb629c4189551a2d022fa330f9573f3
                "t10k-images-idx3-ubyte.gz",
                _MNIST_HOSTS,
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            _archive(  # md5 ec29112dd5afa0611ce80d1b7f02629c
                "t10k-labels-idx1-ubyte.gz",
                _MNIST_HOSTS,
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    },
    "fashion_mnist": {
        "train": (
            _archive(  # md5 8d4fb7e6c68d591d4c3dfef9ec88bf0d
                "train-images-idx3-ubyte.gz",
                _FASHION_HOSTS,
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            _archive(  # md5 25c81989df183df01b3e8a0aad5dffbe
                "train-labels-idx1-ubyte.gz",
                _FASHION_HOSTS,
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
        ),
        "test": (
            _archive(  # md5 bef4ecab320f06d8554ea6380940ec79
                "t10k-images-idx3-ubyte.gz",
                _FASHION_HOSTS,
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            _archive(  # md5 bb300cfdad3c16e7a12a480ee83cd310
                "t10k-labels-idx1-ubyte.gz",
                _FASHION_HOSTS,
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    },
    "cifar10": _both_splits(
        _archive(  # md5 c32a1d4ab5d03f1284b67883e8d87530
            "cifar-10-binary.tar.gz",
            _CIFAR_HOSTS,
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    ),
    "cifar100": _both_splits(
        _archive(  # md5 03b5dce01913d631647c71ecec9e9cb8
            "cifar-100-binary.tar.gz",
            _CIFAR_HOSTS,
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )
    ),
    "svhn": {
        "train": (
            _archive(  # md5 e26dedcc434d2e4c54c9b2d4a06d8373
                "train_32x32.mat",
                _SVHN_HOSTS,
                182_040_794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
        ),
        "test": (
            _archive(  # md5 eb5a983be6a315427106f1b164d9cef3
                "test_32x32.mat",
                _SVHN_HOSTS,
                64_275_384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            ),
        ),
    },
    "tiny_imagenet": _both_splits(
        _archive(  # md5 90528d7ca1a48142e341f4ef8d21d0de
            "tiny-imagenet-200.zip",
            _TINY_HOSTS,
            248_100_043,
            "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
        )
    ),
}
