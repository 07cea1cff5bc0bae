"""Published numbers with ours beside them: terminal, Markdown, JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from robustbench_lite.leaderboard.published.comparability import OUTCOMES, Measured
from robustbench_lite.leaderboard.published.formats import (
    about,
    as_json,
    blocks,
    cell_record,
    source_lines,
)
from robustbench_lite.leaderboard.published.records import CLEAN_METRIC, Cell, PublishedTable
from robustbench_lite.leaderboard.published.reproductions import Order, Reproduction
from robustbench_lite.leaderboard.table.text import interval, percent

SMALL_SCALE = (
    "SMALL-SCALE: small networks on digits, trained in minutes. Not one number below is a "
    "reproduction; none may be quoted as one."
)
HEADINGS = (
    *("Row", "Column", "Published", "Ours", "95% interval", "Tolerance"),
    *("Outcome", "Protocol"),
)


def render_reproductions(
    table: PublishedTable,
    reproductions: Sequence[Reproduction],
    *,
    orders: Sequence[Order] = (),
    small_scale: bool = False,
    format: str,
) -> str:
    """Each published number beside ours, with interval, tolerance, outcome and reasons.

    Args:
        table: the published table.
        reproductions: in the order shown.
        orders: that the table claims, and whether ours show them.
        small_scale: whether ours are small-scale, which is then said first.
        format: `terminal`, `markdown` or `json`.

    Returns:
        Text that ends in a newline; JSON holds fractions, the others percent.
    """
    if format == "json":
        return as_json(
            {
                **about(table),
                "small_scale": small_scale,
                "cells": [_record(one) for one in reproductions],
                "orders": [vars(order) for order in orders],
            }
        )
    reasons = list(dict.fromkeys(one.comparison.reasons for one in reproductions))
    rows = [_row(one, reasons.index(one.comparison.reasons)) for one in reproductions]
    notes = [f"[{place}] {'; '.join(texts)}" for place, texts in enumerate(reasons, start=1)]
    counted = Counter(one.comparison.outcome for one in reproductions)
    total = ", ".join(f"{counted[outcome]} {outcome}" for outcome in OUTCOMES if counted[outcome])
    before = [[SMALL_SCALE] if small_scale else [], source_lines(table), [total] if total else []]
    grid = [HEADINGS, *rows] if rows else []
    return blocks(format, before, grid, notes, _order_grid(orders))


def _row(one: Reproduction, reason: int) -> tuple[str, ...]:
    comparison, cell = one.comparison, one.cell
    ours = bounds = accepted = ""
    if comparison.ours is not None and comparison.interval is not None:
        ours, bounds = (
            percent(_as(cell, comparison.ours)),
            interval(*_both(cell, comparison.interval)),
        )
    if comparison.accepted is not None:
        low, high = (percent(bound) for bound in _both(cell, comparison.accepted))
        accepted = f"{comparison.tolerance}: [{low}, {high}]"
    protocol = one.measured[0].protocol_id if one.measured else cell.protocol_id
    outcome = f"{comparison.outcome} [{reason + 1}]"
    shown = "" if cell.metric == CLEAN_METRIC else protocol
    return one.row.id, cell.title, cell.shown, ours, bounds, accepted, outcome, shown


def _as(cell: Cell, accuracy: float) -> float:
    """An accuracy of ours as the quantity that is published."""
    return 1 - accuracy if cell.quantity == "error" else accuracy


def _both(cell: Cell, bounds: tuple[float, float]) -> tuple[float, float]:
    """The bounds of an accuracy as those of the quantity that is published."""
    low, high = sorted(_as(cell, bound) for bound in bounds)
    return low, high


def _record(one: Reproduction) -> dict[str, object]:
    """Fractions; `ours` and the bounds are of the quantity that is published."""
    comparison, cell = one.comparison, one.cell
    ours: dict[str, object] | None = None
    if comparison.ours is not None and comparison.interval is not None:
        ours = {
            "value": _as(cell, comparison.ours),
            "interval": list(_both(cell, comparison.interval)),
            "runs": [_run(run) for run in one.measured],
        }
    tolerance: dict[str, object] | None = None
    if comparison.accepted is not None:
        accepted = list(_both(cell, comparison.accepted))
        tolerance = {"of": comparison.tolerance, "accepted": accepted}
    return {
        **cell_record(one.row, cell),
        "ours": ours,
        "tolerance": tolerance,
        "verdict": comparison.outcome,
        "reasons": list(comparison.reasons),
    }


def _run(run: Measured) -> dict[str, object]:
    names = ("correct", "n", "protocol_id", "engine", "dataset", "split", "dataset_hash")
    return {
        "accuracy": float(run.value),
        "first": run.examples.first,
        "examples": run.examples.choice,
        **{name: getattr(run, name) for name in (*names, "canonical", "model_hash")},
        "origin": run.origin.kind,
        "seed": run.origin.seed,
        "flags": list(run.flags),
    }


def _order_grid(orders: Sequence[Order]) -> list[Sequence[str]]:
    if not orders:
        return []
    rows: list[Sequence[str]] = [("Order claimed", "Metric", "By", "Small-scale", "Seen")]
    for order in orders:
        ours = " against ".join(map(percent, order.ours))
        rows.append((f"{order.above} > {order.below}", order.metric, order.claim, ours, order.seen))
    return rows
