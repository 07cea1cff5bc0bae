"""The flags of a stored result, raised again from its checks and outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, defstruct

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.flag_rules import (
    AUTOATTACK,
    BLACK_BOX,
    BLACK_BOX_FLAG,
    FLAGS,
    WHITE_BOX,
    may_raise,
)
from robustbench_lite.core.schema import Count, structured
from robustbench_lite.leaderboard.results.consistency import TOLERANCE, refusal
from robustbench_lite.leaderboard.results.records import (
    AttackResult,
    Outcomes,
    ProtocolInfo,
    RaisedFlag,
)

_NAMES = [rule.name for rule in FLAGS]


class StoredCheck(Struct, frozen=True):
    """What a check measured, and on how many examples."""

    value: float
    points: Count


Checks = Mapping[str, StoredCheck]
_Checks = defstruct("_Checks", [(name, StoredCheck | float | None, None) for name in _NAMES])


def read_checks(stored: Mapping[str, object]) -> Checks:
    """The checks of a result by which flags are raised today; others are left out.

    Older versions have fewer, or bare values, which do not say on how many examples they were
    measured: such a check counts as missing.

    Args:
        stored: its `checks`.

    Raises:
        ResultError: for a check that is neither a number nor a value with its points.
    """
    checks = structured(_Checks, stored, "", where="checks", error=ResultError)
    found = {name: getattr(checks, name) for name in _NAMES}
    return {name: check for name, check in found.items() if isinstance(check, StoredCheck)}


def read_flags(
    stored: Sequence[RaisedFlag], checks: Checks, *, passes: int
) -> tuple[tuple[RaisedFlag, ...], tuple[str, ...]]:
    """The flags that the stored checks raise, which have to be those that the file names.

    A check that the file does not hold can raise nothing; a stored flag without its check is kept,
    for it only speaks against the result. A flag that only the threshold of an older version raised
    is dropped: the rules of today decide.

    Args:
        stored: its flags.
        checks: of `read_checks`.
        passes: of its protocol.

    Returns:
        The flags, and the names of the checks that the file should hold and does not.

    Raises:
        ResultError: when a flag was left out, added or changed; it names the flag.
    """
    named = {flag.name: flag for flag in stored}
    raised = []
    for rule in FLAGS:
        check = checks.get(rule.name)
        if check is None or not may_raise(rule, passes=passes):
            continue
        if rule.is_raised_by(check.value, check.points):
            flag = RaisedFlag(rule.name, check.value, rule.threshold, rule.meaning, rule.follow_up)
            _check_named(named.pop(rule.name, None), flag)
            raised.append(flag)
    for name in list(named):
        if name in checks and _of_older_rule(named[name], checks[name]):
            del named[name]
        elif name in checks:
            raise ResultError(
                f"'flags' names {name}, but its check, which is {checks[name].value:.4g}, "
                "does not raise it; evaluate again"
            )
    missing = tuple(name for name in _NAMES if name not in checks)
    return (*raised, *named.values()), missing


def _of_older_rule(flag: RaisedFlag, check: StoredCheck) -> bool:
    """Whether a flag has its check's value, and the threshold of an earlier version."""
    (rule,) = (rule for rule in FLAGS if rule.name == flag.name)
    if flag.value is None or flag.threshold not in rule.older_thresholds:
        return False
    return abs(flag.value - check.value) <= TOLERANCE


def _check_named(stored: RaisedFlag | None, flag: RaisedFlag) -> None:
    """A flag that its check raises stands among the stored ones, with the check's value."""
    if stored is None:
        raise ResultError(
            f"'flags' leaves out {flag.name}: its check is {flag.value:.4g}, above "
            f"{flag.threshold:.4g}; evaluate again"
        )
    if stored.value is None or flag.value is None or abs(stored.value - flag.value) > TOLERANCE:
        raise ResultError(
            f"the value of flag {flag.name} is {stored.value}; need {flag.value}, from 'checks'"
        )


def check_black_box(
    checks: Checks,
    protocol: ProtocolInfo,
    attacks: Mapping[str, AttackResult],
    outcomes: Outcomes | None,
) -> None:
    """The check of the black-box attacks follows from the outcomes, or lies in a range that does.

    Of AutoAttack the outcomes do not say which stage broke an example, but its stages say how many
    Square broke: that bounds the value.

    Args:
        checks: of `read_checks`.
        protocol: its protocol.
        attacks: its attacks.
        outcomes: per example; nothing is checked without them.

    Raises:
        ResultError: when the stored value is impossible.
    """
    check = checks.get(BLACK_BOX_FLAG)
    if outcomes is None or check is None or not protocol.may_hold_black_box:
        return
    bounds = _black_box_range(protocol, attacks, outcomes)
    if bounds is None:
        return
    least, most = bounds
    if not check.points and _gradients_after(protocol, attacks):
        return  # older versions did not measure it there
    key, n = f"checks.{BLACK_BOX_FLAG}", attacks[protocol.attacks[0].name].accuracy.n
    if check.points != n:
        raise refusal(f"{key}.points", check.points, f"n_examples, which is {n}")
    if not least - TOLERANCE <= check.value * n <= most + TOLERANCE:
        count = f"{least}" if least == most else f"{least} to {most}"
        need = f"{count} of {n} examples, from 'outcomes'"
        raise refusal(f"{key}.value", check.value, need)


def _black_box_range(
    protocol: ProtocolInfo, attacks: Mapping[str, AttackResult], outcomes: Outcomes
) -> tuple[int, int] | None:
    """How many examples a black-box attack broke and no white-box attack: at least, at most.

    None where the protocol lacks one of the two kinds, or where too little is stored. Only attacks
    that aim at the same class are compared.
    """
    if any(one.target for one in protocol.attacks):
        return _targeted_black_box_range(protocol, outcomes)
    clean = int.from_bytes(outcomes.clean, "big")
    white = black = both = 0  # `both`: broken by AutoAttack, one stage of which is a black box
    last: int | None = None  # examples that black boxes inside AutoAttack broke; None: no black box
    any_white = composite = False
    for spec in protocol.attacks:
        broken = clean & ~int.from_bytes(outcomes.attacks[spec.name], "big")
        if spec.attack in BLACK_BOX:
            black |= broken
            last = last or 0
        elif spec.attack == AUTOATTACK:
            stages = attacks[spec.name].stages
            if composite or not stages:
                return None
            any_white = composite = True
            place = _black_box_stage(attacks[spec.name])
            if place is None:
                white |= broken
                continue
            if stages[-1][1].correct != attacks[spec.name].accuracy.correct:
                return None
            before = stages[place - 1][1].correct if place else clean.bit_count()
            both, last = broken, (last or 0) + before - stages[place][1].correct
        elif spec.attack in WHITE_BOX:
            any_white = True
            white |= broken
        else:
            return None
    if last is None or not any_white:
        return None
    certain = (black & ~white & ~both).bit_count()
    seen = (both & white).bit_count()
    return certain + max(0, last - seen), certain + min(last, both.bit_count() - seen)


def _targeted_black_box_range(protocol: ProtocolInfo, outcomes: Outcomes) -> tuple[int, int] | None:
    """`_black_box_range` of a protocol that holds targeted attacks, none of which has stages."""
    clean, alone = int.from_bytes(outcomes.clean, "big"), None
    for target in {one.target for one in protocol.attacks}:
        left: dict[bool, int] = {}  # by whether it is a black box: what such attacks did not break
        for one in (one for one in protocol.attacks if one.target == target):
            if one.attack not in BLACK_BOX | WHITE_BOX:
                return None
            bits = int.from_bytes(outcomes.attacks[one.name], "big")
            black = one.attack in BLACK_BOX
            left[black] = left.get(black, clean) & bits
        if len(left) == 2:
            alone = (alone or 0) | (left[False] & ~left[True])
    return None if alone is None else (alone.bit_count(), alone.bit_count())


def _black_box_stage(attack: AttackResult) -> int | None:
    """The place of the stage that uses no gradients; None without one."""
    names = [name for name, _ in attack.stages]
    return next((place for place, name in enumerate(names) if name in BLACK_BOX), None)


def _gradients_after(protocol: ProtocolInfo, attacks: Mapping[str, AttackResult]) -> bool:
    """Whether AutoAttack goes on with gradients after its black box, as version `plus`."""
    composite = [attacks[one.name] for one in protocol.attacks if one.attack == AUTOATTACK]
    return any(_black_box_stage(one) not in (None, len(one.stages) - 1) for one in composite)
