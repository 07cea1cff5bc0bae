"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import itertools
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robustbench_lite.core.describe_diff import first_line
from robustbench_lite.core.errors import DamagedFileError, StorageError
from robustbench_lite.core.integrity import CHECKSUM, has_checksum, with_checksum
from robustbench_lite.core.stopping import temporary_path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it.

    Whoever reads `path` sees the old content or the new one, also after `kill -9` or a full disk. A
    link stays a link: what it leads to is replaced. What is there and no file (a device, a pipe) is
    written to as it is.

    Args:
        path: the final name; its folder is made.
        write: called with the temporary path.

    Raises:
        StorageError: when the disk is full, the place is not writable or a folder; the temporary
            file is gone and `path` is as it was.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder")
    if path.exists() and not path.is_file():
        return write(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary_path(temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException as error:
        if (refusal := _storage_error(path, error)) is not None:
            raise refusal from error
        raise


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write bytes atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        wrong = ascii(text[error.start : error.end])
        raise StorageError(f"cannot write {path}: UTF-8 has no {wrong} (in a name?)") from error
    write_bytes(path, data)


def write_sealed_json(path: Path, data: Mapping[str, object]) -> None:
    """Write JSON that ends with a checksum of itself, atomically."""
    write_text(path, with_checksum(data))


def read_sealed_json(path: Path) -> tuple[Any, bool]:
    """The content of a JSON file without its checksum, and whether it has one, which then fits.

    Raises:
        DamagedFileError: when it cannot be read, is no JSON, or does not fit its checksum.
    """
    try:
        content = path.read_bytes()
        sealed = has_checksum(content)
        data = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged ({first_line(error)})") from error
    if isinstance(data, dict):
        data.pop(CHECKSUM, None)
    return data, sealed


def put_aside(path: Path) -> Path:
    """Rename a damaged file to `<name>.damaged` (`.damaged2`, ... where that is taken).

    Returns:
        Where it lies now.

    Raises:
        StorageError: when it cannot be renamed.
    """
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.damaged{number if number > 1 else ''}")
        if not os.path.lexists(aside):
            break
    try:
        os.replace(path, aside)
    except OSError as error:
        raise StorageError(f"cannot rename {path}: {error.strerror or error}") from error
    return aside


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Write JSON atomically: two-space indent, keys in the order given, newline at the end."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _storage_error(path: Path, error: BaseException) -> StorageError | None:
    # torch and safetensors pass a full disk on as errors of their own, with the system's words.
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in str(error):
        return StorageError(
            f"disk full while writing {path}: what was finished before is kept; "
            "free some space and run the same command again"
        )
    if isinstance(error, OSError):
        return StorageError(f"cannot write {path}: {error.strerror or error}")
    return None
