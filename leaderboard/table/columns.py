"""What people see of a table: its groups, and the columns of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustbench_lite.leaderboard.results.records import MEASURED, RANKED, STATUSES
from robustbench_lite.leaderboard.statistics.ranking import GroupKey
from robustbench_lite.leaderboard.table.build import attack_columns
from robustbench_lite.leaderboard.table.text import (
    count,
    headings,
    interval,
    passes,
    percent,
    plain,
)

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

Row = Mapping[str, object]

NOTHING = "No results."
CAPTION = (
    "Accuracies in percent, with 95% Wilson intervals. Worst case: correct and broken by no attack."
)
WORST_CLASS = "Worst class: the lowest worst case of a class, and its label."
COST = "Cost: forward plus backward passes per example attacked."
TIES = "Rank with '=': not separated from the first of its ties (exact McNemar, Holm, 5%)."
AS_REPORTED = "Reported only, not measured here:"
NOT_CANONICAL = "The data are not canonical: not comparable with published numbers."

_EXTRA_DATA: dict[object, str] = {True: "yes", False: "", None: "not stated"}


@dataclass(frozen=True)
class Column:
    """One column for people.

    Args:
        heading: what stands above it.
        cell: the text of a row's cell, not escaped yet.
        right: aligned to the right, as numbers are; such cells hold no text from outside.
        dropped: order in which a narrow terminal leaves columns out; 0 keeps it.
    """

    heading: str
    cell: Callable[[Row], str]
    right: bool = False
    dropped: int = 0


@dataclass(frozen=True)
class Section:
    """One group: its heading, its rows, and the titles of the attacks its protocol has."""

    heading: str
    key: GroupKey
    rows: list[Row]
    attacks: list[str]


def split_groups(table: pd.DataFrame) -> list[Section]:
    """The groups of a table, in the order in which they first appear."""
    attacks = attack_columns(table)
    groups: dict[GroupKey, list[Row]] = {}
    for row in table.to_dict("records"):
        # A source may lack an attack in some of its rows, a protocol never.
        present = [] if _is_published(row) else _present(row, attacks)
        groups.setdefault(_key(row, present), []).append(row)
    return [
        Section(heading, key, rows, [one for one in attacks if _in_any(rows, one)])
        for heading, (key, rows) in zip(headings(list(groups)), groups.items(), strict=True)
    ]


def _present(row: Row, attacks: Sequence[str]) -> list[str]:
    return [title for title in attacks if not math.isnan(_number(row[title]))]


def _in_any(rows: Sequence[Row], title: str) -> bool:
    return any(not math.isnan(_number(row[title])) for row in rows)


def _key(row: Row, attacks: Sequence[str]) -> GroupKey:
    return GroupKey(
        dataset=str(row["dataset"]),
        split=str(row["split"]),
        dataset_hash=str(row["dataset_hash"]),
        first_example=_integer(row["first_example"] or 0),
        n_examples=_integer(row["n"] or 0),
        norm=str(row["norm"]),
        eps_value=_number(row["eps_value"]) if row["eps"] else math.inf,
        eps=str(row["eps"]),
        protocol_id=str(row["protocol_id"]),
        protocol_hash=str(row["protocol_hash"]),
        attacks=tuple(attacks),
    )


def _integer(value: object) -> int:
    return int(value)  # type: ignore[call-overload, no-any-return]


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]


def columns_for(section: Section) -> list[Column]:
    """The columns for people; the ones that say nothing in this group are left out."""
    columns = [
        Column("Rank", lambda row: str(row["rank"])),
        Column("Name", lambda row: str(row["name"])),
        Column("Defense", lambda row: str(row["defense"]), dropped=4),
        Column("Architecture", lambda row: str(row["architecture"]), dropped=3),
    ]
    if is_reported(section):
        columns += [_accuracy(title, title) for title in section.attacks]
        columns.insert(4, _accuracy("Clean", "clean"))
        return [*columns[1:], Column("Status", status_text)]
    columns.append(
        Column("Params", lambda row: count(_integer(row["params"])), right=True, dropped=2)
    )
    if any(row["extra_data"] for row in section.rows):
        columns.append(Column("Extra data", lambda row: _EXTRA_DATA[row["extra_data"]]))
    columns.append(_accuracy("Clean", "clean"))
    columns += [_accuracy(title, title) for title in section.attacks]
    columns += [
        _accuracy("Worst case", "worst_case"),
        Column("95% interval", _interval, right=True),
    ]
    if any(row["worst_class_label"] is not None for row in section.rows):
        columns.append(Column("Worst class", _worst_class, right=True, dropped=5))
    columns += [
        Column("Cost", lambda row: passes(_number(row["cost"])), right=True, dropped=1),
    ]
    if any(row["status"] != MEASURED for row in section.rows):
        columns.append(Column("Status", status_text))
    return columns


def is_reported(section: Section) -> bool:
    """Whether the rows were copied from a paper instead of measured."""
    return _is_published(section.rows[0])


def _is_published(row: Row) -> bool:
    return not row["model_hash"]  # a result always names its network


def _accuracy(heading: str, key: str) -> Column:
    return Column(heading, lambda row: percent(_number(row[key])), right=True)


def _interval(row: Row) -> str:
    return interval(_number(row["interval_lo"]), _number(row["interval_hi"]))


def _worst_class(row: Row) -> str:
    label = row["worst_class_label"]
    return "" if label is None else f"{percent(_number(row['worst_class']))} ({label})"


def status_text(row: Row) -> str:
    """The status of a row, and why it has no rank."""
    return f"{row['status']}: {row['flags']}" if row["flags"] else str(row["status"])


def notes_for(section: Section) -> list[str]:
    """What the reader of this group has to know besides the numbers."""
    if is_reported(section):
        return [f"{AS_REPORTED} {plain(str(section.rows[0]['source']))}."]
    notes = []
    if any(str(row["rank"]).endswith("=") for row in section.rows):
        notes.append(TIES)
    notes.append(counts_text(str(row["status"]) for row in section.rows))
    if any(row["canonical"] is False for row in section.rows):
        notes.append(NOT_CANONICAL)
    if any(row["worst_class_label"] is not None for row in section.rows):
        notes.append(WORST_CLASS)
    notes.append(f"Engine: {plain(str(section.rows[0]['engine']))}.")
    return notes


def count_statuses(statuses: Iterable[str]) -> tuple[dict[str, int], dict[str, int]]:
    """How many rows of each status there are: those with a rank, those without."""
    counted = Counter(statuses)
    found = {status: counted[status] for status in STATUSES if counted[status]}
    return (
        {status: number for status, number in found.items() if status in RANKED},
        {status: number for status, number in found.items() if status not in RANKED},
    )


def counts_text(statuses: Iterable[str]) -> str:
    """`Ranked: 3 measured, 1 verified. Unranked: 1 flagged.`"""
    ranked, others = count_statuses(statuses)
    parts = [f"Ranked: {_counts(ranked) or 'none'}."]
    if others:
        parts.append(f"Unranked: {_counts(others)}.")
    return " ".join(parts)


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {status}" for status, number in found.items())
