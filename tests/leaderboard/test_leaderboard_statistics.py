from __future__ import annotations

import base64
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_leaderboard_builder import wilson

from robustbench_lite.leaderboard.statistics.accuracy import (
    accuracy,
    holm_rejects,
    mcnemar_exact,
    mcnemar_p_values,
    pack_labels,
    pack_outcomes,
    packed_outcomes,
    unpack_labels,
    unpack_outcomes,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("correct", "n"), [(0, 1), (1, 1), (0, 300), (300, 300), (291, 300), (5000, 10_000), (1, 7)]
)
def test_wilson_interval_is_the_closed_form(correct: int, n: int) -> None:
    assert wilson_interval(correct, n) == pytest.approx(wilson(correct, n), abs=1e-12)


@pytest.mark.parametrize("confidence", [0.95, 0.9])
def test_wilson_interval_has_the_bits_of_scipy_s(confidence: float) -> None:
    from scipy.stats import binomtest

    for n in (1, 7, 300, 10_000):
        for correct in {0, 1, n // 3, n // 2, n - 1, n}:
            expected = binomtest(correct, n).proportion_ci(confidence, method="wilson")
            assert wilson_interval(correct, n, confidence) == (expected.low, expected.high)


def test_wilson_interval_widens_with_confidence_and_mirrors() -> None:
    low, high = wilson_interval(30, 40, 0.9)
    wider_low, wider_high = wilson_interval(30, 40, 0.99)
    assert wider_low < low < 0.75 < high < wider_high
    assert wilson_interval(10, 40, 0.9) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("correct", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_interval_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"correct={correct} of n={n}"):
        wilson_interval(correct, n)


def test_wilson_interval_refuses_percent_confidence() -> None:
    with pytest.raises(ValueError, match=r"did you mean 0\.95"):
        wilson_interval(1, 2, 95)


def test_accuracy_record_holds_plain_numbers() -> None:
    record = accuracy(int(np.int64(3)), 4)
    assert record["value"] == 0.75
    assert (record["correct"], record["n"]) == (3, 4)
    assert record["interval"] == list(wilson_interval(3, 4))


def _pair(only_a: int, only_b: int, both: int = 5) -> tuple[list[bool], list[bool]]:
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * 3
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * 3
    return a, b


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (6, 0, 2 / 64),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (5, 5, 1.0),
        (12, 3, 2 * (1 + 15 + 105 + 455) / 2**15),
    ],
)
def test_mcnemar_is_the_two_sided_binomial_sum(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_exact(*_pair(only_a, only_b)) == pytest.approx(p, rel=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_p_values_are_exact_sums_and_symmetric(b: int, c: int) -> None:
    exact = min(1.0, 2 * sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c))
    values = mcnemar_p_values([b, c], [c, b])
    assert values == pytest.approx([exact, exact], rel=1e-10)


def test_mcnemar_refuses_other_lengths_and_counts() -> None:
    with pytest.raises(ValueError, match="shapes"):
        mcnemar_exact([True], [True, False])
    with pytest.raises(ValueError, match="booleans"):
        mcnemar_exact([1, 0], [0, 1])


def test_holm_steps_down_and_stops_at_the_first_failure() -> None:
    # Sorted: 0.01 <= 0.05/4, 0.015 <= 0.05/3, 0.03 > 0.05/2: the rest stands, 0.04 included.
    assert holm_rejects([0.03, 0.01, 0.04, 0.015], 0.05).tolist() == [False, True, False, True]
    assert holm_rejects([], 0.05).tolist() == []


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=70))
def test_outcomes_survive_packing(bits: list[bool]) -> None:
    assert unpack_outcomes(pack_outcomes(bits), len(bits)).tolist() == bits


def test_outcomes_put_the_first_example_in_the_highest_bit() -> None:
    assert base64.b64decode(pack_outcomes([True] + [False] * 8 + [True])) == b"\x80\x40"


@pytest.mark.parametrize(
    ("text", "n", "message"),
    [
        ("!!", 3, "not base64"),
        ("gA==", 9, "1 bytes; 9"),
        ("gQ==", 7, "behind the last of 7"),
        ("é", 1, "base64"),
    ],
)
def test_outcomes_refuse_damaged_text(text: str, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_outcomes(text, n)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 300])
def test_packed_outcomes_are_the_bytes_and_refuse_every_stray_bit(n: int) -> None:
    bits = np.random.default_rng(n).random(n) < 0.5
    assert packed_outcomes(pack_outcomes(bits), n) == np.packbits(bits).tobytes()
    for behind in range(n, (n + 7) // 8 * 8):
        stray = np.zeros((n + 7) // 8 * 8, dtype=bool)
        stray[behind] = True
        with pytest.raises(ValueError, match="behind the last"):
            packed_outcomes(pack_outcomes(stray), n)


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=20))
def test_labels_come_back_as_they_were_packed(labels: list[int]) -> None:
    text = pack_labels(labels)
    assert unpack_labels(text, len(labels)).tolist() == labels
    width = 1 if max(labels) < 256 else 2
    assert len(base64.b64decode(text)) == width * len(labels)


def test_labels_that_do_not_fit_are_refused() -> None:
    for labels in ([-1], [2**16]):
        with pytest.raises(ValueError, match="0 to 65535"):
            pack_labels(labels)
    with pytest.raises(ValueError, match="hold 3 bytes; 4 examples need 4 or 8"):
        unpack_labels(pack_labels([1, 2, 3]), 4)
    with pytest.raises(ValueError, match="not base64"):
        unpack_labels("*", 1)
