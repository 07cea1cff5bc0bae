"""The bytes of a stored file: only of a plain file, of a sensible size, and undamaged."""

from __future__ import annotations

import os
import stat

from robustbench_lite.core.integrity import ChecksumError, has_checksum
from robustbench_lite.leaderboard.errors import ResultError

MOST_BYTES = 2**30  # a result of a million examples and ten attacks has some megabytes


def read_bytes(file: str, *, most: int = MOST_BYTES) -> bytes:
    """Everything a file holds.

    Args:
        file: its path.
        most: bytes; a longer file is refused before it is read.

    Raises:
        ResultError: in one line, when it is missing, no plain file, too long or cannot be read.
    """
    try:
        with open(file, "rb", buffering=0, opener=_open) as stream:  # one read of a small file
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ResultError(f"{file}: is no plain file")
            if about.st_size > most:
                raise ResultError(f"{file}: has {about.st_size} bytes; need at most {most}")
            return stream.readall()
    except FileNotFoundError:
        raise ResultError(f"{file}: not found") from None
    except OSError as error:
        raise ResultError(f"{file}: cannot be read: {error.strerror}") from error


def is_sealed(file: str, content: bytes) -> bool:
    """Whether a file carries a checksum of its content, which then is right.

    Args:
        file: its path, for the message.
        content: all its bytes.

    Raises:
        ResultError: when the checksum and the content do not belong together.
    """
    try:
        return has_checksum(content)
    except ChecksumError as error:
        raise ResultError(
            f"{file}: {error}; restore the file, or write it anew with the command that made it"
        ) from None


def _open(path: str, flags: int) -> int:
    """Without waiting for a writer, should the path be a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
