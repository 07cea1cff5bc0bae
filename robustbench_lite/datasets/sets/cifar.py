"""CIFAR-10 and CIFAR-100 (fine labels): a tar.gz of binary records."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.archives import archive, both_splits, damaged

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

_HOSTS = ("https://www.cs.toronto.edu/~kriz/",)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """A record is `label_bytes` bytes, of which number `label_at` is the label, then the pixels."""

    label_bytes: int
    label_at: int
    members: Mapping[str, tuple[str, ...]]


_LAYOUTS = {
    "cifar10": _Layout(
        1,
        0,
        {
            "train": tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("cifar-10-batches-bin/test_batch.bin",),
        },
    ),
    "cifar100": _Layout(  # coarse label, then fine label
        2,
        1,
        {"train": ("cifar-100-binary/train.bin",), "test": ("cifar-100-binary/test.bin",)},
    ),
}
_JPEG = "CIFAR-10 re-encoded as JPEG (quality about 75), rows in another order"

# fine_label_names.txt of the official archive, which is alphabetical.
_FINE_NAMES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a list of quoted words would be 10 times as long
)


def read_cifar(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Read CIFAR-10 or CIFAR-100 (fine labels) from the binary tar.gz.

    A record is the label byte (CIFAR-100: coarse, then fine) and 3,072 pixel bytes, channel first.

    Returns:
        images uint8 (N, 3, 32, 32), labels int64 (N,), members in their numbered order.

    Raises:
        InputError: a damaged archive, a missing member, or a member that is not whole records.
    """
    import numpy as np

    from robustbench_lite.datasets.arrays import Arrays

    path, layout = files[0], _LAYOUTS[info.name]
    record = layout.label_bytes + _PIXELS
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
        raise damaged(path, error) from error
    missing = [member for member in wanted if member not in found]
    if missing:
        raise damaged(path, f"it has no member {missing[0]}")
    for name_inside, content in found.items():
        if len(content) % record:
            raise damaged(
                path, f"{name_inside} has {len(content)} bytes, not a multiple of {record}"
            )
    data = b"".join(found[member] for member in wanted)
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, record)
    images = np.ascontiguousarray(rows[:, layout.label_bytes :]).reshape(-1, 3, 32, 32)
    return Arrays(images, rows[:, layout.label_at].astype(np.int64))


CIFAR10 = DatasetInfo(
    name="cifar10",
    num_classes=10,
    channels=3,
    image_size=(32, 32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
    augmentation="crop_flip",
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    read=read_cifar,
    archives=both_splits(
        archive(  # md5 c32a1d4ab5d03f1284b67883e8d87530
            "cifar-10-binary.tar.gz",
            _HOSTS,
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    ),
    known_variants={
        "sha256:da1bf19948b88db0336dc5cee8c7b54f6d75b8c83e8785311943cf3c37731956": _JPEG,
        "sha256:93222b7b0183257e0f07fbb0af713982c4ef53442274f3970065a0a14d9c394a": _JPEG,
    },
)

CIFAR100 = DatasetInfo(
    name="cifar100",
    num_classes=100,
    channels=3,
    image_size=(32, 32),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    augmentation="crop_flip",
    class_names=_FINE_NAMES,
    read=read_cifar,
    archives=both_splits(
        archive(  # md5 03b5dce01913d631647c71ecec9e9cb8
            "cifar-100-binary.tar.gz",
            _HOSTS,
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )
    ),
    label_columns=("fine_label", "label"),
)
