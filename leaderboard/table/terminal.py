"""The leaderboard in a terminal: aligned columns, the least important dropped when narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustbench_lite.leaderboard.results.records import MEASURED
from robustbench_lite.leaderboard.table.columns import (
    CAPTION,
    NOTHING,
    WORST_CLASS,
    Column,
    columns_for,
    notes_for,
    status_text,
)
from robustbench_lite.leaderboard.table.row import Section
from robustbench_lite.leaderboard.table.text import aligned, cells, plain, shortened

WIDTH = 100
NAME_WIDTH = 28


def render_terminal(sections: Sequence[Section]) -> str:
    """One aligned table per group, at most 100 columns wide where names and attacks allow it."""
    if not sections:
        return f"{NOTHING}\n"
    return "\n".join([*map(_terminal_table, sections), f"{CAPTION}\n"])


def _terminal_table(section: Section) -> str:
    columns = columns_for(section)
    if section.measured:  # a line below the table has more room
        columns = [column for column in columns if column.key != "status"]
    texts = {
        column: [_shown(text) for text in (column.heading, *map(column.cell, section.rows))]
        for column in columns
    }
    widths = {column: max(map(cells, column_texts)) for column, column_texts in texts.items()}
    for column in sorted(columns, key=lambda column: column.dropped):
        if column.dropped and _total(widths) > WIDTH:
            del texts[column], widths[column]
    rows = list(zip(*texts.values(), strict=True))
    lines, rule = aligned(rows, right=[column.right for column in texts])
    statuses = [
        shortened(f"  {_shown(row.name)}: {plain(status_text(row))}", WIDTH)
        for row in section.rows
        if (row.status != MEASURED or row.flags) and section.measured
    ]
    kept = {column.key for column in texts}
    notes = [one for one in notes_for(section) if one != WORST_CLASS or "worst_class" in kept]
    body = [section.heading, rule, lines[0], rule, *lines[1:], rule, *notes, *statuses]
    return "\n".join(body) + "\n"


def _shown(text: str) -> str:
    return shortened(plain(text), NAME_WIDTH)


def _total(widths: Mapping[Column, int]) -> int:
    """Width of a table: its columns with two spaces between them."""
    return sum(widths.values()) + 2 * (len(widths) - 1)
