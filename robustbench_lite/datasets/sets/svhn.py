"""SVHN, cropped digits without the extra set: a MATLAB file a split."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.archives import archive, damaged

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

_HOSTS = ("http://ufldl.stanford.edu/housenumbers/",)


def read_svhn(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Read a cropped-digits SVHN .mat file; its label 10 means the digit 0.

    Returns:
        images uint8 (N, 3, 32, 32), labels int64 (N,) in 0..9.

    Raises:
        InputError: not a MATLAB 5 file, or without arrays X (H, W, 3, N) uint8 and y.
    """
    import numpy as np
    from scipy.io import loadmat  # type: ignore[import-untyped]
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]

    from robustbench_lite.datasets.arrays import Arrays

    del info, split
    try:
        content = loadmat(files[0], variable_names=["X", "y"])
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise damaged(files[0], error) from error
    if "X" not in content or "y" not in content:
        raise damaged(files[0], "it has no arrays X and y")
    pixels = np.asarray(content["X"])
    if pixels.ndim != 4 or pixels.dtype != np.uint8:
        raise damaged(files[0], f"X is {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3, N)")
    labels = np.asarray(content["y"]).reshape(-1).astype(np.int64)
    labels[labels == 10] = 0
    return Arrays(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels)


SVHN = DatasetInfo(
    name="svhn",
    num_classes=10,
    channels=3,
    image_size=(32, 32),
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    augmentation="crop",
    class_names=tuple("0123456789"),
    read=read_svhn,
    archives={
        "train": (
            archive(  # md5 e26dedcc434d2e4c54c9b2d4a06d8373
                "train_32x32.mat",
                _HOSTS,
                182_040_794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
        ),
        "test": (
            archive(  # md5 eb5a983be6a315427106f1b164d9cef3
                "test_32x32.mat",
                _HOSTS,
                64_275_384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            ),
        ),
    },
    hub_folders=("cropped_digits",),  # the hub's SVHN also has full_numbers
)
