"""What does not fit together in published numbers: found by rules, listed, never mended."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise

from robustbench_lite.leaderboard.published.records import (
    ACCURACIES,
    CLEAN_METRIC,
    Cell,
    PublishedRow,
    PublishedTable,
)

NEAR = Fraction(2, 100)  # radii this close relatively are easily taken for one another
MUCH_BELOW = Fraction(1, 100)  # one point: what randomness of AutoAttack cannot explain
MUCH_ABOVE = Fraction(10, 100)  # ten points between a first-order attack and AutoAttack
ENOUGH = 10  # numbers in a column before one can speak of a usual number of digits
AA, EXTERNAL = "aa", "external"
NO_ATTACK_OF_THE_NETWORK = ("external", "transfer_pgd20", "reprogrammed", "blackbox")


def check_published(
    tables: Sequence[PublishedTable], *, beside: Sequence[PublishedTable] = ()
) -> list[Inconsistency]:
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


def _corrected(table: PublishedTable) -> Iterator[Inconsistency]:
    for row in table.rows:
        for cell in row.cells[:1]:
            if cell.eps_printed != cell.eps:
                message = f"printed {cell.eps_printed or 'nothing'}, meant {cell.eps}: {row.note}"
                yield Inconsistency("radius_corrected", table.id, (row.id,), message)


def _mixed_radii(table: PublishedTable) -> Iterator[Inconsistency]:
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
                yield Inconsistency("radius_mixed", table.id, tuple(rows), message)


def _no_radius(table: PublishedTable) -> Iterator[Inconsistency]:
    rows = [
        row.id for row in table.rows if any(cell.protocol and not cell.eps for cell in row.cells)
    ]
    if rows:
        yield Inconsistency("radius_unknown", table.id, tuple(rows), count(rows, "row"))


def _order(table: PublishedTable) -> Iterator[Inconsistency]:
    """Relations between the numbers of one row; all of them beyond what rounding explains."""
    for row in table.rows:
        cells = [
            cell
            for cell in row.cells
            if cell.quantity in ACCURACIES and not cell.part and not cell.union
        ]
        clean = next((cell for cell in cells if cell.metric == CLEAN_METRIC), None)
        autoattack = next((cell for cell in cells if cell.metric == AA), None)
        for cell in cells:
            if cell.metric == CLEAN_METRIC:
                continue
            if clean and cell.metric not in NO_ATTACK_OF_THE_NETWORK and above(cell, clean):
                yield _pair("above_clean", table, row, cell, clean)
            if autoattack and cell is not autoattack and cell.eps == autoattack.eps:
                yield from _against_autoattack(table, row, cell, autoattack)


def _against_autoattack(
    table: PublishedTable, row: PublishedRow, cell: Cell, autoattack: Cell
) -> Iterator[Inconsistency]:
    if cell.metric == EXTERNAL:
        if above(cell, autoattack):
            yield _pair("external_above", table, row, cell, autoattack)
        elif autoattack.accuracy - cell.accuracy > MUCH_BELOW:
            unmarked = row.facts.get("unreliable", "true").lower() != "true"
            extra = "; not marked as unreliable" if unmarked else ""
            yield _pair("external_below", table, row, cell, autoattack, extra)
    elif above(autoattack, cell):
        yield _pair("above_weaker", table, row, autoattack, cell)
    elif cell.accuracy - autoattack.accuracy > MUCH_ABOVE:
        yield _pair("refuted", table, row, cell, autoattack)


def _rises(table: PublishedTable) -> Iterator[Inconsistency]:
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


def _unreliable(table: PublishedTable) -> Iterator[Inconsistency]:
    for row in table.rows:
        if row.facts.get("unreliable", "").lower() == "true":
            yield Inconsistency("unreliable", table.id, (row.id,), numbers(row))


def _same_numbers(table: PublishedTable) -> Iterator[Inconsistency]:
    groups: dict[tuple[object, ...], list[PublishedRow]] = defaultdict(list)
    for row in table.rows:
        values = tuple((cell.key, cell.value) for cell in row.cells)
        if len(values) > 1 and not any(map(coarse, row.cells)):
            groups[row.dataset, row.cells[0].norm, values].append(row)
    for rows in groups.values():
        if len(rows) > 1:
            yield Inconsistency("same_numbers", table.id, ids(rows), numbers(rows[0]))


def _repeated(table: PublishedTable) -> Iterator[Inconsistency]:
    """Equal to at least two decimals; 0, 100 and a radius of 0 say nothing."""
    groups: dict[tuple[object, ...], list[tuple[PublishedRow, Cell]]] = defaultdict(list)
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
            yield Inconsistency("repeated", table.id, ids(row for row, _ in pairs), message)


def _printed_twice(table: PublishedTable) -> Iterator[Inconsistency]:
    for row in table.rows:
        for cell in row.cells:
            if cell.also:
                message = f"{cell.title} {cell.shown}, also {', '.join(cell.also)}"
                yield Inconsistency("printed_twice", table.id, (row.id,), message)


def _empty(table: PublishedTable) -> Iterator[Inconsistency]:
    rows: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        for name, text in row.facts.items():
            if not text.strip():
                rows[name].append(row.id)
    for name, found in rows.items():
        message = f"{name}: empty in {len(found)} of {count(table.rows, 'row')}"
        yield Inconsistency("empty", table.id, tuple(found), message)


def _digits(table: PublishedTable) -> Iterator[Inconsistency]:
    for key, title in table.columns.items():
        cells = [cell for cell in table.cells if cell.key == key]
        if len(cells) < ENOUGH:
            continue
        usual = Counter(cell.rounding for cell in cells).most_common(1)[0][0]
        rows = tuple(cell.row for cell in cells if cell.rounding > usual)
        if rows:
            message = f"{title}: {len(rows)} of {count(cells, 'number')} with fewer digits"
            yield Inconsistency("digits", table.id, rows, message)


def _markup(table: PublishedTable) -> Iterator[Inconsistency]:
    for row in table.rows:
        for name, text in row.facts.items():
            if re.search(r"<[a-zA-Z/][^>]*>", text):
                yield Inconsistency("markup", table.id, (row.id,), f"{name}: {text!r}")


_WITHIN: tuple[Callable[[PublishedTable], Iterator[Inconsistency]], ...] = (
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
    kind: str, table: PublishedTable, row: PublishedRow, one: Cell, other: Cell, extra: str = ""
) -> Inconsistency:
    message = f"{one.title} {one.shown} against {other.title} {other.shown}{extra}"
    return Inconsistency(kind, table.id, (row.id,), message)


KINDS = {
    "radius_conflict": "two sources print the same numbers at different radii",
    "radius_corrected": "the radius meant is not the one printed",
    "radius_mixed": "nearly equal radii side by side: such rows share no rank",
    "radius_unknown": "the source names an attack and no radius",
    "above_clean": "more accurate under attack than without",
    "above_weaker": "AutoAttack leaves more than the authors' own attack found",
    "external_above": "the best attack known leaves more than AutoAttack",
    "external_below": "a known attack finds much more than AutoAttack: its number is too high",
    "refuted": "another attack leaves much more than AutoAttack: a sign of masked gradients",
    "rises": "accuracy rises with the radius",
    "unreliable": "marked as unreliable by the source itself",
    "same_numbers": "two rows with the same numbers throughout",
    "repeated": "two methods of one paper with the same number to the digit",
    "printed_twice": "the source prints several values for one thing",
    "sources_differ": "one method, other numbers elsewhere (another run, or a slip)",
    "empty": "fields that the source leaves empty: unknown, not zero",
    "digits": "fewer digits than usual in the column: a wider rounding",
    "markup": "markup in the text of the source",
}
"""What `check_published` looks for."""


@dataclass(frozen=True)
class Inconsistency:
    """One inconsistency.

    Args:
        kind: one of `KINDS`.
        table: id of the table it was found in.
        rows: ids of the rows concerned, in that table.
        message: what was found, with the numbers.
    """

    kind: str
    table: str
    rows: tuple[str, ...]
    message: str


def attacked(cell: Cell) -> bool:
    """Whether the number is an accuracy under attack."""
    return cell.quantity in ACCURACIES and cell.metric != CLEAN_METRIC


def above(one: Cell, other: Cell) -> bool:
    """Whether one accuracy is above another whatever the digits not printed are."""
    return one.accuracy - other.accuracy > one.rounding + other.rounding


def differ(one: Cell, other: Cell) -> bool:
    """Whether rounding does not explain the difference of two accuracies."""
    return above(one, other) or above(other, one)


def coarse(cell: Cell) -> bool:
    """Whether the number is over so few images that equal numbers are no coincidence."""
    return bool(cell.part) or bool(cell.n and Fraction(1, cell.n) > 2 * cell.rounding)


def numbers(row: PublishedRow) -> str:
    """All numbers of a row, with headings and marks."""
    return ", ".join(f"{cell.title} {cell.shown}" for cell in row.cells)


def ids(rows: Iterable[PublishedRow]) -> tuple[str, ...]:
    """Ids of some rows."""
    return tuple(row.id for row in rows)


def count(things: Sequence[object], noun: str) -> str:
    """`3 rows`, `1 row`."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def radius_conflicts(
    tables: Sequence[PublishedTable], checked: set[str]
) -> Iterator[Inconsistency]:
    """Rows with the same clean and AutoAttack numbers are one network: of two radii one is wrong.

    Args:
        tables: to be compared.
        checked: ids of those whose findings are wanted.
    """
    networks: dict[tuple[object, ...], list[tuple[PublishedRow, Cell]]] = defaultdict(list)
    for table in tables:
        for row in table.rows:
            cells = {cell.metric: cell for cell in row.cells}
            if {CLEAN_METRIC, AA} <= set(cells) and cells[AA].eps_printed:
                clean, robust = cells[CLEAN_METRIC].value, cells[AA].value
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
                    yield Inconsistency("radius_conflict", cell.table, (at.id,), message)
                    break


def sources_differ(tables: Sequence[PublishedTable], checked: set[str]) -> Iterator[Inconsistency]:
    """The same method, network, data and metric in two tables, and numbers that rounding does not
    bring together; arguments as of `radius_conflicts`."""
    groups: dict[tuple[object, ...], list[tuple[PublishedRow, Cell]]] = defaultdict(list)
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
                yield Inconsistency("sources_differ", cells[0].table, (cells[0].row,), message)


def _may_be_one(row: PublishedRow, mine: Cell, other: PublishedRow, theirs: Cell) -> bool:
    """Neither other images nor another radius or checkpoint, as far as both say."""
    radii = {Fraction(cell.eps) for cell in (mine, theirs) if cell.eps}
    chosen = {one.selection for one in (row, other) if one.selection}
    return mine.n == theirs.n and len(chosen) < 2 and len(radii) < 2
