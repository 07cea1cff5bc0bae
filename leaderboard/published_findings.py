"""What a check of published numbers finds, and the comparisons that checks are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from robustbench_lite.leaderboard.published_numbers import ACCURACIES, CLEAN, Cell, Row

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
class Finding:
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
    return cell.quantity in ACCURACIES and cell.metric != CLEAN


def above(one: Cell, other: Cell) -> bool:
    """Whether one accuracy is above another whatever the digits not printed are."""
    return one.accuracy - other.accuracy > one.rounding + other.rounding


def differ(one: Cell, other: Cell) -> bool:
    """Whether rounding does not explain the difference of two accuracies."""
    return above(one, other) or above(other, one)


def coarse(cell: Cell) -> bool:
    """Whether the number is over so few images that equal numbers are no coincidence."""
    return bool(cell.part) or bool(cell.n and Fraction(1, cell.n) > 2 * cell.rounding)


def numbers(row: Row) -> str:
    """All numbers of a row, with headings and marks."""
    return ", ".join(f"{cell.title} {cell.shown}" for cell in row.cells)


def ids(rows: Iterable[Row]) -> tuple[str, ...]:
    """Ids of some rows."""
    return tuple(row.id for row in rows)


def count(things: Sequence[object], noun: str) -> str:
    """`3 rows`, `1 row`."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
