"""Published numbers with ours beside them: the records that tables of comparisons are made of."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_lite.leaderboard.published.comparability import CellComparison, Measured
from robustbench_lite.leaderboard.published.records import Cell, PublishedRow


@dataclass(frozen=True)
class Reproduction:
    """One published number, ours (one for each seed of training), and what can be said of it."""

    row: PublishedRow
    cell: Cell
    measured: tuple[Measured, ...]
    comparison: CellComparison


@dataclass(frozen=True)
class Order:
    """An order that a table claims, and what the small networks show of it.

    Args:
        metric: of the numbers.
        above: row id of the higher one.
        below: of the lower one.
        claim: the published numbers, or the words of the source.
        ours: accuracies of the two small networks.
        seen: `"seen"`, `"not seen"` (the other way round), or `"not separated"`: the 95% intervals
            overlap.
    """

    metric: str
    above: str
    below: str
    claim: str
    ours: tuple[float, float]
    seen: str


def unmeasured(row: PublishedRow, cell: Cell, why: str) -> Reproduction:
    """A published number with nothing of ours beside it."""
    reasons = [why, *([] if cell.is_target else ["the published number is from memory: no target"])]
    return Reproduction(row, cell, (), CellComparison("not comparable", tuple(reasons)))
