"""Which flags of a row another result has answered, and which of another result's it still has.

A flag is a doubt about a network, its data and a radius, so results of the same three are read
together. A flag stays until the follow-up that it names has answered it; a row that could not
measure a flag cannot take it off another one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs

from robustbench_lite.core.flag_rules import (
    AUTOATTACKS,
    FLAGS,
    FOLLOW_UPS,
    HUGE_EPS,
    LOSS_SCALE,
)
from robustbench_lite.leaderboard.results.records import RaisedFlag, Result
from robustbench_lite.leaderboard.statistics.accuracy import outcome_array

MOST_BROKEN_MORE = 0.01  # share of a row's examples; that of black_box_beats_white_box
_KNOWN = frozenset(flag.name for flag in FLAGS)


def with_follow_ups(results: Iterable[Result]) -> list[Result]:
    """The same results with what they say of each other's flags.

    A flag goes when a result with the AutoAttack that it names has answered it (see `_answer`); the
    row then says which and how (`Result.answered`). A flag that another result of the same network,
    data, split, norm and radius has raised is put on a row that has no point for it, unless it is
    answered there.

    Args:
        results: in any order.

    Returns:
        One for each, in the same order.
    """
    results = list(results)
    groups: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for result in results:
        groups[_network(result)].append(result)
    doubted = {key for key, group in groups.items() if any(_own(one) for one in group)}
    if not doubted:
        return results
    return [
        _read_with(result, groups[_network(result)]) if _network(result) in doubted else result
        for result in results
    ]


def _network(result: Result) -> tuple[object, ...]:
    data = result.dataset
    return (result.model.hash, data.name, data.split, data.hash, result.protocol.norm)


def _own(result: Result) -> list[RaisedFlag]:
    """Its flags of the table: others, such as `submitted`, are no matter of the network."""
    return [flag for flag in result.flags if flag.name in _KNOWN]


def _read_with(result: Result, group: Sequence[Result]) -> Result:
    """The result with its own flags that are answered taken off, and open ones of others put on."""
    flags, answered = [], []
    for flag in (*result.flags, *_open_flags(result, group)):
        said = next(filter(None, (_answer(flag.name, result, other) for other in group)), "")
        if said:
            answered.append(said)
        else:
            flags.append(flag)
    return replace(result, flags=tuple(flags), answered=tuple(answered))


def _open_flags(result: Result, group: Sequence[Result]) -> list[RaisedFlag]:
    """Flags that others of the same radius raised and that this row had nothing to measure on."""
    found: dict[str, RaisedFlag] = {}
    here = {flag.name for flag in result.flags}
    for other in group:
        if other.protocol.eps_value != result.protocol.eps_value:
            continue
        for flag in _own(other):
            if flag.name not in here and not _points(result, flag.name):
                meaning = f"raised by {other.protocol.id}, not measured here: {flag.meaning}"
                found.setdefault(flag.name, structs.replace(flag, meaning=meaning))
    return list(found.values())


def _points(result: Result, name: str) -> int:
    """On how many examples a check was measured."""
    check = result.checks.get(name)
    points = check.get("points", 0) if isinstance(check, dict) else 0
    return points if isinstance(points, int) else 0


def _answer(name: str, row: Result, other: Result) -> str:
    """What `other` says to a flag of `row`; empty where it does not answer it.

    It has to hold the version of AutoAttack that the flag names (`FOLLOW_UPS`), whatever the
    protocol is called, on all examples of the row, and to break at most
    1 % of them beyond what the row has broken: else the row's number is too high, whatever the
    reason. And the doubt has to be settled there: the flag was measured and did not rise; for
    `loss_scale` the attacks do not depend on the scale; for `huge_eps` at most the largest class
    is left.
    """
    if not _holds(other, name):
        return ""
    if name == HUGE_EPS:
        return _unbounded(row, other)
    if other.protocol.eps_value != row.protocol.eps_value:
        return ""
    raised = any(flag.name == name for flag in other.flags)
    if name != LOSS_SCALE and (raised or not _points(other, name)):
        return ""
    more = _broken_more(row, other)
    if more is None or more > MOST_BROKEN_MORE * row.n_examples:
        return ""
    where = "this row" if other is row else other.protocol.id
    return f"{name} answered by {where}: it breaks {more} of {row.n_examples} more"


def _holds(result: Result, name: str) -> bool:
    """Whether an attack of a result is a version of AutoAttack that follows up a flag."""
    versions = FOLLOW_UPS.get(name, ())
    return any(
        one.attack in AUTOATTACKS and dict(one.parameters).get("version") in versions
        for one in result.protocol.attacks
    )


def _unbounded(row: Result, other: Result) -> str:
    """Whether AutoAttack leaves no more than a class in a larger ball, for a row that has it."""
    labels = other.outcomes.labels if other.outcomes else None
    if not _holds(row, HUGE_EPS) or labels is None:
        return ""
    if other.protocol.eps_value <= row.protocol.eps_value:
        return ""
    largest = int(np.bincount(np.frombuffer(labels, dtype="<u2")).max())
    left = other.robust_accuracy.correct
    if left > largest:
        return ""
    return f"{HUGE_EPS} answered by {other.protocol.id}: it leaves {left} of {other.n_examples}"


def _broken_more(row: Result, other: Result) -> int | None:
    """Examples that `row` calls robust and `other` breaks; None where it lacks some of them."""
    if row.robust_bits is None or other.robust_bits is None:
        return None
    ids, ids_there = row.examples.id_array, other.examples.id_array  # both ascend
    if not np.isin(ids, ids_there).all():
        return None
    stands = outcome_array(row.robust_bits, row.n_examples)
    there = outcome_array(other.robust_bits, other.n_examples)
    stands_there = there[np.searchsorted(ids_there, ids)]
    return int((stands & ~stands_there).sum())
