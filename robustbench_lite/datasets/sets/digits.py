"""The embedded data set: scikit-learn's digits, split by a rule instead of a random draw."""

from __future__ import annotations

import numpy as np

from robustbench_lite.datasets.arrays import Arrays

TEST_EVERY = 5


def read_digits(split: str) -> Arrays:
    """Read the 1,797 digits that scikit-learn ships (test half of UCI optdigits).

    Test is every fifth image of each class (the 1st, 6th, 11th, ... in file order), so both splits
    have the same class balance and no random generator can change them: 364 test, 1,433 train, each
    in file order. The same writers occur in both. Pixel counts 0..16 become
    `round(v * 255 / 16)` with ties to even (8 becomes 128).

    Args:
        split: `"train"` or `"test"`.

    Returns:
        images uint8 (N, 1, 8, 8), labels int64 (N,).
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    digits = load_digits()
    labels = np.asarray(digits.target, dtype=np.int64)
    images = np.rint(np.asarray(digits.images) * 255 / 16).astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    is_test = np.zeros(len(labels), dtype=np.bool_)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[::TEST_EVERY]] = True
    chosen = is_test if split == "test" else ~is_test
    return Arrays(np.ascontiguousarray(images[chosen]), labels[chosen])
