"""Results as one pandas table: one row per result, best first within what can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.published.reported import ReportedRow, group_reported
from robustbench_lite.leaderboard.results.load import gc_paused
from robustbench_lite.leaderboard.results.records import REPORTED, Result
from robustbench_lite.leaderboard.statistics.ranking import (
    UNRANKED,
    RankedResult,
    RankGroup,
    rank_results,
)

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

BEFORE_ATTACKS = ("rank", "name", "defense", "architecture", "params", "clean")
AFTER_ATTACKS = (
    "worst_case",
    "interval_lo",
    "interval_hi",
    "n",
    "worst_class",
    "worst_class_label",
    "protocol_id",
    "engine",
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
    "source",
)
UNSTATED = ("canonical", "worst_class_label")  # where None says something
FIXED_COLUMNS = (*BEFORE_ATTACKS, *AFTER_ATTACKS)


def build_table(results: Iterable[Result], reported: Iterable[ReportedRow] = ()) -> pd.DataFrame:
    """The leaderboard as data: fractions, never percent.

    Rows are grouped, sorted and ranked by `rank_results`; results of the same model, protocol,
    data, examples and seed collapse to the least favourable one.

    Args:
        results: in any order.
        reported: published rows, which come after the measured ones, without a rank.

    Returns:
        One row per result with the columns `BEFORE_ATTACKS`, one column per attack title (stand-
        alone robust accuracy, NaN where a protocol lacks the attack), and `AFTER_ATTACKS`.
        `worst_case` is the robust accuracy, with `interval_lo` and `interval_hi` its 95% Wilson
        bounds; `worst_class` the lowest robust accuracy of a class and `worst_class_label` which
        (NaN and None where the result stores no labels); `cost` is forward plus backward passes
        per example attacked; `status` is one of `records.STATUSES`, and `flags` says why a row
        has no rank: the flags and what the file does not store, joined by commas. Of published
        rows `status` is `reported`, `flags` says which numbers were not read at the source,
        `source` is the paper; what a paper does not state is NaN, None or empty.
    """
    with gc_paused():
        return _table(results, reported)


def _table(results: Iterable[Result], reported: Iterable[ReportedRow]) -> pd.DataFrame:
    import pandas as pd

    groups = rank_results(results)
    printed = [row for rows in group_reported(reported).values() for row in rows]
    records = [_record(row) for group in groups for row in group.rows]
    records += [_reported_record(row) for row in printed]
    columns: dict[str, object] = {name: [] for name in BEFORE_ATTACKS}
    columns.update(_attack_columns(groups, printed, len(records)))
    columns.update({name: [] for name in AFTER_ATTACKS})
    for name in FIXED_COLUMNS:
        values = [record[name] for record in records]
        # None (unknown) has to survive next to True, False and integers.
        kind = object if name in UNSTATED or None in values else None
        columns[name] = pd.Series(values, dtype=kind)
    return pd.DataFrame(columns)


def attack_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that `build_table` made which hold one attack each."""
    return [str(name) for name in table.columns if name not in FIXED_COLUMNS]


def _attack_columns(
    groups: list[RankGroup], printed: list[ReportedRow], n_rows: int
) -> dict[str, NDArray[np.float64]]:
    columns: dict[str, NDArray[np.float64]] = {}
    start = 0
    for group in groups:
        for name, title in group.attack_titles(taken=FIXED_COLUMNS).items():
            values = columns.setdefault(title, np.full(n_rows, np.nan))
            values[start : start + len(group.rows)] = [
                row.result.attacks[name].accuracy.value for row in group.rows
            ]
        start += len(group.rows)
    for i, row in enumerate(printed, start=start):
        for heading, value in row.attacks.items():
            title = heading if heading not in FIXED_COLUMNS else f"{heading} (reported)"
            columns.setdefault(title, np.full(n_rows, np.nan))[i] = value
    return columns


def worst_class(result: Result) -> tuple[int, float] | None:
    """The class of lowest robust accuracy and that accuracy.

    Of equal ones the smallest label; None where the result stores no labels.
    """
    if result.outcomes is None or result.outcomes.labels is None:
        return None
    robust = int.from_bytes(result.outcomes.robust, "big")
    share, label = min(
        ((robust & images).bit_count() / count, label)
        for label, images, count in _classes(result.outcomes.labels)
    )
    return label, share


@lru_cache(maxsize=64)
def _classes(packed: bytes) -> list[tuple[int, int, int]]:
    """Of each class its label, its images (as bits in the order of outcomes) and their number.

    Results of one data set share them.
    """
    labels = np.frombuffer(packed, dtype="<u2")
    return [
        (int(label), int.from_bytes(np.packbits(labels == label).tobytes(), "big"), int(count))
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True)
    ]


def _record(row: RankedResult) -> dict[str, object]:
    result, protocol = row.result, row.result.protocol
    low, high = result.robust_accuracy.interval
    worst = worst_class(result)
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
        "worst_class": math.nan if worst is None else worst[1],
        "worst_class_label": None if worst is None else worst[0],
        "protocol_id": protocol.id,
        "engine": protocol.engine_text,
        "status": result.status,
        "flags": ", ".join(result.reasons),
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
        "source": "",
    }


def _reported_record(row: ReportedRow) -> dict[str, object]:
    key = row.key
    empty = dict.fromkeys(("engine", "dataset_hash", "protocol_hash", "model_hash"), "")
    unknown = dict.fromkeys(
        ("params", "n", "first_example", "seed", "extra_data", "canonical", "worst_class_label")
    )
    numbers = ("worst_case", "interval_lo", "interval_hi", "worst_class", "cost")
    return {
        **empty,
        **unknown,
        **dict.fromkeys(numbers, math.nan),
        "rank": UNRANKED,
        "name": row.name,
        "defense": row.method,
        "architecture": row.model,
        "clean": math.nan if row.clean is None else row.clean,
        "protocol_id": key.protocol_id,
        "status": REPORTED,
        "flags": row.marks,
        "dataset": key.dataset,
        "split": key.split,
        "norm": key.norm,
        "eps": key.eps,
        "eps_value": key.eps_value if key.eps else math.nan,
        "source": row.paper,
    }
