"""The leaderboard as Markdown and LaTeX, with everything from outside escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from robustbench_lite.leaderboard.table.columns import (
    CAPTION,
    COST,
    NOTHING,
    Column,
    columns_for,
    notes_for,
)
from robustbench_lite.leaderboard.table.row import Row, Section
from robustbench_lite.leaderboard.table.text import plain


def render_markdown(sections: Sequence[Section]) -> str:
    """One GitHub-flavoured Markdown table per group."""
    if not sections:
        return f"{NOTHING}\n"
    return "\n".join([*map(_markdown_table, sections), f"{CAPTION} {COST}\n"])


def _markdown_table(section: Section) -> str:
    columns = columns_for(section)
    lines = [
        f"### {markdown_text(section.heading)}",
        "",
        markdown_row(markdown_text(column.heading) for column in columns),
        markdown_row("---:" if column.right else "---" for column in columns),
        *(markdown_row(_markdown_cell(one, row) for one in columns) for row in section.rows),
        "",
        *(f"{markdown_text(note)}\n" for note in notes_for(section)),
    ]
    return "\n".join(lines)


def markdown_row(cells: Iterable[str]) -> str:
    """One line of a table; the cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def _markdown_cell(column: Column, row: Row) -> str:
    return column.cell(row) if column.right else markdown_text(column.cell(row))


def markdown_text(text: str) -> str:
    """Text that renders as itself: no markup, table break, image, link or HTML."""
    return re.sub(r"([\\`*\[\]<>|~&!#$]|(?<!\w)_|_(?!\w))", r"\\\1", plain(text))


def render_latex(sections: Sequence[Section]) -> str:
    """One `table` environment per group; needs the package booktabs."""
    if not sections:
        return f"% {NOTHING}\n"
    return "\n".join(map(_latex_table, sections))


def _latex_table(section: Section) -> str:
    columns = columns_for(section)
    notes = " ".join([section.heading + ".", CAPTION, COST, *notes_for(section)])
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(notes)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if column.right else 'l' for column in columns)}}}",
        r"\toprule",
        _latex_row([column.heading for column in columns]),
        r"\midrule",
        *(_latex_row([column.cell(row) for column in columns]) for row in section.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_latex_text, cells))} \\\\"


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "·": r"$\cdot$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in plain(text))
