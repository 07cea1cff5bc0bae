"""Uncertainty of accuracies: Wilson intervals, exact McNemar, Holm; packed outcomes and labels.

scipy is imported inside the functions, so importing this module costs numpy only.
"""

from __future__ import annotations

import base64
import binascii
import math
from functools import lru_cache
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054  # the standard normal's quantile at 0.975
LEVEL = 0.05  # of a test: a smaller p-value is more than chance


class AccuracyRecord(TypedDict):
    """An accuracy as `result.json` stores it: a fraction with its counts and 95% interval."""

    value: float
    correct: int
    n: int
    interval: list[float]


@lru_cache(maxsize=65_536)
def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a binomial proportion (Wilson 1927, JASA 22, no continuity term).

    Args:
        correct: number of successes, in [0, n].
        n: number of trials, at least 1.
        confidence: coverage aimed at, in (0, 1).

    Returns:
        Lower and upper bound, fractions in [0, 1].

    Raises:
        ValueError: for counts or a confidence outside these ranges.

    Example:
        >>> low, high = wilson_interval(90, 100)
        >>> round(low, 4), round(high, 4)
        (0.8256, 0.9448)
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"correct={correct} of n={n}: need n >= 1 and 0 <= correct <= n")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is outside (0, 1); did you mean 0.95?")
    z = Z_95 if confidence == 0.95 else _two_sided_quantile(confidence)
    # In the order of operations of scipy's binomtest, whose bits these are; it takes a hundred
    # times as long, and a leaderboard has tens of thousands of intervals.
    p = correct / n
    scale = 2 * (n + z**2)
    centre = (2 * n * p + z**2) / scale
    half = z / scale * math.sqrt(4 * n * p * (1 - p) + z**2)
    return 0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half


def _two_sided_quantile(confidence: float) -> float:
    from scipy.special import ndtri  # type: ignore[import-untyped]

    return float(ndtri(0.5 + 0.5 * confidence))


def accuracy(correct: int, n: int) -> AccuracyRecord:
    """The record of an accuracy: fraction, counts and 95% Wilson interval.

    Args:
        correct: number of correct examples, in [0, n].
        n: number of examples, at least 1.

    Returns:
        A dict with `value`, `correct`, `n` and `interval`, ready for JSON.

    Raises:
        ValueError: for impossible counts.
    """
    low, high = wilson_interval(int(correct), int(n))
    return {
        "value": int(correct) / int(n),
        "correct": int(correct),
        "n": int(n),
        "interval": [low, high],
    }


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided exact McNemar test that two models differ on the same examples.

    Only examples on which exactly one of the two is right carry information (McNemar 1947,
    Psychometrika 12). Under equality each of those is a fair coin, so p is the two-sided
    Binomial(b + c, 1/2) tail.

    Args:
        a: outcomes of the first model, booleans, `(n,)`.
        b: outcomes of the second model on the same examples, booleans, `(n,)`.

    Returns:
        The p-value, in (0, 1]; 1.0 when the two agree on every example.

    Raises:
        ValueError: when the shapes differ or the outcomes are not one-dimensional booleans.

    Example:
        >>> mcnemar_exact([True] * 6, [False] * 6)
        0.03125
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"outcomes have shapes {first.shape} and {second.shape}; need equal (n,)")
    if first.size and (first.dtype != np.bool_ or second.dtype != np.bool_):
        raise ValueError(f"outcomes have dtypes {first.dtype} and {second.dtype}; need booleans")
    first, second = first.astype(np.bool_), second.astype(np.bool_)
    return float(mcnemar_p_values(np.sum(first & ~second), np.sum(~first & second)))


def mcnemar_p_values(only_a: ArrayLike, only_b: ArrayLike) -> NDArray[np.float64]:
    """Exact two-sided McNemar p-values from counts of discordant examples, element by element.

    Args:
        only_a: examples that only the first model has right, integers, any shape.
        only_b: examples that only the second model has right, same shape.

    Returns:
        p-values in (0, 1], same shape; 1.0 where there is no discordant example.
    """
    # The binomial distribution function itself: scipy.stats takes a second to import.
    from scipy.special import bdtr

    only_a, only_b = np.asarray(only_a), np.asarray(only_b)
    tail = bdtr(np.minimum(only_a, only_b).astype(float), only_a + only_b, 0.5)
    p_values: NDArray[np.float64] = np.minimum(1.0, 2.0 * tail)
    return p_values


def holm_rejects(p_values: ArrayLike, level: float) -> NDArray[np.bool_]:
    """Which hypotheses Holm's step-down procedure rejects (Holm 1979, Scand. J. Stat. 6).

    Args:
        p_values: the p-values of one family, `(m,)`.
        level: family-wise error rate, in (0, 1).

    Returns:
        Booleans, `(m,)`, in the order given.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    within = values[order] <= level / np.arange(values.size, 0, -1)
    rejected = np.zeros(values.size, dtype=np.bool_)
    rejected[order] = np.logical_and.accumulate(within)
    return rejected


def pack_outcomes(bools: ArrayLike) -> str:
    """Outcomes of many examples as text: eight to a byte, first example in the highest bit, base64.

    Args:
        bools: one boolean per example, `(n,)`.

    Returns:
        ASCII text of about n / 6 characters.
    """
    return base64.b64encode(np.packbits(np.asarray(bools, dtype=np.bool_)).tobytes()).decode()


def packed_outcomes(text: str, n: int) -> bytes:
    """The packed bits in what `pack_outcomes` wrote, checked.

    Args:
        text: base64 text.
        n: number of examples.

    Returns:
        `(n + 7) // 8` bytes in `np.packbits` order; the bits behind the last example are 0.

    Raises:
        ValueError: when the text is not base64, has another length than n examples need, or sets a
            bit behind the last example.
    """
    packed = _base64(text, "outcomes")
    if len(packed) != (n + 7) // 8:
        raise ValueError(f"outcomes hold {len(packed)} bytes; {n} examples need {(n + 7) // 8}")
    if packed and packed[-1] & (0xFF >> ((n - 1) % 8 + 1)):
        raise ValueError(f"outcomes set a bit behind the last of {n} examples")
    return packed


def unpack_outcomes(text: str, n: int) -> NDArray[np.bool_]:
    """The outcomes that `pack_outcomes` wrote; arguments and refusals as of `packed_outcomes`.

    Returns:
        Booleans, `(n,)`.
    """
    return outcome_array(packed_outcomes(text, n), n)


def outcome_array(packed: bytes, n: int) -> NDArray[np.bool_]:
    """Packed bits of n examples as booleans, `(n,)`."""
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=n).astype(np.bool_)


def pack_labels(labels: ArrayLike) -> str:
    """Labels as text: one byte each, or two (little-endian) where one is above 255, in base64.

    Args:
        labels: integers in [0, 65535], `(n,)`.

    Returns:
        ASCII text of 4n / 3 or 8n / 3 characters.

    Raises:
        ValueError: for a label outside that range.
    """
    values = np.asarray(labels, dtype=np.int64)
    if values.size and not 0 <= values.min() <= values.max() < 2**16:
        raise ValueError(f"labels span {values.min()} to {values.max()}; need 0 to {2**16 - 1}")
    small = not values.size or values.max() < 2**8
    return base64.b64encode(values.astype("u1" if small else "<u2").tobytes()).decode()


def unpack_labels(text: str, n: int) -> NDArray[np.uint16]:
    """The labels that `pack_labels` wrote, `(n,)`.

    Raises:
        ValueError: when the text is not base64 or holds neither n nor 2n bytes.
    """
    stored = _base64(text, "labels")
    if len(stored) not in (n, 2 * n):
        raise ValueError(f"labels hold {len(stored)} bytes; {n} examples need {n} or {2 * n}")
    return np.frombuffer(stored, dtype="u1" if len(stored) == n else "<u2").astype("<u2")


def _base64(text: str, what: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise ValueError(f"{what} are not base64: {error}") from error
