"""Submitted results: a row is verified once `rbl verify` has checked its evidence again."""

from __future__ import annotations

import hashlib
import logging
import os

from msgspec import Struct

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.schema import Count, from_json
from robustbench_lite.leaderboard.results.records import RaisedFlag
from robustbench_lite.leaderboard.results.stored_bytes import is_sealed, read_bytes

ENTRY_FILE = "entry.json"
VERIFICATION_FILE = "verification.json"
LEAST_SAMPLE = 50  # examples attacked again, or all that the entry calls robust
MOST_BYTES = 2**20  # of either file, which have some hundred bytes
SUBMITTED = RaisedFlag(
    name="submitted",
    value=None,
    threshold=None,
    meaning="the numbers are the submitter's own: nobody has checked the evidence again",
    follow_up="rbl verify ENTRY",
)

logger = logging.getLogger(__name__)


class Verification(Struct, frozen=True):
    """What `verification.json` says: hashes of the result and of the entry, size of the sample."""

    result: str
    entry: str
    k: Count


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
    file = _beside(file, VERIFICATION_FILE)
    if not os.path.lexists(file):
        return False
    try:
        content = read_bytes(file, most=MOST_BYTES)
        is_sealed(file, content)
        note = from_json(Verification, content, file, error=ResultError)
        entry = read_bytes(_beside(file, ENTRY_FILE), most=MOST_BYTES)
    except ResultError as error:
        logger.warning("%s; the row counts as not verified until `rbl verify` is run again", error)
        return False
    same = f"sha256:{note.result}" == file_hash and note.entry == hashlib.sha256(entry).hexdigest()
    return same and note.k >= min(LEAST_SAMPLE, robust)


def _beside(file: str, name: str) -> str:
    return file[: file.rfind(os.sep) + 1] + name  # "" for the folder we are in
