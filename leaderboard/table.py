"""Results as one pandas table: one row per result, best first within what can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.ranking import RankedResult, RankGroup, rank_results
from robustbench_lite.leaderboard.records import Result

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

BEFORE_ATTACKS = ("rank", "name", "defense", "architecture", "params", "clean")
AFTER_ATTACKS = (
    "worst_case",
    "interval_lo",
    "interval_hi",
    "n",
    "protocol_id",
    "status",
    "flags",
    "extra_data",
    "cost",
    "dataset",
    "split",
    "norm",
    "eps",
    "eps_value",
    "first_example",
    "seed",
    "dataset_hash",
    "canonical",
    "protocol_hash",
    "model_hash",
)
FIXED_COLUMNS = (*BEFORE_ATTACKS, *AFTER_ATTACKS)


def build_table(results: Iterable[Result]) -> pd.DataFrame:
    """The leaderboard as data: fractions, never percent.

    Rows are grouped, sorted and ranked by `rank_results`; results of the same model, protocol,
    data, examples and seed collapse to the least favourable one.

    Args:
        results: in any order.

    Returns:
        One row per result with the columns `BEFORE_ATTACKS`, one column per attack title (stand-
        alone robust accuracy, NaN where a protocol lacks the attack), and `AFTER_ATTACKS`.
        `worst_case` is the robust accuracy, with `interval_lo` and `interval_hi` its 95% Wilson
        bounds; `cost` is forward plus backward passes per example attacked; `flags` are names
        joined by commas.
    """
    import pandas as pd

    groups = rank_results(results)
    rows = [row for group in groups for row in group.rows]
    columns: dict[str, object] = {name: [] for name in BEFORE_ATTACKS}
    columns.update(_attack_columns(groups, len(rows)))
    columns.update({name: [] for name in AFTER_ATTACKS})
    records = [_record(row) for row in rows]
    for name in FIXED_COLUMNS:
        columns[name] = [record[name] for record in records]
    table = pd.DataFrame(columns)
    # None (canonical unknown) has to survive next to True and False.
    table["canonical"] = pd.Series([record["canonical"] for record in records], dtype=object)
    return table


def attack_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that `build_table` made which hold one attack each."""
    return [str(name) for name in table.columns if name not in FIXED_COLUMNS]


def _attack_columns(groups: list[RankGroup], n_rows: int) -> dict[str, NDArray[np.float64]]:
    columns: dict[str, NDArray[np.float64]] = {}
    start = 0
    for group in groups:
        for name, title in group.attack_titles(taken=FIXED_COLUMNS).items():
            values = columns.setdefault(title, np.full(n_rows, np.nan))
            values[start : start + len(group.rows)] = [
                row.result.attacks[name].accuracy.value for row in group.rows
            ]
        start += len(group.rows)
    return columns


def _record(row: RankedResult) -> dict[str, object]:
    result, protocol = row.result, row.result.protocol
    low, high = result.robust_accuracy.interval
    return {
        "rank": row.rank,
        "name": result.name,
        "defense": result.defense,
        "architecture": result.architecture,
        "params": result.parameters,
        "clean": result.clean_accuracy.value,
        "worst_case": result.robust_accuracy.value,
        "interval_lo": low,
        "interval_hi": high,
        "n": result.n_examples,
        "protocol_id": protocol.id,
        "status": result.status,
        "flags": ", ".join(flag.name for flag in result.flags),
        "extra_data": result.extra_data,
        "cost": result.cost,
        "dataset": result.dataset.name,
        "split": result.dataset.split,
        "norm": protocol.norm,
        "eps": protocol.eps,
        "eps_value": protocol.eps_value,
        "first_example": result.first_example,
        "seed": result.seed,
        "dataset_hash": result.dataset.hash,
        "canonical": result.dataset.canonical,
        "protocol_hash": protocol.hash,
        "model_hash": result.model.hash,
    }
