"""Whether a stored result agrees with itself: counts, intervals, outcomes, radius."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.schema import shown
from robustbench_lite.leaderboard.results.radii import read_radius
from robustbench_lite.leaderboard.results.records import Accuracy, Outcomes
from robustbench_lite.leaderboard.results.stored import ProtocolKeys, StoredAttack, StoredResult
from robustbench_lite.leaderboard.statistics.accuracy import packed_outcomes, unpack_labels

TOLERANCE = 1e-9


def refusal(key: str, value: object, need: str) -> ResultError:
    """The exception for a value that others of the file contradict."""
    return ResultError(f"{key} is {shown(value)}; need {need}")


def check_accuracy(key: str, stored: Accuracy, n_examples: int) -> Accuracy:
    """An accuracy whose value and interval follow from its counts.

    Args:
        key: of the accuracy in it, dotted.
        stored: as the file has it.
        n_examples: number of examples of the whole result; accuracies are over all of them.

    Returns:
        The accuracy, made of the counts.

    Raises:
        ResultError: naming the key that does not follow.
    """
    correct, n = stored.correct, stored.n
    if n != n_examples:
        raise refusal(f"{key}.n", n, f"n_examples, which is {n_examples}")
    if correct > n:
        raise refusal(f"{key}.correct", correct, f"at most n, which is {n}")
    exact = Accuracy.of(correct, n)
    if abs(stored.value - exact.value) > TOLERANCE:
        need = f"{correct}/{n} = {exact.value}, from its own counts"
        raise refusal(f"{key}.value", stored.value, need)
    pairs = zip(stored.interval, exact.interval, strict=True)
    if stored.interval != exact.interval and any(abs(a - b) > TOLERANCE for a, b in pairs):
        need = f"the 95% Wilson interval {list(exact.interval)}"
        raise refusal(f"{key}.interval", list(stored.interval), need)
    return exact


def check_eps(stored: ProtocolKeys) -> float:
    """The radius of a protocol as a number, which has to be what its text says.

    Raises:
        ResultError: when `eps` is no fraction or decimal, or `eps_value` is another number.
    """
    radius = read_radius(stored.eps)
    if radius is None:
        need = "a fraction or decimal of at least 0, such as '8/255'"
        raise refusal("protocol.eps", stored.eps, need)
    exact = float(radius)
    if abs(stored.eps_value - exact) > TOLERANCE:
        need = f"{shown(stored.eps)} as a number"
        raise refusal("protocol.eps_value", stored.eps_value, need)
    return exact


def check_stages(
    key: str, stored: StoredAttack, clean: Accuracy
) -> tuple[tuple[str, Accuracy], ...]:
    """What is left after each stage of a composite attack, which can only fall.

    Args:
        key: of the attack in it, dotted.
        stored: the attack.
        clean: what the first stage started from.

    Returns:
        Names and accuracies in order; empty when nothing is stored.

    Raises:
        ResultError: when a stage leaves more than was there, or less than the whole attack.
    """
    stages: list[tuple[str, Accuracy]] = []
    standing = clean.correct
    for name, stage in (stored.stages or {}).items():
        place = f"{key}.stages.{name}"
        accuracy = check_accuracy(place, stage, clean.n)
        if not stored.correct <= accuracy.correct <= standing:
            need = f"{stored.correct} to {standing}, what the attack and the stage before it left"
            raise refusal(f"{place}.correct", accuracy.correct, need)
        standing = accuracy.correct
        stages.append((name, accuracy))
    return tuple(stages)


def check_outcomes(
    stored: StoredResult, clean: Accuracy, attacks: Mapping[str, Accuracy]
) -> Outcomes | None:
    """The packed outcomes of a result, after checking every count against its bits.

    Args:
        stored: all of it.
        clean: its clean accuracy.
        attacks: stand-alone accuracy of each attack of the protocol.

    Returns:
        The outcomes; None when the result stores none.

    Raises:
        ResultError: when a count and its bits, or two counts, cannot both be right.
    """
    robust = stored.robust_accuracy.correct
    _check_order(robust, clean, attacks)
    outcomes = stored.outcomes
    if outcomes is None:
        return None
    # One integer per row of bits: and-ing and counting thousands of them takes microseconds.
    clean_bytes, clean_bits = _bits("outcomes.clean", outcomes.clean, clean)
    union = clean_bits
    packed = {}
    for name, accuracy in attacks.items():
        key = f"outcomes.attacks.{name}"
        if name not in outcomes.attacks:
            raise ResultError(f"missing key {key}")
        packed[name], bits = _bits(key, outcomes.attacks[name], accuracy)
        if bits & ~clean_bits:
            raise ResultError(
                f"{key} calls examples robust that are wrong when clean; an outcome is 1 "
                "only when the example is correct and not broken"
            )
        union &= bits
    if union.bit_count() != robust:
        need = f"{union.bit_count()}, the examples that no attack breaks in 'outcomes'"
        raise refusal("robust_accuracy.correct", robust, need)
    robust_bytes = union.to_bytes(len(clean_bytes), "big")
    return Outcomes(clean_bytes, packed, robust_bytes, _labels(outcomes.labels, clean.n))


def _check_order(robust: int, clean: Accuracy, attacks: Mapping[str, Accuracy]) -> None:
    """Counts alone already bound each other: union <= each attack <= clean, and the union bound."""
    weakest = min(accuracy.correct for accuracy in attacks.values())
    broken = sum(clean.correct - accuracy.correct for accuracy in attacks.values())
    for name, accuracy in attacks.items():
        if accuracy.correct > clean.correct:
            key = f"attacks.{name}.correct"
            need = f"at most {clean.correct}, the examples correct when clean"
            raise refusal(key, accuracy.correct, need)
    least = max(0, clean.correct - broken)
    if not least <= robust <= weakest:
        need = f"{least} to {weakest}, given the counts of the attacks"
        raise refusal("robust_accuracy.correct", robust, need)


def _bits(key: str, text: str, accuracy: Accuracy) -> tuple[bytes, int]:
    """Packed outcomes that add up to the stored count, also as one integer."""
    try:
        packed = packed_outcomes(text, accuracy.n)
    except ValueError as error:
        raise ResultError(f"{key}: {error}") from error
    bits = int.from_bytes(packed, "big")
    if bits.bit_count() != accuracy.correct:
        raise ResultError(
            f"{key} holds {bits.bit_count()} ones; need {accuracy.correct}, the stored count"
        )
    return packed, bits


@lru_cache(maxsize=64)
def _packed_labels(text: str, n: int) -> bytes:
    """Labels as little-endian uint16; the results of one data set share them."""
    return unpack_labels(text, n).tobytes()


def _labels(text: str | None, n: int) -> bytes | None:
    """Stored labels as little-endian uint16."""
    try:
        return None if text is None else _packed_labels(text, n)
    except ValueError as error:
        raise ResultError(f"outcomes.labels: {error}") from error
