"""What does not fit together in published numbers: found by rules, listed, never mended."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from robustbench_lite.leaderboard.published_conflicts import radius_conflicts, sources_differ
from robustbench_lite.leaderboard.published_findings import (
    KINDS,
    Finding,
    above,
    attacked,
    coarse,
    count,
    ids,
    numbers,
)
from robustbench_lite.leaderboard.published_numbers import (
    ACCURACIES,
    CLEAN,
    Cell,
    PublishedTable,
    Row,
)

NEAR = Fraction(2, 100)  # radii this close relatively are easily taken for one another
MUCH_BELOW = Fraction(1, 100)  # one point: what randomness of AutoAttack cannot explain
MUCH_ABOVE = Fraction(10, 100)  # ten points between a first-order attack and AutoAttack
ENOUGH = 10  # numbers in a column before one can speak of a usual number of digits
AA, EXTERNAL = "aa", "external"
NO_ATTACK_OF_THE_NETWORK = ("external", "transfer_pgd20", "reprogrammed", "blackbox")


def check_published(
    tables: Sequence[PublishedTable], *, beside: Sequence[PublishedTable] = ()
) -> list[Finding]:
    """Everything in some published tables that does not fit together.

    Args:
        tables: to be checked, each by itself and against the others.
        beside: further tables to compare with; what is wrong within them is not listed.

    Returns:
        Findings, by kind in the order of `KINDS`, then by table.
    """
    found = [finding for table in tables for check in _WITHIN for finding in check(table)]
    everything = list({table.id: table for table in (*beside, *tables)}.values())
    checked = {table.id for table in tables}
    found += [*radius_conflicts(everything, checked), *sources_differ(everything, checked)]
    order = list(KINDS)
    return sorted(found, key=lambda one: (order.index(one.kind), one.table))


def _corrected(table: PublishedTable) -> Iterator[Finding]:
    for row in table.rows:
        for cell in row.cells[:1]:
            if cell.eps_printed != cell.eps:
                message = f"printed {cell.eps_printed or 'nothing'}, meant {cell.eps}: {row.note}"
                yield Finding("radius_corrected", table.id, (row.id,), message)


def _mixed_radii(table: PublishedTable) -> Iterator[Finding]:
    """Rows whose printed radius is near that of most of their data set and norm, not equal."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in table.rows:
        for cell in row.cells:
            if attacked(cell) and cell.eps_printed:
                groups[cell.dataset, cell.norm][cell.eps_printed].append(row.id)
                break
    for (dataset, norm), by_radius in groups.items():
        usual = max(by_radius, key=lambda eps: len(by_radius[eps]))
        for eps, rows in by_radius.items():
            ours, theirs = Fraction(eps), Fraction(usual)
            if ours != theirs and abs(ours - theirs) <= NEAR * theirs:
                message = f"{dataset} {norm}: {count(rows, 'row')} at {eps} among rows at {usual}"
                yield Finding("radius_mixed", table.id, tuple(rows), message)


def _no_radius(table: PublishedTable) -> Iterator[Finding]:
    rows = [
        row.id for row in table.rows if any(cell.protocol and not cell.eps for cell in row.cells)
    ]
    if rows:
        yield Finding("radius_unknown", table.id, tuple(rows), count(rows, "row"))


def _order(table: PublishedTable) -> Iterator[Finding]:
    """Relations between the numbers of one row; all of them beyond what rounding explains."""
    for row in table.rows:
        cells = [
            cell
            for cell in row.cells
            if cell.quantity in ACCURACIES and not cell.part and not cell.union
        ]
        clean = next((cell for cell in cells if cell.metric == CLEAN), None)
        judge = next((cell for cell in cells if cell.metric == AA), None)
        for cell in cells:
            if cell.metric == CLEAN:
                continue
            if clean and cell.metric not in NO_ATTACK_OF_THE_NETWORK and above(cell, clean):
                yield _pair("above_clean", table, row, cell, clean)
            if judge and cell is not judge and cell.eps == judge.eps:
                yield from _against_autoattack(table, row, cell, judge)


def _against_autoattack(
    table: PublishedTable, row: Row, cell: Cell, judge: Cell
) -> Iterator[Finding]:
    if cell.metric == EXTERNAL:
        if above(cell, judge):
            yield _pair("external_above", table, row, cell, judge)
        elif judge.accuracy - cell.accuracy > MUCH_BELOW:
            unmarked = row.facts.get("unreliable", "true").lower() != "true"
            extra = "; not marked as unreliable" if unmarked else ""
            yield _pair("external_below", table, row, cell, judge, extra)
    elif above(judge, cell):
        yield _pair("above_weaker", table, row, judge, cell)
    elif cell.accuracy - judge.accuracy > MUCH_ABOVE:
        yield _pair("refuted", table, row, cell, judge)


def _rises(table: PublishedTable) -> Iterator[Finding]:
    for row in table.rows:
        curves: dict[tuple[str, str], list[Cell]] = defaultdict(list)
        for cell in row.cells:
            if cell.quantity in ACCURACIES and cell.eps:
                curves[cell.metric, cell.norm].append(cell)
        for curve in curves.values():
            ordered = sorted(curve, key=lambda cell: Fraction(cell.eps))
            for lower, higher in pairwise(ordered):
                if Fraction(lower.eps) < Fraction(higher.eps) and above(higher, lower):
                    yield _pair("rises", table, row, higher, lower)


def _unreliable(table: PublishedTable) -> Iterator[Finding]:
    for row in table.rows:
        if row.facts.get("unreliable", "").lower() == "true":
            yield Finding("unreliable", table.id, (row.id,), numbers(row))


def _same_numbers(table: PublishedTable) -> Iterator[Finding]:
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in table.rows:
        values = tuple((cell.key, cell.value) for cell in row.cells)
        if len(values) > 1 and not any(map(coarse, row.cells)):
            groups[row.dataset, row.cells[0].norm, values].append(row)
    for rows in groups.values():
        if len(rows) > 1:
            yield Finding("same_numbers", table.id, ids(rows), numbers(rows[0]))


def _repeated(table: PublishedTable) -> Iterator[Finding]:
    """Equal to at least two decimals; 0, 100 and a radius of 0 say nothing."""
    groups: dict[tuple[object, ...], list[tuple[Row, Cell]]] = defaultdict(list)
    for row in table.rows:
        for cell in row.cells:
            exact = cell.rounding <= Fraction(5, 10**5) and 0 < cell.value < 1
            no_attack = cell.eps and not Fraction(cell.eps)
            if exact and cell.quantity in ACCURACIES and not coarse(cell) and not no_attack:
                paper = row.facts.get("paper", table.paper)
                groups[paper, cell.dataset, cell.norm, row.model, cell.key, cell.value].append(
                    (row, cell)
                )
    for pairs in groups.values():
        if len({row.method for row, _ in pairs}) > 1:
            _, cell = pairs[0]
            message = f"{cell.title} {cell.shown}: {', '.join(row.method for row, _ in pairs)}"
            yield Finding("repeated", table.id, ids(row for row, _ in pairs), message)


def _printed_twice(table: PublishedTable) -> Iterator[Finding]:
    for row in table.rows:
        for cell in row.cells:
            if cell.also:
                message = f"{cell.title} {cell.shown}, also {', '.join(cell.also)}"
                yield Finding("printed_twice", table.id, (row.id,), message)


def _empty(table: PublishedTable) -> Iterator[Finding]:
    rows: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        for name, text in row.facts.items():
            if not text.strip():
                rows[name].append(row.id)
    for name, found in rows.items():
        message = f"{name}: empty in {len(found)} of {count(table.rows, 'row')}"
        yield Finding("empty", table.id, tuple(found), message)


def _digits(table: PublishedTable) -> Iterator[Finding]:
    for key, title in table.columns.items():
        cells = [cell for cell in table.cells if cell.key == key]
        if len(cells) < ENOUGH:
            continue
        usual = Counter(cell.rounding for cell in cells).most_common(1)[0][0]
        rows = tuple(cell.row for cell in cells if cell.rounding > usual)
        if rows:
            message = f"{title}: {len(rows)} of {count(cells, 'number')} with fewer digits"
            yield Finding("digits", table.id, rows, message)


def _markup(table: PublishedTable) -> Iterator[Finding]:
    for row in table.rows:
        for name, text in row.facts.items():
            if re.search(r"<[a-zA-Z/][^>]*>", text):
                yield Finding("markup", table.id, (row.id,), f"{name}: {text!r}")


_WITHIN: tuple[Callable[[PublishedTable], Iterator[Finding]], ...] = (
    _corrected,
    _mixed_radii,
    _no_radius,
    _order,
    _rises,
    _unreliable,
    _same_numbers,
    _repeated,
    _printed_twice,
    _empty,
    _digits,
    _markup,
)


def _pair(
    kind: str, table: PublishedTable, row: Row, one: Cell, other: Cell, extra: str = ""
) -> Finding:
    message = f"{one.title} {one.shown} against {other.title} {other.shown}{extra}"
    return Finding(kind, table.id, (row.id,), message)
