"""Uncertainty of accuracies: Wilson intervals, exact McNemar, Holm, and packed outcomes.

scipy is imported inside the functions, so importing this module costs numpy only.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    test = binomtest(correct, n, p=correct / n)  # p is free here; this one makes its p-value cheap
    interval = test.proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


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
    from scipy.stats import binom

    only_a, only_b = np.asarray(only_a), np.asarray(only_b)
    tail = binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5)
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


def unpack_outcomes(text: str, n: int) -> NDArray[np.bool_]:
    """The outcomes that `pack_outcomes` wrote.

    Args:
        text: base64 text.
        n: number of examples.

    Returns:
        Booleans, `(n,)`.

    Raises:
        ValueError: when the text is not base64, has another length than n examples need, or sets a
            bit behind the last example.
    """
    try:
        packed: NDArray[Any] = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"outcomes are not base64: {error}") from error
    if packed.size != (n + 7) // 8:
        raise ValueError(f"outcomes hold {packed.size} bytes; {n} examples need {(n + 7) // 8}")
    bits = np.unpackbits(packed).astype(np.bool_)
    if bits[n:].any():
        raise ValueError(f"outcomes set a bit behind the last of {n} examples")
    return bits[:n]
