"""Leaderboard: stored results to tables, statistics and pages. Imports no torch.

The names below are loaded when first used, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustbench_lite.core.errors import ResultError
    from robustbench_lite.leaderboard.page.page import render_page, write_page
    from robustbench_lite.leaderboard.published.comparability import judge
    from robustbench_lite.leaderboard.published.consistency import check_published
    from robustbench_lite.leaderboard.published.load import load_published
    from robustbench_lite.leaderboard.results.load import (
        find_results,
        load_readable,
        load_result,
        load_results,
    )
    from robustbench_lite.leaderboard.results.records import Result
    from robustbench_lite.leaderboard.statistics.accuracy import (
        accuracy,
        mcnemar_exact,
        pack_outcomes,
        unpack_outcomes,
        wilson_interval,
    )
    from robustbench_lite.leaderboard.table.build import build_table
    from robustbench_lite.leaderboard.table.formats import render

__all__ = [
    "Result",
    "ResultError",
    "accuracy",
    "build_table",
    "check_published",
    "find_results",
    "judge",
    "load_published",
    "load_readable",
    "load_result",
    "load_results",
    "mcnemar_exact",
    "pack_outcomes",
    "render",
    "render_page",
    "unpack_outcomes",
    "wilson_interval",
    "write_page",
]

_EXPORTS = {
    "Result": "robustbench_lite.leaderboard.results.records",
    "ResultError": "robustbench_lite.core.errors",
    "accuracy": "robustbench_lite.leaderboard.statistics.accuracy",
    "build_table": "robustbench_lite.leaderboard.table.build",
    "check_published": "robustbench_lite.leaderboard.published.consistency",
    "find_results": "robustbench_lite.leaderboard.results.load",
    "judge": "robustbench_lite.leaderboard.published.comparability",
    "load_published": "robustbench_lite.leaderboard.published.load",
    "load_readable": "robustbench_lite.leaderboard.results.load",
    "load_result": "robustbench_lite.leaderboard.results.load",
    "load_results": "robustbench_lite.leaderboard.results.load",
    "mcnemar_exact": "robustbench_lite.leaderboard.statistics.accuracy",
    "pack_outcomes": "robustbench_lite.leaderboard.statistics.accuracy",
    "render": "robustbench_lite.leaderboard.table.formats",
    "render_page": "robustbench_lite.leaderboard.page.page",
    "unpack_outcomes": "robustbench_lite.leaderboard.statistics.accuracy",
    "wilson_interval": "robustbench_lite.leaderboard.statistics.accuracy",
    "write_page": "robustbench_lite.leaderboard.page.page",
}


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
