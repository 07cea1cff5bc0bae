"""One table in the formats people and programs read: terminal, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.plain_text import csv_cell
from robustbench_lite.leaderboard.table.build import read_rows
from robustbench_lite.leaderboard.table.markdown_latex import render_latex, render_markdown
from robustbench_lite.leaderboard.table.row import Row, Section, split_groups
from robustbench_lite.leaderboard.table.terminal import render_terminal

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


def render(table: pd.DataFrame, format: str) -> str:
    """A table that `build_table` made, as text.

    `terminal`, `markdown` and `latex` show one table per group with percent; `csv` is one flat
    table and `json` one object per group, both with fractions in full precision.

    Args:
        table: the table, or some of its rows.
        format: one of `terminal`, `markdown`, `csv`, `latex`, `json`.

    Returns:
        The text, ending with a newline.

    Raises:
        ResultError: for an unknown format.
    """
    if format == "csv":
        return _csv(table)
    renderers = {
        "terminal": render_terminal,
        "markdown": render_markdown,
        "latex": render_latex,
        "json": _json,
    }
    if format not in renderers:
        allowed = ", ".join(sorted([*renderers, "csv"]))
        raise ResultError(f"unknown format {format!r}; available: {allowed}")
    return renderers[format](split_groups(read_rows(table)))


def _csv(table: pd.DataFrame) -> str:
    """One flat table; text cells and headings are `csv_cell`s."""
    import pandas as pd

    safe = table.rename(columns=csv_cell)
    for place, name in enumerate(table.columns):
        if table[name].dtype.kind in "biuf":  # numbers
            continue
        values = table[name].tolist()
        cells = [csv_cell(value) for value in values]
        if cells != values:
            safe.isetitem(place, pd.Series(cells, dtype=object))
    text: str = safe.to_csv(index=False, lineterminator="\n")
    return text


def _json(sections: Sequence[Section]) -> str:
    groups = [_json_group(section) for section in sections]
    return json.dumps({"groups": groups}, indent=2, allow_nan=False) + "\n"


def _json_group(section: Section) -> dict[str, object]:
    first, (ranked, unranked) = section.rows[0], section.count_statuses()
    return {
        **{name: _finite(getattr(first, name)) for name in JSON_GROUP},
        "first_example": section.key.first_example,
        "n": section.key.n_examples,
        "examples": first.examples,
        "examples_hash": first.examples_hash,
        "ranked": ranked,
        "unranked": unranked,
        "rows": [_json_row(row, section.attacks) for row in section.rows],
    }


# What the rows of a group share, and what they do not.
JSON_GROUP = (
    *("dataset", "split", "dataset_hash", "norm", "eps", "eps_value"),
    *("protocol_id", "protocol_hash", "engine"),
)
JSON_ROW = (
    *("rank", "name", "defense", "architecture", "params", "extra_data", "clean", "worst_case"),
    *("interval_lo", "interval_hi", "worst_class", "worst_class_label", "status", "flags", "cost"),
    *("seed", "canonical", "model_hash", "source"),
)


def _json_row(row: Row, attacks: Sequence[str]) -> dict[str, object]:
    return {
        **{name: _finite(getattr(row, name)) for name in JSON_ROW},
        "attacks": {title: _finite(row.attacks.get(title)) for title in attacks},
    }


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity: null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
