"""Published numbers as rows beside measured ones: never ranked, and marked as reported only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from robustbench_lite.leaderboard.published.records import (
    ACCURACIES,
    CLEAN_METRIC,
    Cell,
    PublishedRow,
    PublishedTable,
)


@dataclass(frozen=True, order=True)
class ReportedKey:
    """What the rows of one reported table share; its order is the order of the tables."""

    dataset: str
    norm: str
    eps_value: float
    eps: str
    split: str
    source: str

    @property
    def protocol_id(self) -> str:
        """What stands where measured rows have their protocol."""
        return f"as reported: {self.source}"


@dataclass(frozen=True)
class ReportedRow:
    """One network of a published table at one radius.

    Args:
        key: data, threat model and table.
        paper: the source.
        name: as printed; with the row's id where the table prints it twice.
        method: in our words.
        model: architecture as printed.
        clean: accuracy without attack; None where the source has none.
        clean_heading: of its column, as printed.
        attacks: accuracy by heading of the column.
        shown: all of these as printed, with their marks, by heading.
        cell_marks: by heading: `" (memory)"` and the like, which goes with a number everywhere.
        marks: how far its numbers were checked, where they were not read at the source.
        note: what a reader must know besides.
    """

    key: ReportedKey
    paper: str
    name: str
    method: str
    model: str
    clean: float | None
    clean_heading: str
    attacks: Mapping[str, float]
    shown: Mapping[str, str]
    cell_marks: Mapping[str, str]
    marks: str
    note: str


def reported_rows(tables: Iterable[PublishedTable]) -> list[ReportedRow]:
    """The accuracies of published tables, row by row, in the order of the tables.

    A row with numbers at several radii becomes several; other quantities (AUROC, success rates)
    and rows without an attacked accuracy are left out.
    """
    return [one for table in tables for row in table.rows for one in _rows(table, row)]


def group_reported(rows: Iterable[ReportedRow]) -> dict[ReportedKey, list[ReportedRow]]:
    """Rows by what they share, in a fixed order of tables and the source's order of rows."""
    groups: dict[ReportedKey, list[ReportedRow]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    return dict(sorted(groups.items()))


def _rows(table: PublishedTable, row: PublishedRow) -> list[ReportedRow]:
    cells = [cell for cell in row.cells if cell.quantity in ACCURACIES and not cell.part]
    clean = next((cell for cell in cells if cell.metric == CLEAN_METRIC), None)
    groups: dict[ReportedKey, list[Cell]] = {}
    for cell in cells:
        if cell.metric != CLEAN_METRIC:
            groups.setdefault(_key(table, cell), []).append(cell)
    return [_row(table, row, key, clean, attacked) for key, attacked in groups.items()]


def _row(
    table: PublishedTable,
    row: PublishedRow,
    key: ReportedKey,
    clean: Cell | None,
    attacked: list[Cell],
) -> ReportedRow:
    cells = attacked if clean is None else [clean, *attacked]
    once = sum(_looks(other) == _looks(row) for other in table.rows) == 1
    return ReportedRow(
        key=key,
        paper=table.paper,
        name=row.printed if once else f"{row.printed} ({row.id})",
        method=row.method,
        model=row.model,
        clean=None if clean is None else float(clean.accuracy),
        clean_heading="" if clean is None else clean.title,
        attacks={cell.title: float(cell.accuracy) for cell in attacked},
        shown={cell.title: cell.shown for cell in cells},
        cell_marks={cell.title: cell.mark for cell in cells},
        marks=", ".join(sorted({cell.provenance for cell in cells} - {"verified"})),
        note=" ".join(filter(None, (row.note, *(cell.note for cell in cells)))),
    )


def _looks(row: PublishedRow) -> tuple[str, str, str]:
    return row.printed, row.model, row.dataset


def _key(table: PublishedTable, cell: Cell) -> ReportedKey:
    return ReportedKey(
        dataset=cell.dataset,
        norm=cell.norm,
        eps_value=_radius(cell.eps),
        eps=cell.eps,
        split=cell.split,
        source=table.id,
    )


def _radius(text: str) -> float:
    """A radius as a number; infinity, which sorts last, when the source states none."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return math.inf
