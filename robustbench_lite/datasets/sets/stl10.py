"""STL-10: the labelled 96x96 images of a tar.gz of binary files."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.archives import archive, both_splits, damaged

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

_SHAPE = (3, 96, 96)


def read_stl10(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Read `{split}_X.bin` (channel first, each channel column by column) and `{split}_y.bin`
    (labels from 1); the 100,000 images without labels are passed over."""
    import numpy as np

    from robustbench_lite.datasets.arrays import Arrays

    del info
    wanted = tuple(f"stl10_binary/{split}_{part}.bin" for part in "Xy")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(files[0], "r:gz") as stored:
            for member in stored:
                if member.name in wanted and (file := stored.extractfile(member)) is not None:
                    found[member.name] = file.read()
                if len(found) == len(wanted):
                    break
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise damaged(files[0], error) from error
    if len(found) < len(wanted):
        raise damaged(files[0], f"it has no {' or no '.join(set(wanted) - set(found))}")
    pixels, labels = (np.frombuffer(found[name], dtype=np.uint8) for name in wanted)
    if pixels.size % np.prod(_SHAPE):
        raise damaged(files[0], f"{wanted[0]} has {pixels.size} bytes, not whole images")
    images = pixels.reshape(-1, *_SHAPE).transpose(0, 1, 3, 2)
    return Arrays(np.ascontiguousarray(images), labels.astype(np.int64) - 1)


STL10 = DatasetInfo(
    name="stl10",
    num_classes=10,
    channels=3,
    image_size=(96, 96),
    mean=(0.4467, 0.4398, 0.4066),
    std=(0.2603, 0.2566, 0.2713),
    augmentation="crop_flip",
    class_names=(
        *("airplane", "bird", "car", "cat", "deer"),
        *("dog", "horse", "monkey", "ship", "truck"),
    ),
    read=read_stl10,
    archives=both_splits(
        archive(
            "stl10_binary.tar.gz",
            ("http://ai.stanford.edu/~acoates/stl10/",),
            2_640_397_119,
            "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
        )
    ),
)
