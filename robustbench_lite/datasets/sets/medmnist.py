"""MedMNIST v2: 28x28 medical images with one label each, a local .npz a data set.

The authors publish MD5 sums and no SHA-256, so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import unknown_name
from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.archives import local_file

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

# Classes and channels, from Yang et al. 2023, Scientific Data 10:41, Table 2. ChestMNIST has
# several labels an image, so it is no set for a classifier of one.
_SETS = {
    "pathmnist": (9, 3),
    "dermamnist": (7, 3),
    "octmnist": (4, 1),
    "pneumoniamnist": (2, 1),
    "retinamnist": (5, 3),
    "breastmnist": (2, 1),
    "bloodmnist": (8, 3),
    "tissuemnist": (8, 1),
    "organamnist": (11, 1),
    "organcmnist": (11, 1),
    "organsmnist": (11, 1),
}


def medmnist(variant: str) -> DatasetInfo:
    """From `pathmnist` to its facts.

    Raises:
        InputError: for another name, or none.
    """
    if not variant:
        raise InputError(f"medmnist needs a name after a colon: one of {', '.join(_SETS)}")
    if variant not in _SETS:
        raise InputError(unknown_name("MedMNIST data set", variant, _SETS))
    classes, channels = _SETS[variant]
    file = local_file(f"{variant}.npz", "https://zenodo.org/records/10519652")
    return DatasetInfo(
        name=f"medmnist:{variant}",
        num_classes=classes,
        channels=channels,
        image_size=(28, 28),
        mean=(0.5,) * channels,  # what the authors' own examples use
        std=(0.5,) * channels,
        augmentation="none",
        class_names=tuple(str(label) for label in range(classes)),
        read=read_medmnist,
        archives={"train": (file,), "test": (file,)},
    )


def read_medmnist(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Read `{split}_images` and `{split}_labels`; the validation images are left out."""
    from robustbench_lite.datasets.readers.npz import read_arrays

    del info
    return read_arrays(files[0], (f"{split}_images", f"{split}_labels"))
