"""Metrics of outlier detection from scores alone; higher scores mean more likely an inlier.

With the scores of n inliers and m outliers, "FPR95" is at least four numbers in the literature:
either side may be the positive one, and where no threshold gives 95 % exactly, one may keep at
least 95 % or go to the nearest threshold. The names here say which.

All are computed from the counts of inliers and outliers at each distinct score, so that a bootstrap
costs a few cumulative sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
Counts = NDArray[np.int64]

DRAWS = 1000
"""Resamples behind an interval."""

_LEVEL = 95  # percent: of the positives kept, and of the intervals
_BLOCK = 4_000_000  # counts of resamples in memory at a time


@dataclass(frozen=True)
class ScoreCounts:
    """How many inliers and outliers have each distinct score, lowest score first.

    Args:
        inliers: (..., T), sums to n along the last dimension.
        outliers: (..., T), sums to m.
    """

    inliers: Counts
    outliers: Counts

    @property
    def n(self) -> int:
        """Number of inliers."""
        return int(self.inliers.reshape(-1, self.inliers.shape[-1])[0].sum())

    @property
    def m(self) -> int:
        """Number of outliers."""
        return int(self.outliers.reshape(-1, self.outliers.shape[-1])[0].sum())

    def swapped(self) -> ScoreCounts:
        """The same question with the roles exchanged: scores negated, outliers the inliers."""
        return ScoreCounts(self.outliers[..., ::-1], self.inliers[..., ::-1])


def score_counts(inliers: ArrayLike, outliers: ArrayLike) -> ScoreCounts:
    """Count scores.

    Args:
        inliers: finite scores (n,), n at least 1.
        outliers: likewise (m,).

    Raises:
        ValueError: for scores that are empty, not one-dimensional or not finite.
    """
    ours, theirs = (np.asarray(scores, dtype=np.float64) for scores in (inliers, outliers))
    for what, scores in (("inliers", ours), ("outliers", theirs)):
        if scores.ndim != 1 or scores.size == 0:
            raise ValueError(f"scores of {what} have shape {scores.shape}; need (n,), n >= 1")
        if not np.isfinite(scores).all():
            raise ValueError(f"scores of {what} hold NaN or infinity; need finite numbers")
    levels, place = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    return ScoreCounts(
        np.bincount(place[: ours.size], minlength=levels.size),
        np.bincount(place[ours.size :], minlength=levels.size),
    )


def auroc(counts: ScoreCounts) -> Values:
    """Chance that an inlier scores above an outlier; a tie counts 1/2."""
    below = np.cumsum(counts.outliers, axis=-1) - counts.outliers
    pairs = (counts.inliers * (2 * below + counts.outliers)).sum(axis=-1)
    return np.asarray(pairs / (2 * counts.n * counts.m), dtype=np.float64)


def auroc_ties_lost(counts: ScoreCounts) -> Values:
    """Chance that an inlier scores above an outlier; a tie counts 0.

    The AUROC of the codes of ODIN's followers, ALOE and ATOM, whose sweep removes inliers before
    outliers of equal score. For comparison with their numbers.
    """
    below = np.cumsum(counts.outliers, axis=-1) - counts.outliers
    pairs = (counts.inliers * below).sum(axis=-1)
    return np.asarray(pairs / (counts.n * counts.m), dtype=np.float64)


def aupr_inlier_positive(counts: ScoreCounts) -> Values:
    """Average precision with inliers as positives: sum of precision x gain of recall.

    Steps, not trapezoids, as `sklearn.metrics.average_precision_score`.
    """
    kept, passed = _at_or_above(counts.inliers), _at_or_above(counts.outliers)
    precision = kept / np.maximum(kept + passed, 1)
    return np.asarray((counts.inliers * precision).sum(axis=-1) / counts.n, dtype=np.float64)


def aupr_outlier_positive(counts: ScoreCounts) -> Values:
    """Average precision with outliers as positives, as in the code of Outlier Exposure
    (Hendrycks et al. 2019, arXiv:1812.04606)."""
    return aupr_inlier_positive(counts.swapped())


def fpr95_inlier_positive(counts: ScoreCounts) -> Values:
    """Share of outliers passed at the strictest threshold that keeps at least 95 % of the inliers.

    Inliers are the positive class as in ODIN and ALOE (Chen et al. 2020, arXiv:2003.09711).
    """
    kept = _at_or_above(counts.inliers)
    enough = 100 * kept >= _LEVEL * counts.n  # true up to some score
    return _taken(_at_or_above(counts.outliers), enough.sum(axis=-1) - 1) / counts.m


def fpr95_outlier_positive(counts: ScoreCounts) -> Values:
    """Share of inliers refused at the mildest threshold that detects at least 95 % of the outliers.

    Outliers are the positive class as in Outlier Exposure (arXiv:1812.04606).
    """
    return fpr95_inlier_positive(counts.swapped())


def fpr95_inlier_positive_aloe(counts: ScoreCounts) -> Values:
    """FPR where |TPR - 0.95| is smallest, at the loosest such place, inliers positive.

    As in the authors' code of ALOE and ATOM: scores are removed one by one from the lowest,
    inliers first on a tie. With fewer than 10 inliers that place is the very beginning, FPR 1.
    """
    left = np.arange(counts.n, -1, -1)
    wanted = left[np.argmin(np.abs(left / counts.n - _LEVEL / 100))]
    kept = _at_or_above(counts.inliers)
    after = np.concatenate([kept[..., 1:], np.zeros_like(kept[..., :1])], axis=-1)
    return _taken(_at_or_above(counts.outliers), (after > wanted).sum(axis=-1)) / counts.m


def fpr95_outlier_positive_oe(counts: ScoreCounts) -> Values:
    """FPR at the threshold with |TPR - 0.95| smallest, the mildest of equals, outliers positive.

    As in the code of Outlier Exposure: only distinct scores are thresholds.
    """
    detected, refused = np.cumsum(counts.outliers, axis=-1), np.cumsum(counts.inliers, axis=-1)
    distance = np.abs(detected / counts.m - _LEVEL / 100)
    # Their list begins at the first threshold that detects all and goes to stricter ones.
    distance = np.where((detected == counts.m) & (counts.outliers == 0), np.inf, distance)
    last = distance.shape[-1] - 1 - np.argmin(distance[..., ::-1], axis=-1)
    return _taken(refused, last) / counts.n


def detection_error(counts: ScoreCounts) -> Values:
    """min over thresholds t of (1 - TPR(t) + FPR(t)) / 2: the best detector's error when inliers
    and outliers are equally many (Liang et al. 2018, arXiv:1706.02690)."""
    missed = 1.0 - _at_or_above(counts.inliers) / counts.n
    passed = _at_or_above(counts.outliers) / counts.m
    return np.asarray((missed + passed).min(axis=-1) / 2.0, dtype=np.float64)


METRICS: dict[str, Callable[[ScoreCounts], Values]] = {
    metric.__name__: metric
    for metric in (
        auroc,
        aupr_inlier_positive,
        aupr_outlier_positive,
        fpr95_inlier_positive,
        fpr95_outlier_positive,
        auroc_ties_lost,
        fpr95_inlier_positive_aloe,
        fpr95_outlier_positive_oe,
        detection_error,
    )
}

STANDARD = tuple(METRICS)[:5]
"""What is shown, with intervals; the other metrics repeat what other codes print."""


def detection_metrics(inliers: ArrayLike, outliers: ArrayLike) -> dict[str, float]:
    """Every metric of `METRICS` by name, in [0, 1].

    Args:
        inliers: finite scores (n,), n at least 1; higher means more likely an inlier.
        outliers: likewise (m,).

    Raises:
        ValueError: for scores that are empty, not one-dimensional or not finite.

    Example:
        >>> detection_metrics([0.9, 0.8], [0.8, 0.1])["auroc"]
        0.875
    """
    counts = score_counts(inliers, outliers)
    return {name: float(metric(counts)) for name, metric in METRICS.items()}


def detection_intervals(
    inliers: ArrayLike, outliers: ArrayLike, *, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the `STANDARD` metrics by a stratified bootstrap.

    `DRAWS` times n inliers and m outliers are drawn with replacement (Efron and Tibshirani 1993,
    ch. 13). The draws are those of numpy's legacy generator, which no release changes. An interval
    of a metric at its end, such as an AUROC of 1, has no width: that is a limit of the bootstrap.

    Args:
        inliers: as of `detection_metrics`.
        outliers: likewise.
        seed: of the draws, in [0, 2**63).

    Returns:
        `(low, high)` by name.
    """
    counts = score_counts(inliers, outliers)
    random = np.random.RandomState([seed % 2**32, seed >> 32])
    block = max(1, _BLOCK // counts.inliers.size)
    found: dict[str, list[Values]] = {name: [] for name in STANDARD}
    for begin in range(0, DRAWS, block):
        size = min(block, DRAWS - begin)
        drawn = ScoreCounts(
            _resampled(counts.inliers, size, random), _resampled(counts.outliers, size, random)
        )
        for name, parts in found.items():
            parts.append(METRICS[name](drawn))
    tail = (1 - _LEVEL / 100) / 2
    return {
        name: (float(low), float(high))
        for name, parts in found.items()
        for low, high in [np.quantile(np.concatenate(parts), [tail, 1 - tail])]
    }


def _resampled(counts: Counts, size: int, random: np.random.RandomState) -> Counts:
    """Counts (size, T) of as many draws with replacement as there are."""
    levels = np.repeat(np.arange(counts.size), counts)
    drawn = [
        np.bincount(levels[random.randint(levels.size, size=levels.size)], minlength=counts.size)
        for _ in range(size)
    ]
    return np.stack(drawn)


def _at_or_above(counts: Counts) -> Counts:
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def _taken(values: Counts, place: Counts) -> Values:
    """The value (...,) at one place along the last dimension."""
    chosen = np.take_along_axis(values, np.asarray(place)[..., None], axis=-1)
    return chosen[..., 0].astype(np.float64)
