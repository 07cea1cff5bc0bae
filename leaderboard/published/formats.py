"""Published tables, their list and what checks found in them: terminal, Markdown, JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from robustbench_lite.leaderboard.published.consistency import KINDS, Inconsistency
from robustbench_lite.leaderboard.published.records import (
    CLEAN_METRIC,
    PROVENANCES,
    Cell,
    PublishedRow,
    PublishedTable,
)
from robustbench_lite.leaderboard.table.markdown_latex import markdown_text
from robustbench_lite.leaderboard.table.text import aligned, plain

FORMATS = ("terminal", "markdown", "json")
NOTHING_MEASURED = (
    "Published numbers only: nothing was measured. Add --checkpoint DIR, --train or --scale quick."
)
SHOWN_ROWS = 5  # ids in a finding before "and n more"


def render_table(table: PublishedTable, rows: Sequence[PublishedRow], *, format: str) -> str:
    """A published table as it was printed, every number with its mark.

    Args:
        table: the table.
        rows: those of its rows that are shown.
        format: one of `FORMATS`.
    """
    if format == "json":
        records = [cell_record(row, cell) for row in rows for cell in row.cells]
        return as_json({**about(table), "cells": records})
    grid: list[Sequence[str]] = []
    if rows:
        grid.append(("Row", "Method", "Model", "Data", "eps", *table.columns.values(), "Recipe"))
    for row in rows:
        shown = {cell.key: cell.shown for cell in row.cells}
        numbers = [shown.get(key, "") for key in table.columns]
        grid.append((row.id, row.method, row.model, row.dataset, _radii(row), *numbers, row.recipe))
    trends = [f"To be looked for: {trend}" for trend in table.trends]
    claims = [
        f"Claimed: {one.above} > {one.below} in {one.metric} ({one.source})"
        for one in table.relations
    ]
    return blocks(format, [source_lines(table), [NOTHING_MEASURED]], grid, [*trends, *claims])


def _radii(row: PublishedRow) -> str:
    """The radii of a row as printed, and as meant where that is another."""
    texts = []
    for cell in row.cells:
        if (cell.eps_printed and cell.metric != CLEAN_METRIC) or len(row.cells) == 1:
            meant = f" (meant: {cell.eps})" if cell.eps != cell.eps_printed else ""
            texts.append(f"{cell.norm} {cell.eps_printed}{meant}".strip())
    return " ".join(dict.fromkeys(texts)) if len(set(texts)) < 3 else "several"


def render_findings(findings: Sequence[Inconsistency], *, format: str) -> str:
    """What a check of published numbers found, by kind; see `check_published`."""
    if format == "json":
        return as_json({"findings": [vars(one) for one in findings], "kinds": KINDS})
    counted = Counter(one.kind for one in findings)
    lines = [[f"{len(findings)} findings; nothing was changed."]]
    for kind in KINDS:
        if counted[kind]:
            lines.append([f"{kind} ({counted[kind]}): {KINDS[kind]}"])
            lines[-1] += [_finding(one) for one in findings if one.kind == kind]
    bullet = "- " if format == "markdown" else "  "
    text = markdown_text if format == "markdown" else plain
    parts = [
        "\n".join(
            [text(heading), *([""] if format == "markdown" and items else [])]
            + [bullet + text(item) for item in items]
        )
        for heading, *items in lines
    ]
    return "\n\n".join(parts) + "\n"


def _finding(one: Inconsistency) -> str:
    more = len(one.rows) - SHOWN_ROWS
    rows = ", ".join(one.rows[:SHOWN_ROWS]) + (f" and {more} more" if more > 0 else "")
    return f"{one.table}, {rows}: {one.message}"


def render_list(tables: Sequence[PublishedTable], *, format: str) -> str:
    """The published tables: how much each holds, how far it was checked, what it is."""
    if format == "json":
        return as_json({"tables": [_list_record(table) for table in tables]})
    grid: list[Sequence[str]] = [("Table", "Rows", "Numbers", "Provenance", "What")]
    grid += [
        (table.id, str(len(table.rows)), str(len(table.cells)), _provenances(table), table.title)
        for table in tables
    ]
    return blocks(format, [], grid, [f"{name}: {text}" for name, text in PROVENANCES.items()])


def _list_record(table: PublishedTable) -> dict[str, object]:
    counted = Counter(cell.provenance for cell in table.cells)
    return {**about(table), "rows": len(table.rows), "numbers": dict(counted)}


def _provenances(table: PublishedTable) -> str:
    return ", ".join(dict.fromkeys(cell.provenance for cell in table.cells)) or "no numbers"


def about(table: PublishedTable) -> dict[str, object]:
    """A table and its source as JSON data."""
    keys = ("id", "title", "paper", "where", "repository", "provenance", "note")
    return {"table": {key: getattr(table, key) for key in keys}}


def cell_record(row: PublishedRow, cell: Cell) -> dict[str, object]:
    """Where a number stands, what it says and who says so."""
    names = ("metric", "title", "quantity", "method", "model", "dataset", "split", "part", "n")
    more = ("norm", "eps_printed", "eps", "protocol", "attack", "provenance", "basis", "note")
    return {
        "row": row.id,
        **{name: getattr(cell, name) for name in (*names, *more)},
        "protocol_id": cell.protocol_id,
        "recipe": row.recipe,
        "published": {
            "text": cell.text,
            "value": float(cell.value),
            "rounding": float(cell.rounding),
            "spread": None if cell.spread is None else float(cell.spread),
            "also": list(cell.also),
            "target": cell.is_target,
        },
    }


def source_lines(table: PublishedTable) -> list[str]:
    """What a table is, who says so and how far it was checked: a line each."""
    marks = Counter(cell.provenance for cell in table.cells)
    told = ", ".join(f"{count} {name}" for name, count in marks.items()) or "no numbers"
    lines = [f"{table.id}: {table.title}", f"{table.paper} · {table.where}"]
    return [*lines, f"Numbers: {told}.", *([table.note] if table.note else [])]


def as_json(data: Mapping[str, object]) -> str:
    """Indented JSON, ending in a newline; characters that could steer a terminal are escaped."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    lines = text.split("\n")  # a newline inside a string is escaped already
    return "\n".join(line if line == plain(line) else _escaped(line) for line in lines) + "\n"


def _escaped(line: str) -> str:
    return "".join(one if one == plain(one) else json.dumps(one)[1:-1] for one in line)


def blocks(
    format: str,
    before: Iterable[Sequence[str]],
    grid: Sequence[Sequence[str]],
    after: Sequence[str] = (),
    second: Sequence[Sequence[str]] = (),
) -> str:
    """Paragraphs, a table, paragraphs, perhaps another table."""
    make = _markdown_grid if format == "markdown" else _terminal_grid
    text = markdown_text if format == "markdown" else plain
    between = "\n\n" if format == "markdown" else "\n"
    parts = [between.join(map(text, lines)) for lines in before if lines]
    parts += [make(grid)] if grid else []
    parts += [between.join(map(text, after))] if after else []
    parts += [make(second)] if second else []
    return "\n\n".join(parts) + "\n"


def _terminal_grid(rows: Sequence[Sequence[str]]) -> str:
    texts = [[plain(text) for text in row] for row in rows]
    lines, rule = aligned(texts, right=[False] * len(texts[0]))
    return "\n".join([lines[0], rule, *lines[1:]])


def _markdown_grid(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(markdown_text, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
