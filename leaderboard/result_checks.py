"""Whether a stored result agrees with itself: counts, intervals, outcomes, radius."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.errors import ResultError
from robustbench_lite.leaderboard.fields import Fields, shown
from robustbench_lite.leaderboard.records import Accuracy
from robustbench_lite.leaderboard.statistics import unpack_outcomes, wilson_interval

TOLERANCE = 1e-9
ENCODING = "packbits-base64"


def read_accuracy(fields: Fields, n_examples: int) -> Accuracy:
    """An accuracy whose value and interval follow from its counts.

    Args:
        fields: the object with `value`, `correct`, `n` and `interval`.
        n_examples: number of examples of the whole result; accuracies are over all of them.

    Returns:
        The accuracy.

    Raises:
        ResultError: naming the key that does not follow.
    """
    value, correct, n = fields.number("value"), fields.integer("correct", 0), fields.integer("n", 1)
    if n != n_examples:
        raise fields.refuse("n", f"n_examples, which is {n_examples}")
    if correct > n:
        raise fields.refuse("correct", f"at most n, which is {n}")
    if abs(value - correct / n) > TOLERANCE:
        raise fields.refuse("value", f"{correct}/{n} = {correct / n}, from its own counts")
    interval = fields.value("interval")
    wilson = wilson_interval(correct, n)
    if not _is_interval(interval, wilson):
        raise fields.refuse("interval", f"the 95% Wilson interval {list(wilson)}")
    return Accuracy(value=correct / n, correct=correct, n=n, interval=wilson)


def _is_interval(stored: object, wilson: tuple[float, float]) -> bool:
    if not isinstance(stored, list) or len(stored) != 2:
        return False
    return all(
        isinstance(bound, int | float)
        and not isinstance(bound, bool)
        and -1 <= bound <= 2  # before the subtraction: a huge integer has no float
        and abs(bound - expected) <= TOLERANCE
        for bound, expected in zip(stored, wilson, strict=True)
    )


def check_eps(fields: Fields) -> float:
    """The radius of a protocol as a number, which has to be what its text says.

    Raises:
        ResultError: when `eps` is no fraction or decimal, or `eps_value` is another number.
    """
    try:
        exact = float(Fraction(fields.text("eps")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise fields.refuse("eps", "a fraction or decimal, such as '8/255'") from None
    if exact < 0 or abs(fields.number("eps_value") - exact) > TOLERANCE:
        raise fields.refuse("eps_value", f"{shown(fields.text('eps'))} as a number, at least 0")
    return exact


def check_outcomes(
    fields: Fields, clean: Accuracy, robust: Accuracy, attacks: Mapping[str, Accuracy]
) -> bytes | None:
    """The packed robust outcomes of a result, after checking every count against its bits.

    Args:
        fields: the whole result.
        clean: its clean accuracy.
        robust: its robust accuracy.
        attacks: stand-alone accuracy of each attack of the protocol.

    Returns:
        One bit per example, set when correct when clean and broken by no attack; None when the
        result stores no outcomes.

    Raises:
        ResultError: when a count and its bits, or two counts, cannot both be right.
    """
    _check_order(fields, clean, robust, attacks)
    if fields.data.get("outcomes") is None:
        return None
    stored = fields.child("outcomes")
    stored.choice("encoding", (ENCODING,))
    clean_bits = _bits(stored, "clean", clean)
    union = clean_bits
    by_attack = stored.child("attacks")
    for name, accuracy in attacks.items():
        bits = _bits(by_attack, name, accuracy)
        if (bits & ~clean_bits).any():
            raise ResultError(
                f"{fields.source}: {shown(by_attack.path(name))} calls examples robust that are "
                "wrong when clean; an outcome is 1 only when the example is correct and not broken"
            )
        union = union & bits
    if int(union.sum()) != robust.correct:
        raise ResultError(
            f"{fields.source}: 'robust_accuracy.correct' is {robust.correct}; need "
            f"{int(union.sum())}, the examples that no attack breaks in 'outcomes'"
        )
    return np.packbits(union).tobytes()


def _check_order(
    fields: Fields, clean: Accuracy, robust: Accuracy, attacks: Mapping[str, Accuracy]
) -> None:
    """Counts alone already bound each other: union <= each attack <= clean, and the union bound."""
    weakest = min(accuracy.correct for accuracy in attacks.values())
    broken = sum(clean.correct - accuracy.correct for accuracy in attacks.values())
    for name, accuracy in attacks.items():
        if accuracy.correct > clean.correct:
            raise ResultError(
                f"{fields.source}: {shown(f'attacks.{name}.correct')} is {accuracy.correct}; need "
                f"at most {clean.correct}, the examples correct when clean"
            )
    least = max(0, clean.correct - broken)
    if not least <= robust.correct <= weakest:
        raise ResultError(
            f"{fields.source}: 'robust_accuracy.correct' is {robust.correct}; need {least} to "
            f"{weakest}, given the counts of the attacks"
        )


def _bits(fields: Fields, name: str, accuracy: Accuracy) -> NDArray[np.bool_]:
    """Unpacked outcomes that add up to the stored count."""
    try:
        bits = unpack_outcomes(fields.text(name), accuracy.n)
    except ResultError:
        raise
    except ValueError as error:
        raise ResultError(f"{fields.source}: {shown(fields.path(name))}: {error}") from error
    if int(bits.sum()) != accuracy.correct:
        raise ResultError(
            f"{fields.source}: {shown(fields.path(name))} holds {int(bits.sum())} ones; need "
            f"{accuracy.correct}, the stored count"
        )
    return bits
