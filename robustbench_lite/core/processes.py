"""One process at a time in a folder, and no process longer than the one that started it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from robustbench_lite.core.errors import InputError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PARENT = "ROBUSTBENCH_LITE_PARENT"  # its process id
_PATIENCE = 5.0  # seconds: what a process that was just killed may need to let go


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder until the block or the process ends, so that no two runs mix in it.

    The folder itself is locked (`flock`), so nothing is left in it. A file system without locks
    gives none.

    Args:
        folder: made when missing.

    Raises:
        InputError: when another process holds it for longer than a moment.
    """
    descriptor = _opened(folder)
    try:
        if descriptor is not None:
            _lock(descriptor, folder)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(folder: Path) -> int | None:
    """The folder, to be locked; None where that cannot be: whoever writes there will say why."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return None


def _lock(descriptor: int, folder: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return None  # no locks here
            if time.monotonic() > until:
                raise InputError(
                    f"another process is at work in {folder}: wait for it, or choose another --out"
                ) from None
        time.sleep(0.1)


def of_this_parent(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child that is to find out by `end_with_parent` whose child it is."""
    return {**environment, _PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Let the system end this process when the one that started it ends (Linux).

    A parent that has ended before this call is noticed where it used `of_this_parent`.
    """
    parent = int(os.environ.pop(_PARENT, os.getppid()))
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
