"""What does not fit between published tables: one network, two radii; one method, two numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

from robustbench_lite.leaderboard.published_findings import Finding, differ
from robustbench_lite.leaderboard.published_numbers import (
    ACCURACIES,
    CLEAN,
    Cell,
    PublishedTable,
    Row,
)

AA = "aa"


def radius_conflicts(tables: Sequence[PublishedTable], checked: set[str]) -> Iterator[Finding]:
    """Rows with the same clean and AutoAttack numbers are one network: of two radii one is wrong.

    Args:
        tables: to be compared.
        checked: ids of those whose findings are wanted.
    """
    networks: dict[tuple[object, ...], list[tuple[Row, Cell]]] = defaultdict(list)
    for table in tables:
        for row in table.rows:
            cells = {cell.metric: cell for cell in row.cells}
            if {CLEAN, AA} <= set(cells) and cells[AA].eps_printed:
                clean, robust = cells[CLEAN].value, cells[AA].value
                networks[row.dataset, cells[AA].norm, clean, robust].append((row, cells[AA]))
    for found in networks.values():
        for (row, mine), (other, theirs) in combinations(found, 2):
            if Fraction(mine.eps_printed) == Fraction(theirs.eps_printed):
                continue
            for at, cell, away in ((row, mine, theirs), (other, theirs, mine)):
                if cell.table in checked:
                    message = (
                        f"AutoAttack {cell.shown}: printed {cell.eps_printed} here, "
                        f"{away.eps_printed} in {away.table}, {away.row}"
                    )
                    yield Finding("radius_conflict", cell.table, (at.id,), message)
                    break


def sources_differ(tables: Sequence[PublishedTable], checked: set[str]) -> Iterator[Finding]:
    """The same method, network, data and metric in two tables, and numbers that rounding does not
    bring together; arguments as of `radius_conflicts`."""
    groups: dict[tuple[object, ...], list[tuple[Row, Cell]]] = defaultdict(list)
    for table in tables:
        for row in table.rows:
            for cell in row.cells:
                if cell.quantity in ACCURACIES and row.model and not cell.part:
                    network = re.sub(r"wideresnet", "wrn", re.sub(r"\W|_", "", row.model.lower()))
                    key = (row.method, network, cell.dataset, cell.norm, cell.metric)
                    groups[key].append((row, cell))
    for found in groups.values():
        for (row, mine), (other, theirs) in combinations(found, 2):
            cells = sorted((mine, theirs), key=lambda cell: cell.table not in checked)
            if mine.table == theirs.table or cells[0].table not in checked:
                continue
            if _may_be_one(row, mine, other, theirs) and differ(mine, theirs):
                message = (
                    f"{row.method}, {cells[0].title} {cells[0].shown} here, "
                    f"{cells[1].shown} in {cells[1].table}, {cells[1].row}"
                )
                yield Finding("sources_differ", cells[0].table, (cells[0].row,), message)


def _may_be_one(row: Row, mine: Cell, other: Row, theirs: Cell) -> bool:
    """Neither other images nor another radius or checkpoint, as far as both say."""
    radii = {Fraction(cell.eps) for cell in (mine, theirs) if cell.eps}
    chosen = {one.selection for one in (row, other) if one.selection}
    return mine.n == theirs.n and len(chosen) < 2 and len(radii) < 2
