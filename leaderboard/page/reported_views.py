"""What the page shows of reported rows: in the frame of measured ones, with what is not known left
out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from robustbench_lite.leaderboard.page.views import MANY_ATTACKS, View
from robustbench_lite.leaderboard.published.reported import ReportedRow, headings_of
from robustbench_lite.leaderboard.results.records import REPORTED
from robustbench_lite.leaderboard.statistics.ranking import UNRANKED
from robustbench_lite.leaderboard.table.text import NOTHING, percent, plain, radius, threat


def reported_view(rows: Sequence[ReportedRow], number: int) -> View:
    """One table of reported rows.

    Args:
        rows: of one key, in the source's order.
        number: of the table on the page, from 1.
    """
    key, headings = rows[0].key, headings_of(rows)
    where = f"{plain(key.dataset)} {plain(key.split)}"
    parts = (where, threat(key.norm, key.eps, key.eps_value), plain(key.protocol_id))
    return {
        "id": f"table-{number}",
        "heading": " · ".join(filter(None, parts)),
        "dataset": plain(key.dataset),
        "norm": plain(key.norm),
        "radius": radius(key.eps, key.eps_value) if key.eps else "not stated",
        "about": [
            ("Reported in", plain(rows[0].paper), ""),
            ("Table", plain(key.source), ""),
            ("Split", plain(key.split), ""),
        ],
        "attacks": [plain(heading) for heading in headings],
        "terms": [],
        "n_columns": 4 + len(headings),
        "wide": len(headings) > MANY_ATTACKS,
        "axis": None,  # nothing was measured: no worst case, interval or cost
        "ties": False,
        "counts": "",
        "rows": [_row_view(row, headings) for row in rows],
    }


def _row_view(row: ReportedRow, headings: Sequence[str]) -> View:
    digest = hashlib.sha256(repr(row).encode()).hexdigest()
    return {
        "id": f"row-{digest[:16]}",
        "rank": UNRANKED,
        "name": plain(row.name),
        "defense": plain(row.method),
        "architecture": plain(row.model),
        "parameters": "",
        "extra_data": False,
        "clean": _marked(row, row.clean_heading, row.clean),
        "attacks": [_marked(row, heading, row.attacks.get(heading)) for heading in headings],
        "status": REPORTED,
        "flags": [],
        "missing": "",
        "attack_rows": [],
        "facts": [
            ("As printed", [(plain(name), plain(text), False) for name, text in row.shown.items()]),
            (
                "Source",
                [
                    ("Paper", plain(row.paper), False),
                    ("Table", plain(row.key.source), True),
                    ("Checked", plain(row.marks) or "read at the source", False),
                    ("Note", plain(row.note) or NOTHING, False),
                ],
            ),
        ],
        "command": [],
        "no_command": "Reported only: nothing was measured here. rbl reproduce compares a network "
        "of yours with it.",
    }


def _marked(row: ReportedRow, heading: str, value: float | None) -> str:
    return NOTHING if value is None else percent(value) + row.cell_marks[heading]
