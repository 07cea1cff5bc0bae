"""The embedded data set: scikit-learn's digits, split by a rule instead of a random draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.datasets.info import DatasetInfo

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

TEST_EVERY = 5


def read_digits(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Read the 1,797 digits that scikit-learn ships (test half of UCI optdigits).

    Test is every fifth image of each class (the 1st, 6th, 11th, ... in file order), so both splits
    have the same class balance and no random generator can change them: 364 test, 1,433 train, each
    in file order. The same writers occur in both. Pixel counts 0..16 become
    `round(v * 255 / 16)` with ties to even (8 becomes 128).

    Args:
        files: none.
        info: `DIGITS`.
        split: `"train"` or `"test"`.

    Returns:
        images uint8 (N, 1, 8, 8), labels int64 (N,).
    """
    import numpy as np
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    from robustbench_lite.datasets.arrays import Arrays

    digits = load_digits()
    labels = np.asarray(digits.target, dtype=np.int64)
    images = np.rint(np.asarray(digits.images) * 255 / 16).astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    is_test = np.zeros(len(labels), dtype=np.bool_)
    for label in range(info.num_classes):
        is_test[np.flatnonzero(labels == label)[::TEST_EVERY]] = True
    chosen = is_test if split == "test" else ~is_test
    return Arrays(np.ascontiguousarray(images[chosen]), labels[chosen])


DIGITS = DatasetInfo(
    name="digits",
    num_classes=10,
    channels=1,
    image_size=(8, 8),
    mean=(0.3055,),  # computed from the 1,433 training images
    std=(0.3761,),
    augmentation="none",
    class_names=tuple("0123456789"),
    canonical_hashes={
        "train": "sha256:c2a3388d95890324718d9d3332daceb312ccd123469656d06c12e7fe81557fd4",
        "test": "sha256:ed98472e7f9d36c15b3e9ed9efb049f4858ad0ff49b07f0665c72f8724ded829",
    },
    read=read_digits,
)
