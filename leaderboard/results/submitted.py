"""Submitted results: a row is verified once `rbl verify` has checked its evidence again."""

from __future__ import annotations

import hashlib
import logging
import os

import orjson

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.results.fields import Fields
from robustbench_lite.leaderboard.results.records import Flag
from robustbench_lite.leaderboard.results.stored_bytes import is_sealed, read_bytes

ENTRY_FILE = "entry.json"
VERIFICATION_FILE = "verification.json"
LEAST_SAMPLE = 50  # examples attacked again, or all that the entry calls robust
MOST_BYTES = 2**20  # of either file, which have some hundred bytes
SUBMITTED = Flag(
    name="submitted",
    value=None,
    threshold=None,
    meaning="the numbers are the submitter's own: nobody has checked the evidence again",
    follow_up="rbl verify ENTRY",
)

logger = logging.getLogger(__name__)


def is_submission(file: str, kind: str) -> bool:
    """Whether a result was submitted: its network says so, or `entry.json` lies beside it.

    Args:
        file: a `result.json`.
        kind: of its network.
    """
    return kind == "submission" or os.path.lexists(_beside(file, ENTRY_FILE))


def is_rechecked(file: str, file_hash: str, robust: int) -> bool:
    """Whether `rbl verify` has checked a submitted result again.

    Args:
        file: a `result.json`.
        file_hash: of its bytes.
        robust: number of examples that it calls robust.

    Returns:
        False without a `verification.json` of these very bytes, of this `entry.json` and of a
        sample large enough. A note that cannot be read counts as none; a warning says so.
    """
    note = _beside(file, VERIFICATION_FILE)
    if not os.path.lexists(note):
        return False
    try:
        fields = _note(note)
        entry = read_bytes(_beside(file, ENTRY_FILE), most=MOST_BYTES)
        same = (
            f"sha256:{fields.text('result')}" == file_hash
            and fields.text("entry") == hashlib.sha256(entry).hexdigest()
        )
        return same and fields.integer("k", 0) >= min(LEAST_SAMPLE, robust)
    except ResultError as error:
        logger.warning("%s; the row counts as not verified until `rbl verify` is run again", error)
        return False


def _note(file: str) -> Fields:
    content = read_bytes(file, most=MOST_BYTES)
    is_sealed(file, content)
    try:
        return Fields(orjson.loads(content), file)
    except orjson.JSONDecodeError as error:
        raise ResultError(f"{file}: not JSON: {error}") from None


def _beside(file: str, name: str) -> str:
    return file[: file.rfind(os.sep) + 1] + name  # "" for the folder we are in
