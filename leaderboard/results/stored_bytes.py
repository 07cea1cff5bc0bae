"""The bytes of a stored file: only of a plain file, of a sensible size, and undamaged."""

from __future__ import annotations

import os
import stat

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.integrity import ChecksumError, has_checksum

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
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
        # Without waiting for a writer, should the path be a pipe.
        descriptor = os.open(file, os.O_RDONLY | _NO_WAIT)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise ResultError(f"{file}: is no plain file")
            if about.st_size > most:
                raise ResultError(f"{file}: has {about.st_size} bytes; need at most {most}")
            return _all_of(descriptor, about.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ResultError(f"{file}: not found") from None
    except OSError as error:
        raise ResultError(f"{file}: cannot be read: {error.strerror}") from error


def _all_of(descriptor: int, size: int) -> bytes:
    """A whole file, in one read where that gives all of it."""
    content = os.read(descriptor, size + 1)
    if len(content) == size:
        return content
    parts = [content]
    while parts[-1]:
        parts.append(os.read(descriptor, 2**20))
    return b"".join(parts)


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
