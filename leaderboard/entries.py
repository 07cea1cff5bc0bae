"""Submitted results: a row counts as verified once its evidence was checked again."""

from __future__ import annotations

import json
import os

from robustbench_lite.leaderboard.records import Flag

ENTRY_FILE = "entry.json"
VERIFICATION_FILE = "verification.json"
_UNCHECKED = Flag(
    name="submitted",
    value=None,
    threshold=None,
    meaning="the numbers are the submitter's own: nobody has checked the evidence again",
    follow_up="rbl verify ENTRY",
)


def submission_flag(file: str, file_hash: str) -> Flag | None:
    """The flag of a submitted result that nobody has verified.

    Args:
        file: a `result.json`.
        file_hash: `"sha256:..."` of its bytes.

    Returns:
        None for a result that was not submitted (no `entry.json` beside it), and for one whose
        `verification.json` is of these very bytes.
    """
    folder = os.path.dirname(file)
    if not os.path.exists(os.path.join(folder, ENTRY_FILE)):
        return None
    try:
        with open(os.path.join(folder, VERIFICATION_FILE), encoding="utf-8") as stream:
            verified = json.load(stream)["result"]
    except (OSError, ValueError, KeyError, TypeError):
        return _UNCHECKED
    return None if f"sha256:{verified}" == file_hash else _UNCHECKED
