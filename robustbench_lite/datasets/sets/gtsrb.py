"""GTSRB: German traffic signs, the archives of the final competition, resized to 32x32.

No SHA-256 of them is published, so nothing is downloaded.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.datasets.info import DatasetInfo, Resize
from robustbench_lite.datasets.readers.archives import damaged, local_file

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

_PAGE = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
_TRAIN = re.compile(r"GTSRB/Final_Training/Images/(\d{5})/\d{5}_\d{5}\.ppm")
_TEST = "GTSRB/Final_Test/Images/"
_TRUTH = "GT-final_test.csv"
_DAMAGED = (OSError, EOFError, KeyError, ValueError, NotImplementedError, RuntimeError)


def read_gtsrb(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Decode one split of the zips in memory, in the order of the file names."""
    import numpy as np

    from robustbench_lite.datasets.arrays import Arrays
    from robustbench_lite.datasets.readers.image_bytes import decode_images

    path = files[0]
    try:
        with zipfile.ZipFile(path) as stored:
            if split == "train":
                found = sorted(filter(_TRAIN.fullmatch, stored.namelist()))
                labels = [int(name.split("/")[3]) for name in found]
            else:
                truth = _truth(files[1])
                found = [_TEST + name for name in sorted(truth)]
                labels = [truth[name.removeprefix(_TEST)] for name in found]
            encoded = [stored.read(name) for name in found]
    except (*_DAMAGED, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, error) from error
    if not found:
        raise damaged(path, f"it has no {split} images")
    images = decode_images(encoded, info, lambda row: f"{found[row]} in {path}")
    return Arrays(images, np.array(labels, dtype=np.int64))


def _truth(path: Path) -> dict[str, int]:
    """Test image to label."""
    with zipfile.ZipFile(path) as stored:
        text = stored.read(_TRUTH).decode("utf-8")
    return {
        row["Filename"]: int(row["ClassId"])
        for row in csv.DictReader(io.StringIO(text), delimiter=";")
    }


GTSRB = DatasetInfo(
    name="gtsrb",
    num_classes=43,
    channels=3,
    image_size=(32, 32),
    mean=(0.3403, 0.3121, 0.3214),
    std=(0.2724, 0.2608, 0.2669),
    augmentation="crop",  # an arrow to the left is not one to the right
    class_names=tuple(str(label) for label in range(43)),
    read=read_gtsrb,
    archives={
        "train": (local_file("GTSRB_Final_Training_Images.zip", _PAGE),),
        "test": (
            local_file("GTSRB_Final_Test_Images.zip", _PAGE),
            local_file("GTSRB_Final_Test_GT.zip", _PAGE),
        ),
    },
    resize=Resize(cover=None),
    formats=("PPM",),
)
