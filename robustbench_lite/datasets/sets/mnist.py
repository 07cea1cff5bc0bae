"""MNIST, Fashion-MNIST and Kuzushiji-MNIST: gzipped IDX files, of the same names."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.archives import archive, damaged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from robustbench_lite.datasets.arrays import Arrays

_HOSTS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",  # the author's page, often unreachable
)
_KMNIST_HOSTS = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",)
_FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)


def read_mnist(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Decode the images' and the labels' file of a split; see `DatasetInfo.read`."""
    import numpy as np

    from robustbench_lite.datasets.arrays import Arrays

    del info, split
    return Arrays(read_idx(files[0])[:, None], read_idx(files[1]).astype(np.int64))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes (format: LeCun's MNIST page).

    Returns:
        uint8, of the shape in the file's header.

    Raises:
        InputError: not gzip, cut short, or not IDX of unsigned bytes.
    """
    import numpy as np

    try:
        with gzip.open(path) as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, error) from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":  # two zeros, 0x08 = unsigned byte, rank
        raise damaged(path, f"starts with {data[:4].hex()!r}, expected an IDX file of bytes")
    rank = data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise damaged(path, f"its header ends after {len(data)} of {start} bytes")
    shape = struct.unpack(f">{rank}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise damaged(path, f"its header says {shape}, but {len(data) - start} bytes follow")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


MNIST = DatasetInfo(
    name="mnist",
    num_classes=10,
    channels=1,
    image_size=(28, 28),
    mean=(0.1307,),
    std=(0.3081,),
    augmentation="none",
    class_names=tuple("0123456789"),
    # Of pixels and labels which, written as IDX files, have the md5 of LeCun's four files.
    canonical_hashes={
        "train": "sha256:82e356b6552baf866c704b6c92faa40edd78298cd379807fd3e764026f8acfa3",
        "test": "sha256:26e81cc3957c16d2b65179af3499ed1591ad25d19880eacd49bfd8af394920e6",
    },
    read=read_mnist,
    archives={
        "train": (
            archive(  # md5 f68b3c2dcbeaaa9fbdd348bbdeb94873
                "train-images-idx3-ubyte.gz",
                _HOSTS,
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            archive(  # md5 d53e105ee54ea40749a09fcbcd1e9432
                "train-labels-idx1-ubyte.gz",
                _HOSTS,
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
        ),
        "test": (
            archive(  # md5 9fb629c4189551a2d022fa330f9573f3
                "t10k-images-idx3-ubyte.gz",
                _HOSTS,
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            archive(  # md5 ec29112dd5afa0611ce80d1b7f02629c
                "t10k-labels-idx1-ubyte.gz",
                _HOSTS,
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    },
)

FASHION_MNIST = DatasetInfo(
    name="fashion_mnist",
    num_classes=10,
    channels=1,
    image_size=(28, 28),
    mean=(0.2860,),
    std=(0.3530,),
    augmentation="none",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    read=read_mnist,
    archives={
        "train": (
            archive(  # md5 8d4fb7e6c68d591d4c3dfef9ec88bf0d
                "train-images-idx3-ubyte.gz",
                _FASHION_HOSTS,
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            archive(  # md5 25c81989df183df01b3e8a0aad5dffbe
                "train-labels-idx1-ubyte.gz",
                _FASHION_HOSTS,
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
        ),
        "test": (
            archive(  # md5 bef4ecab320f06d8554ea6380940ec79
                "t10k-images-idx3-ubyte.gz",
                _FASHION_HOSTS,
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            archive(  # md5 bb300cfdad3c16e7a12a480ee83cd310
                "t10k-labels-idx1-ubyte.gz",
                _FASHION_HOSTS,
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    },
)

KMNIST = DatasetInfo(
    name="kmnist",
    num_classes=10,
    channels=1,
    image_size=(28, 28),
    mean=(0.1918,),
    std=(0.3483,),
    augmentation="none",
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    read=read_mnist,
    archives={
        "train": (
            archive(
                "train-images-idx3-ubyte.gz",
                _KMNIST_HOSTS,
                18_165_135,
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            ),
            archive(
                "train-labels-idx1-ubyte.gz",
                _KMNIST_HOSTS,
                29_497,
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            ),
        ),
        "test": (
            archive(
                "t10k-images-idx3-ubyte.gz",
                _KMNIST_HOSTS,
                3_041_136,
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            ),
            archive(
                "t10k-labels-idx1-ubyte.gz",
                _KMNIST_HOSTS,
                5_120,
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        ),
    },
)
