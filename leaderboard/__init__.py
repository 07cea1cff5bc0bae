"""Leaderboard: stored results to tables, statistics and pages. Imports no torch.

The names below are loaded when first used, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.errors import ResultError
    from robustbench_lite.leaderboard.formats import render
    from robustbench_lite.leaderboard.page import render_page, write_page
    from robustbench_lite.leaderboard.published_checks import check_published
    from robustbench_lite.leaderboard.published_files import load_published
    from robustbench_lite.leaderboard.published_verdicts import judge
    from robustbench_lite.leaderboard.records import Result
    from robustbench_lite.leaderboard.results import (
        find_results,
        load_readable,
        load_result,
        load_results,
    )
    from robustbench_lite.leaderboard.statistics import (
        accuracy,
        mcnemar_exact,
        pack_outcomes,
        unpack_outcomes,
        wilson_interval,
    )
    from robustbench_lite.leaderboard.table import build_table

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

_HOME = {
    "Result": "records",
    "ResultError": "errors",
    "accuracy": "statistics",
    "build_table": "table",
    "check_published": "published_checks",
    "find_results": "results",
    "judge": "published_verdicts",
    "load_published": "published_files",
    "load_readable": "results",
    "load_result": "results",
    "load_results": "results",
    "mcnemar_exact": "statistics",
    "pack_outcomes": "statistics",
    "render": "formats",
    "render_page": "page",
    "unpack_outcomes": "statistics",
    "wilson_interval": "statistics",
    "write_page": "page",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
