"""Submitted results: a row counts as verified once its evidence was checked again."""

from __future__ import annotations

import hashlib
import json
import os

from robustbench_lite.leaderboard.records import Flag, Result

ENTRY_FILE = "entry.json"
VERIFICATION_FILE = "verification.json"
LEAST_SAMPLE = 50  # examples attacked again, or all that the entry calls robust
SUBMITTED = Flag(
    name="submitted",
    value=None,
    threshold=None,
    meaning="the numbers are the submitter's own: nobody has checked the evidence again",
    follow_up="rbl verify ENTRY",
)


def is_verified_submission(file: str, result: Result) -> bool:
    """Whether a result may count as it stands: not submitted, or submitted and verified.

    Args:
        file: a `result.json`.
        result: what it holds.

    Returns:
        False for a submitted result (its network is of a submission, or `entry.json` lies beside
        it) without a `verification.json` of these very bytes, of this `entry.json` and of a sample
        large enough.
    """
    folder = file[: file.rfind(os.sep) + 1]  # "" for the one we are in
    entry = folder + ENTRY_FILE
    if result.model.kind != "submission" and not os.path.exists(entry):
        return True
    try:
        with open(folder + VERIFICATION_FILE, encoding="utf-8") as stream:
            note = json.load(stream)
        with open(entry, "rb") as content:
            entry_hash = hashlib.sha256(content.read()).hexdigest()
        enough = min(LEAST_SAMPLE, result.robust_accuracy.correct)
        return bool(
            f"sha256:{note['result']}" == result.file_hash
            and note["entry"] == entry_hash
            and int(note["k"]) >= enough
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
