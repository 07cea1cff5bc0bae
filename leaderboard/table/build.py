"""Results as one pandas table: one row per result, best first within what can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustbench_lite.leaderboard.published.reported import ReportedRow
from robustbench_lite.leaderboard.results.records import Result
from robustbench_lite.leaderboard.table.row import (
    AFTER_ATTACKS,
    BEFORE_ATTACKS,
    FIXED_COLUMNS,
    Row,
    build_rows,
)

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

UNSTATED = ("canonical", "worst_class_label")  # where None says something


def build_table(results: Iterable[Result], reported: Iterable[ReportedRow] = ()) -> pd.DataFrame:
    """The leaderboard as data: fractions, never percent.

    Rows are grouped, sorted and ranked by `rank_results`; results of the same model, protocol,
    data, examples and seed collapse to the least favourable one.

    Args:
        results: in any order.
        reported: published rows, which come after the measured ones, without a rank.

    Returns:
        One row per result. Its columns are the fields of `Row`, which explains them, with one
        column per attack title in the place of `attacks` (NaN where a protocol lacks the attack).
    """
    import pandas as pd

    rows = build_rows(results, reported)
    titles = dict.fromkeys(title for row in rows for title in row.attacks)
    attacks = {
        title: np.array([row.attacks.get(title, math.nan) for row in rows]) for title in titles
    }
    before, after = (
        {name: _column(rows, name) for name in names} for names in (BEFORE_ATTACKS, AFTER_ATTACKS)
    )
    return pd.DataFrame({**before, **attacks, **after})


def _column(rows: Sequence[Row], name: str) -> pd.Series:
    import pandas as pd

    values = [getattr(row, name) for row in rows]
    # None (unknown) has to survive next to True, False and integers.
    return pd.Series(values, dtype=object if name in UNSTATED or None in values else None)


def read_rows(table: pd.DataFrame) -> list[Row]:
    """The rows of a table that `build_table` made."""
    titles = attack_columns(table)
    fixed = zip(*(table[name].tolist() for name in FIXED_COLUMNS), strict=True)
    attacks = zip(*(table[title].tolist() for title in titles), strict=True)
    shares = [dict(zip(titles, values, strict=True)) for values in attacks] or [{}] * len(table)
    return [
        Row(**dict(zip(FIXED_COLUMNS, values, strict=True)), attacks=each)
        for values, each in zip(fixed, shares, strict=True)
    ]


def attack_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that `build_table` made which hold one attack each."""
    return [str(name) for name in table.columns if name not in FIXED_COLUMNS]
