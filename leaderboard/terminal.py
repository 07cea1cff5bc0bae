"""The leaderboard in a terminal: aligned columns, the least important dropped when narrow."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from robustbench_lite.leaderboard.columns import (
    CAPTION,
    NOTHING,
    Row,
    Section,
    columns_for,
    notes_for,
    status_text,
)
from robustbench_lite.leaderboard.display import plain, shortened

WIDTH = 100
NAME_WIDTH = 28


def render_terminal(sections: Sequence[Section]) -> str:
    """One aligned table per group, at most 100 columns wide where names and attacks allow it."""
    if not sections:
        return f"{NOTHING}\n"
    return "\n".join([*map(_terminal_table, sections), f"{CAPTION}\n"])


def _terminal_table(section: Section) -> str:
    columns = [column for column in columns_for(section) if column.heading != "Status"]
    while True:
        grid = [[shortened(plain(column.heading), NAME_WIDTH) for column in columns]]
        grid += [
            [shortened(plain(column.cell(row)), NAME_WIDTH) for column in columns]
            for row in section.rows
        ]
        widths = [max(map(_cells, cells)) for cells in zip(*grid, strict=True)]
        optional = [column for column in columns if column.dropped]
        if sum(widths) + 2 * (len(widths) - 1) <= WIDTH or not optional:
            break
        columns.remove(min(optional, key=lambda column: column.dropped))
    lines = [
        "  ".join(
            _padded(text, width, column.right)
            for text, width, column in zip(texts, widths, columns, strict=True)
        ).rstrip()
        for texts in grid
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    flagged = [
        shortened(f"  {_name(row)}: {plain(status_text(row))}", WIDTH)
        for row in section.rows
        if row["status"] != "verified"
    ]
    body = [section.heading, rule, lines[0], rule, *lines[1:], rule, *notes_for(section), *flagged]
    return "\n".join(body) + "\n"


def _name(row: Row) -> str:
    return shortened(plain(str(row["name"])), NAME_WIDTH)


def _cells(text: str) -> int:
    """Terminal cells a text takes: wide characters two, combining ones none."""
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
        if not unicodedata.combining(character)
    )


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _cells(text))
    return space + text if right else text + space
