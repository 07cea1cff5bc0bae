"""Metrics of outlier detection from scores alone: inliers are the positive class, higher is inlier.

With TPR(t) = #{inliers >= t} / n and FPR(t) = #{outliers >= t} / m. "FPR95" is three different
numbers in the literature; the names here say which.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]


def auroc(inliers: ArrayLike, outliers: ArrayLike) -> float:
    """Chance that an inlier scores above an outlier; a tie counts 1/2.

    Args:
        inliers: finite scores (n,), n at least 1; higher means more likely an inlier.
        outliers: likewise (m,).

    Returns:
        In [0, 1]; 0.5 when all scores are equal.

    Raises:
        ValueError: for scores that are empty, not one-dimensional or not finite.

    Example:
        >>> auroc([0.9, 0.8], [0.8, 0.1])
        0.875
    """
    ours, theirs = _scores(inliers, outliers)
    below = np.searchsorted(theirs, ours, side="left")
    not_above = np.searchsorted(theirs, ours, side="right")
    return float((below + not_above).sum() / (2 * ours.size * theirs.size))


def auroc_ties_lost(inliers: ArrayLike, outliers: ArrayLike) -> float:
    """Chance that an inlier scores above an outlier; a tie counts 0.

    The AUROC of the codes of ODIN's followers, ALOE and ATOM, whose sweep removes inliers before
    outliers of equal score. For comparison with their numbers; arguments as of `auroc`.
    """
    ours, theirs = _scores(inliers, outliers)
    below = np.searchsorted(theirs, ours, side="left")
    return float(below.sum() / (ours.size * theirs.size))


def fpr95_at_least(inliers: ArrayLike, outliers: ArrayLike) -> float:
    """FPR at the largest threshold with TPR >= 0.95; arguments as of `auroc`."""
    ours, theirs = _scores(inliers, outliers)
    kept = -(-95 * ours.size // 100)  # the fewest inliers that are 95 %
    threshold = ours[ours.size - kept]
    return float(np.mean(theirs >= threshold))


def fpr95_nearest(inliers: ArrayLike, outliers: ArrayLike) -> float:
    """FPR where |TPR - 0.95| is smallest, at the loosest such place; arguments as of `auroc`.

    As in the authors' code of ALOE and ATOM: scores are removed one by one from the lowest,
    inliers first on a tie. With fewer than 10 inliers that place is the very beginning, FPR 1.
    """
    ours, theirs = _scores(inliers, outliers)
    both = np.concatenate([ours, theirs])
    is_outlier = np.arange(both.size) >= ours.size
    removed = is_outlier[np.lexsort((is_outlier, both))]
    tpr = (ours.size - np.cumsum(np.concatenate([[False], ~removed]))) / ours.size
    fpr = (theirs.size - np.cumsum(np.concatenate([[False], removed]))) / theirs.size
    return float(fpr[np.argmin(np.abs(tpr - 0.95))])


def detection_error(inliers: ArrayLike, outliers: ArrayLike) -> float:
    """min over thresholds t of (1 - TPR(t) + FPR(t)) / 2: the best detector's error when inliers
    and outliers are equally many (Liang et al. 2018, arXiv:1706.02690); arguments as of `auroc`."""
    ours, theirs = _scores(inliers, outliers)
    thresholds = np.concatenate([ours, theirs])
    missed = np.searchsorted(ours, thresholds, side="left") / ours.size
    passed = 1.0 - np.searchsorted(theirs, thresholds, side="left") / theirs.size
    return float(np.min(missed + passed) / 2.0)  # at most 0.5, that of the lowest score


METRICS = {
    "auroc": auroc,
    "auroc_ties_lost": auroc_ties_lost,
    "fpr95_at_least": fpr95_at_least,
    "fpr95_nearest": fpr95_nearest,
    "detection_error": detection_error,
}


def detection_metrics(inliers: ArrayLike, outliers: ArrayLike) -> dict[str, float]:
    """Every metric of `METRICS` by name; arguments as of `auroc`."""
    return {name: metric(inliers, outliers) for name, metric in METRICS.items()}


def _scores(inliers: ArrayLike, outliers: ArrayLike) -> tuple[Scores, Scores]:
    """Both in float64, ascending."""
    ours, theirs = (np.asarray(scores, dtype=np.float64) for scores in (inliers, outliers))
    for what, scores in (("inliers", ours), ("outliers", theirs)):
        if scores.ndim != 1 or scores.size == 0:
            raise ValueError(f"scores of {what} have shape {scores.shape}; need (n,), n >= 1")
        if not np.isfinite(scores).all():
            raise ValueError(f"scores of {what} hold NaN or infinity; need finite numbers")
    return np.sort(ours), np.sort(theirs)
