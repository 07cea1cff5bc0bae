"""The flags of a stored result, raised again from its checks and outcomes."""

from __future__ import annotations

from collections.abc import Mapping

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.flag_rules import (
    AUTOATTACK,
    BLACK_BOX,
    BLACK_BOX_FLAG,
    FLAGS,
    WHITE_BOX,
    may_raise,
)
from robustbench_lite.leaderboard.results.fields import Fields
from robustbench_lite.leaderboard.results.records import AttackResult, Flag, Outcomes, ProtocolInfo

TOLERANCE = 1e-9
MOST_POINTS = 2**53  # beyond any data set; keeps the arithmetic exact
_RULES = {flag.name: flag for flag in FLAGS}


def read_flags(fields: Fields, protocol: ProtocolInfo) -> tuple[tuple[Flag, ...], tuple[str, ...]]:
    """The flags that the stored checks raise, which have to be those that the file names.

    A check that the file does not hold (results of older versions have fewer, or bare values) can
    raise nothing; a stored flag without its check is kept, for it only speaks against the result.

    Args:
        fields: the whole result.
        protocol: its protocol.

    Returns:
        The flags, and the names of the checks that the file should hold and does not.

    Raises:
        ResultError: when a flag was left out, added or changed; it names the flag.
    """
    checks = fields.optional_child("checks")
    if fields.data.get("flags") == [] and _all_below(checks.data):  # nearly always
        return (), ()
    values, missing = _checks(checks)
    stored = {flag.name: flag for flag in map(_flag, fields.children("flags"))}
    raised = []
    for name, (value, points) in values.items():
        rule = _RULES[name]
        if may_raise(rule, passes=protocol.passes) and rule.is_raised_by(value, points):
            flag = Flag(name, value, rule.threshold, rule.meaning, rule.follow_up)
            _check_named(fields, stored.pop(name, None), flag)
            raised.append(flag)
    for name in stored:
        if name in values:
            raise ResultError(
                f"{fields.source}: 'flags' names {name}, but its check, which is "
                f"{values[name][0]:.4g}, does not raise it; evaluate again"
            )
    return (*raised, *stored.values()), missing


def _all_below(checks: Mapping[str, object]) -> bool:
    """Whether every check is there, well formed and not above its threshold: the fast answer."""
    for name, rule in _RULES.items():
        check = checks.get(name)
        if type(check) is not dict:
            return False
        value, points = check.get("value"), check.get("points")
        if type(value) is not float or type(points) is not int:
            return False
        if not value <= rule.threshold or not 0 <= points <= MOST_POINTS:
            return False
    return True


def _check_named(fields: Fields, stored: Flag | None, flag: Flag) -> None:
    """A flag that its check raises stands among the stored ones, with the check's value."""
    if stored is None:
        raise ResultError(
            f"{fields.source}: 'flags' leaves out {flag.name}: its check is {flag.value:.4g}, "
            f"above {flag.threshold:.4g}; evaluate again"
        )
    if stored.value is None or flag.value is None or abs(stored.value - flag.value) > TOLERANCE:
        raise ResultError(
            f"{fields.source}: the value of flag {flag.name} is {stored.value}; need "
            f"{flag.value}, from 'checks'"
        )


def _checks(stored: Fields) -> tuple[dict[str, tuple[float, int]], tuple[str, ...]]:
    """Value and points of each check, and the names of those that are not there."""
    values: dict[str, tuple[float, int]] = {}
    missing = []
    for name in _RULES:
        check = stored.data.get(name)
        if check is None or type(check) in (int, float):  # bare values: older versions
            missing.append(name)
            continue
        one = stored.child(name)
        values[name] = one.number("value"), one.integer("points", 0, MOST_POINTS)
    return values, tuple(missing)


def _flag(fields: Fields) -> Flag:
    return Flag(
        name=fields.text("name"),
        value=fields.optional_number("value"),
        threshold=fields.optional_number("threshold"),
        meaning=fields.optional_text("meaning"),
        follow_up=fields.optional_text("follow_up"),
    )


def check_black_box(
    fields: Fields,
    protocol: ProtocolInfo,
    attacks: Mapping[str, AttackResult],
    outcomes: Outcomes | None,
    n: int,
) -> None:
    """The check of the black-box attacks follows from the outcomes, or lies in a range that does.

    Of AutoAttack the outcomes do not say which stage broke an example, but its stages say how many
    Square broke: that bounds the value.

    Args:
        fields: the whole result.
        protocol: its protocol.
        attacks: its attacks.
        outcomes: per example; nothing is checked without them.
        n: number of examples.

    Raises:
        ResultError: when the stored value is impossible.
    """
    if outcomes is None or not protocol.may_hold_black_box:
        return
    checks = fields.optional_child("checks")
    if type(checks.data.get(BLACK_BOX_FLAG)) is not dict:
        return
    bounds = _black_box_range(protocol, attacks, outcomes)
    if bounds is None:
        return
    least, most = bounds
    check = checks.child(BLACK_BOX_FLAG)
    if check.integer("points", 0) != n:
        raise check.refuse("points", f"n_examples, which is {n}")
    if not least - TOLERANCE <= check.number("value") * n <= most + TOLERANCE:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise check.refuse("value", f"{count} of {n} examples, from 'outcomes'")


def _black_box_range(
    protocol: ProtocolInfo, attacks: Mapping[str, AttackResult], outcomes: Outcomes
) -> tuple[int, int] | None:
    """How many examples a black-box attack broke and no white-box attack: at least, at most.

    None where the protocol lacks one of the two kinds, or where too little is stored.
    """
    clean = int.from_bytes(outcomes.clean, "big")
    white = black = both = 0  # `both`: broken by AutoAttack, whose last stage is a black box
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
            if stages[-1][0] not in BLACK_BOX:
                white |= broken
                continue
            if stages[-1][1].correct != attacks[spec.name].accuracy.correct:
                return None
            before = stages[-2][1].correct if len(stages) > 1 else clean.bit_count()
            both, last = broken, (last or 0) + before - stages[-1][1].correct
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
