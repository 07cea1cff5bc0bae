"""The table of a self-test, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from robustbench_lite.selftest.run import Row

_WIDTH = 61


def heading() -> str:
    """The first line of the table."""
    return f"{'case':<{_WIDTH}} {'lower':>7} {'ours':>7} {'upper':>7} {'images':>7} {'s':>6}  ok"


def line(row: Row) -> str:
    """A row in percent of its images; a crippled engine's says whether it failed as it must."""
    lower, ours, upper = (
        f"{100 * count / row.images:.2f}" for count in (row.lower, row.ours, row.upper)
    )
    if row.must_fail:
        said = "must fail: failed as it must" if row.ok else "must fail: PASSED, THE GATE IS BLIND"
    else:
        said = "ok" if row.ok else f"FAILED: {_fault(row)}"
    return (
        f"{row.case:<{_WIDTH}} {lower:>7} {ours:>7} {upper:>7} {row.images:>7} "
        f"{row.seconds:>6.1f}  {said}"
    )


def _fault(row: Row) -> str:
    if row.ours > row.upper:
        return "images are left that can be broken"
    if row.ours < row.lower:
        return "images are called broken that cannot be"
    return "the right number, but not the right images"


def summary(rows: Sequence[Row], seconds: float) -> str:
    """The last line."""
    wrong = sum(not row.ok for row in rows)
    said = f"FAILED: {wrong} of {len(rows)} rows" if wrong else f"passed: {len(rows)} rows"
    return f"selftest {said} in {seconds:.0f} s"


def as_json(rows: Sequence[Row], terms: Mapping[str, object]) -> str:
    """The rows for machines: counts of images, not percent.

    Args:
        rows: of the table.
        terms: device, seed and versions.
    """
    passed = all(row.ok for row in rows)
    data = {"passed": passed, **terms, "rows": [row.as_dict() for row in rows]}
    return json.dumps(data, indent=2)
