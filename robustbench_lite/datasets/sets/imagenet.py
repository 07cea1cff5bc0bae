"""ImageNet of a local folder, and Imagenette, ten classes of it, of an archive.

Images are brought to 224x224 as RobustBench does: the shorter side to 256, then the middle.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.datasets.info import DatasetInfo, Resize
from robustbench_lite.datasets.readers.archives import archive, both_splits, damaged

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CROP = Resize(cover=(256, 256))
_TO_RGB = ("L", "CMYK", "P", "RGBA", "LA", "1")  # some files are; every loader converts them
_FOLDERS = {"train": "train", "test": "val"}
_IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def read_imagenette(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Decode one split of the tar.gz in memory, class by class, each sorted by name."""
    import numpy as np

    from robustbench_lite.datasets.arrays import Arrays
    from robustbench_lite.datasets.readers.image_bytes import decode_images

    path, labels = files[0], {name: label for label, name in enumerate(_IMAGENETTE)}
    rows: list[tuple[int, str, bytes]] = []
    try:
        with tarfile.open(path, "r:gz") as stored:
            for member in stored:
                parts = member.name.split("/")
                if len(parts) == 4 and parts[1] == _FOLDERS[split] and parts[2] in labels:
                    file = stored.extractfile(member)
                    if file is not None and parts[3].endswith(".JPEG"):
                        rows.append((labels[parts[2]], parts[3], file.read()))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise damaged(path, error) from error
    if not rows:
        raise damaged(path, f"it has no images in {_FOLDERS[split]}")
    rows.sort(key=lambda row: row[:2])
    images = decode_images([row[2] for row in rows], info, lambda row: f"{rows[row][1]} in {path}")
    return Arrays(images, np.array([row[0] for row in rows], dtype=np.int64))


IMAGENETTE = DatasetInfo(
    name="imagenette",
    num_classes=10,
    channels=3,
    image_size=(224, 224),
    mean=_MEAN,
    std=_STD,
    augmentation="crop_flip",
    class_names=tuple(_IMAGENETTE.values()),
    read=read_imagenette,
    archives=both_splits(
        archive(
            "imagenette2-320.tgz",
            ("https://s3.amazonaws.com/fast-ai-imageclas/",),
            341_553_947,
            "5020a9130cea0348272823cb12d2db7e981c6f2afa3dce71ccd5b8013005c55e",
        )
    ),
    hub_splits={"test": "validation"},
    to_rgb=_TO_RGB,
    resize=_CROP,
)

IMAGENET = DatasetInfo(
    name="imagenet",
    num_classes=1000,
    channels=3,
    image_size=(224, 224),
    mean=_MEAN,
    std=_STD,
    augmentation="crop_flip",
    class_names=tuple(str(label) for label in range(1000)),  # in the order of the WordNet ids
    hub_splits={"test": "validation"},
    to_rgb=_TO_RGB,
    resize=_CROP,
    class_folders=True,
)
