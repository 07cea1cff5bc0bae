"""Whether a stored result agrees with itself: counts, intervals, outcomes, radius."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.results.fields import Fields, shown
from robustbench_lite.leaderboard.results.radii import read_radius
from robustbench_lite.leaderboard.results.records import Accuracy, Outcomes
from robustbench_lite.leaderboard.statistics.accuracy import (
    packed_outcomes,
    unpack_labels,
    wilson_interval,
)

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
    share = correct / n
    if abs(value - share) > TOLERANCE:
        raise fields.refuse("value", f"{correct}/{n} = {share}, from its own counts")
    interval = fields.value("interval")
    wilson = wilson_interval(correct, n)
    if not _is_interval(interval, wilson):
        raise fields.refuse("interval", f"the 95% Wilson interval {list(wilson)}")
    return Accuracy(value=share, correct=correct, n=n, interval=wilson)


def _is_interval(stored: object, wilson: tuple[float, float]) -> bool:
    if not isinstance(stored, list) or len(stored) != 2:
        return False
    if type(stored[0]) is type(stored[1]) is float and tuple(stored) == wilson:  # nearly always
        return True
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
    radius = read_radius(fields.text("eps"))
    if radius is None:
        raise fields.refuse("eps", "a fraction or decimal of at least 0, such as '8/255'")
    exact = float(radius)
    if abs(fields.number("eps_value") - exact) > TOLERANCE:
        raise fields.refuse("eps_value", f"{shown(fields.text('eps'))} as a number")
    return exact


def check_stages(
    fields: Fields, clean: Accuracy, attack: Accuracy
) -> tuple[tuple[str, Accuracy], ...]:
    """What is left after each stage of a composite attack, which can only fall.

    Args:
        fields: the stored attack; `stages`, an object of accuracies, is optional.
        clean: what the first stage started from.
        attack: what the whole attack left.

    Returns:
        Names and accuracies in order; empty when nothing is stored.

    Raises:
        ResultError: when a stage leaves more than was there, or less than the whole attack.
    """
    if fields.data.get("stages") is None:
        return ()
    stored = fields.child("stages")
    stages: list[tuple[str, Accuracy]] = []
    standing = clean.correct
    for name in stored.data:
        stage = stored.child(name)
        accuracy = read_accuracy(stage, clean.n)
        if not attack.correct <= accuracy.correct <= standing:
            raise stage.refuse(
                "correct", f"{attack.correct} to {standing}, what the attack and the stage before "
                "it left"
            )  # fmt: skip
        standing = accuracy.correct
        stages.append((name, accuracy))
    return tuple(stages)


def check_outcomes(
    fields: Fields, clean: Accuracy, robust: Accuracy, attacks: Mapping[str, Accuracy]
) -> Outcomes | None:
    """The packed outcomes of a result, after checking every count against its bits.

    Args:
        fields: the whole result.
        clean: its clean accuracy.
        robust: its robust accuracy.
        attacks: stand-alone accuracy of each attack of the protocol.

    Returns:
        The outcomes; None when the result stores none.

    Raises:
        ResultError: when a count and its bits, or two counts, cannot both be right.
    """
    _check_order(fields, clean, robust, attacks)
    if fields.data.get("outcomes") is None:
        return None
    stored = fields.child("outcomes")
    stored.choice("encoding", (ENCODING,))
    # One integer per row of bits: and-ing and counting thousands of them takes microseconds.
    clean_bytes, clean_bits = _bits(stored, "clean", clean)
    union = clean_bits
    by_attack = stored.child("attacks")
    packed = {}
    for name, accuracy in attacks.items():
        packed[name], bits = _bits(by_attack, name, accuracy)
        if bits & ~clean_bits:
            raise ResultError(
                f"{fields.source}: {shown(by_attack.path(name))} calls examples robust that are "
                "wrong when clean; an outcome is 1 only when the example is correct and not broken"
            )
        union &= bits
    if union.bit_count() != robust.correct:
        raise ResultError(
            f"{fields.source}: 'robust_accuracy.correct' is {robust.correct}; need "
            f"{union.bit_count()}, the examples that no attack breaks in 'outcomes'"
        )
    robust_bytes = union.to_bytes(len(clean_bytes), "big")
    return Outcomes(clean_bytes, packed, robust_bytes, _labels(stored, clean.n))


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


def _bits(fields: Fields, name: str, accuracy: Accuracy) -> tuple[bytes, int]:
    """Packed outcomes that add up to the stored count, also as one integer."""
    text = fields.text(name)
    try:
        packed = packed_outcomes(text, accuracy.n)
    except ValueError as error:
        raise ResultError(f"{fields.source}: {shown(fields.path(name))}: {error}") from error
    bits = int.from_bytes(packed, "big")
    if bits.bit_count() != accuracy.correct:
        raise ResultError(
            f"{fields.source}: {shown(fields.path(name))} holds {bits.bit_count()} ones; need "
            f"{accuracy.correct}, the stored count"
        )
    return packed, bits


@lru_cache(maxsize=64)
def _packed_labels(text: str, n: int) -> bytes:
    """Labels as little-endian uint16; the results of one data set share them."""
    return unpack_labels(text, n).tobytes()


def _labels(fields: Fields, n: int) -> bytes | None:
    """Stored labels as little-endian uint16."""
    if fields.data.get("labels") is None:
        return None
    text = fields.text("labels")
    try:
        return _packed_labels(text, n)
    except ValueError as error:
        raise ResultError(f"{fields.source}: {shown(fields.path('labels'))}: {error}") from error
