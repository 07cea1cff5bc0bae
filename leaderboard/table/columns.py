"""What people see of a group of rows: its columns, and the notes below it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

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
NOT_CANONICAL = "The data are not canonical: not comparable with published numbers."

_EXTRA_DATA = {True: "yes", False: "", None: "not stated"}


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


def _measured(row: Row) -> bool:
    return row.measured


def _attack(title: str) -> Column:
    return Column(
        "attack", title, lambda row: percent(row.attacks.get(title, math.nan)), right=True
    )


def _worst_class(row: Row) -> str:
    label = row.worst_class_label
    return "" if label is None else f"{percent(row.worst_class)} ({label})"


def status_text(row: Row) -> str:
    """The status of a row, and why it has no rank."""
    return f"{row.status}: {row.flags}" if row.flags else row.status


_BEFORE_ATTACKS = (
    Column("rank", "Rank", lambda row: row.rank, shown=_measured),
    Column("name", "Name", lambda row: row.name),
    Column("defense", "Defense", lambda row: row.defense, dropped=4),
    Column("architecture", "Architecture", lambda row: row.architecture, dropped=3),
    Column(
        "params", "Params", lambda row: count(row.params or 0), True, dropped=2, shown=_measured
    ),
    Column(
        "extra_data",
        "Extra data",
        lambda row: _EXTRA_DATA[row.extra_data],
        shown=lambda row: bool(row.extra_data),
    ),
    Column("clean", "Clean", lambda row: percent(row.clean), True),
)
_AFTER_ATTACKS = (
    Column("robust", "Worst case", lambda row: percent(row.worst_case), True, shown=_measured),
    Column(
        "interval",
        "95% interval",
        lambda row: interval(row.interval_lo, row.interval_hi),
        True,
        shown=_measured,
    ),
    Column(
        "worst_class",
        "Worst class",
        _worst_class,
        True,
        dropped=5,
        shown=lambda row: row.worst_class_label is not None,
        meaning=LOWEST,
    ),
    Column("cost", "Cost", lambda row: passes(row.cost), True, 1, shown=_measured, meaning=PASSES),
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
    if any(row.worst_class_label is not None for row in section.rows):
        notes.append(WORST_CLASS)
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
