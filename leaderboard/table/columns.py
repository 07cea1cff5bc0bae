"""What people see of a group of rows: its columns, and the notes below it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from robustbench_lite.leaderboard.results.records import MEASURED
from robustbench_lite.leaderboard.table.row import Row, Section
from robustbench_lite.leaderboard.table.text import count, interval, passes, percent, plain

NOTHING = "No results."
CAPTION = (
    "Accuracies in percent, with 95% Wilson intervals. Worst case: correct and broken by no attack."
)
PASSES = "forward plus backward passes per example attacked"
COST = f"Cost: {PASSES}."
LOWEST = "the lowest worst case of a class, and its label"
WORST_CLASS = f"Worst class: {LOWEST}."
TIES = "Rank with '=': not separated from the first of its ties (exact McNemar, Holm, 5%)."
AS_REPORTED = "Reported only, not measured here:"
PREFIX = (
    "Intervals of rows on the first images of a split hold for those images, not the whole split."
)
NOT_CANONICAL = "The data are not canonical: not comparable with published numbers."


@dataclass(frozen=True)
class Column:
    """One column for people.

    Args:
        key: names the column for programs; all attacks share one.
        heading: what stands above it.
        cell: the text of a row's cell, not escaped yet.
        right: aligned to the right, as numbers are; such cells hold no text from outside.
        dropped: order in which a narrow terminal leaves columns out; 0 keeps it.
        shown: a group in which this holds for no row leaves the column out.
        meaning: explains the heading, where the page does.
    """

    key: str
    heading: str
    cell: Callable[[Row], str]
    right: bool = False
    dropped: int = 0
    shown: Callable[[Row], bool] = lambda _: True
    meaning: str = ""


def columns_for(section: Section, always: Collection[str] = ()) -> list[Column]:
    """The columns for people; the ones that say nothing in this group are left out.

    Args:
        section: the group.
        always: keys of columns that stay even so.
    """
    columns = [*_BEFORE_ATTACKS, *map(_attack, section.attacks), *_AFTER_ATTACKS]
    return [one for one in columns if one.key in always or any(map(one.shown, section.rows))]


def _attack(title: str) -> Column:
    return _number("attack", title, lambda row: percent(row.attacks.get(title, math.nan)))


def _extra_data(row: Row) -> str:
    return {True: "yes", False: "", None: "not stated"}[row.extra_data]


def _interval(row: Row) -> str:
    return interval(row.interval_lo, row.interval_hi)


def _worst_class(row: Row) -> str:
    label = row.worst_class_label
    return "" if label is None else f"{percent(row.worst_class)} ({label})"


def _has_class(row: Row) -> bool:
    return row.worst_class_label is not None


def status_text(row: Row) -> str:
    """The status of a row, and why it has no rank."""
    return f"{row.status}: {row.flags}" if row.flags else row.status


def _is_measured(row: Row) -> bool:
    return row.measured


_number = partial(Column, right=True)
_measure = partial(_number, shown=_is_measured)  # published rows have none
_BEFORE_ATTACKS = (
    Column("rank", "Rank", lambda row: row.rank, shown=_is_measured),
    Column("name", "Name", lambda row: row.name),
    Column("defense", "Defense", lambda row: row.defense, dropped=5),
    Column("architecture", "Architecture", lambda row: row.architecture, dropped=3),
    _measure("params", "Params", lambda row: count(row.params or 0), dropped=2),
    Column("extra_data", "Extra data", _extra_data, shown=lambda row: bool(row.extra_data)),
    _number("clean", "Clean", lambda row: percent(row.clean)),
)
_AFTER_ATTACKS = (
    _measure("robust", "Worst case", lambda row: percent(row.worst_case)),
    _measure("interval", "95% interval", _interval),
    _number(
        "worst_class", "Worst class", _worst_class, dropped=4, shown=_has_class, meaning=LOWEST
    ),
    _measure("cost", "Cost", lambda row: passes(row.cost), dropped=1, meaning=PASSES),
    Column("status", "Status", status_text, shown=lambda row: row.status != MEASURED),
)


def notes_for(section: Section) -> list[str]:
    """What the reader of this group has to know besides the numbers."""
    if not section.measured:
        return [f"{AS_REPORTED} {plain(section.rows[0].source)}."]
    notes = [TIES] if section.has_ties else []
    notes.append(counts_text(section))
    if any(row.canonical is False for row in section.rows):
        notes.append(NOT_CANONICAL)
    if any(map(_has_class, section.rows)):
        notes.append(WORST_CLASS)
    if any(row.of_prefix for row in section.rows):
        notes.append(PREFIX)
    notes.append(f"Engine: {plain(section.rows[0].engine)}.")
    return notes


def counts_text(section: Section) -> str:
    """`Ranked: 3 measured, 1 verified. Unranked: 1 flagged.`"""
    ranked, others = section.count_statuses()
    parts = [f"Ranked: {_counts(ranked) or 'none'}."]
    if others:
        parts.append(f"Unranked: {_counts(others)}.")
    return " ".join(parts)


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {status}" for status, number in found.items())
