"""What Ctrl-C, SIGTERM and SIGHUP do: no temporary file, no child process, one line, an exit code.

A stop ends the process at once and never raises: an exception in the middle of an import, of C++
code or of a user's network becomes pages of text there, or is swallowed. What must not stay behind
is registered here. The command line calls `catch_signals`; importing installs nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

_WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped by SIGHUP",
}
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what `torchrun` sets
_PATIENCE = 10.0  # seconds a child has to remove its own temporary files


class _Stop:
    """What this process has to do and to say when it is stopped."""

    def __init__(self) -> None:
        self.quiet = False
        self.resumes = False
        self.held = 0
        self.pending: int | None = None
        self.removals: dict[str, Callable[[str], object]] = {}
        self.children: dict[int, bool] = {}  # pid to whether its whole process group ends


_STOP = _Stop()


def started_with_others(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that `--workers` or `torchrun` started."""
    return all(environment.get(name) for name in _VARIABLES) and environment["WORLD_SIZE"] != "1"


def catch_signals(*, quiet: bool) -> None:
    """Let the three signals stop this process as the module says; for commands, not for libraries.

    A signal that the caller has set to be ignored (`nohup`) stays ignored. Signals that `held`
    withheld while this process was started are delivered now.

    Args:
        quiet: print no line, since the process that started this one prints it.
    """
    _STOP.quiet = quiet
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    if quiet:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WORDS)


def ignore_signals() -> None:
    """Let the signals change nothing any more: the work is done and its exit code is known."""
    for number in _WORDS:
        signal.signal(number, signal.SIG_IGN)


def same_command_resumes(resumes: bool) -> None:
    """Say whether a stopped command resumes when it is run again, for the line."""
    _STOP.resumes = resumes


def stop_line(number: int) -> str:
    """The one line about a stop by this signal."""
    resume = "; run the same command again to resume" if _STOP.resumes else ""
    return f"rbl: {_WORDS[signal.Signals(number)]}{resume}"


def remove_when_stopped(path: str | os.PathLike[str], *, folder: bool = False) -> None:
    """Remove a file or a folder that may not exist yet, should this process be stopped."""
    remove: Callable[[str], object] = os.unlink
    if folder:
        import shutil  # here: a stop must not have to import anything

        remove = shutil.rmtree
    _STOP.removals[os.fspath(path)] = remove


@contextmanager
def temporary_path(path: str | os.PathLike[str]) -> Iterator[None]:
    """A name for a file that is gone after the block, also when the block raises or is stopped."""
    remove_when_stopped(path)
    try:
        yield
    finally:
        _remove(os.fspath(path))


@contextmanager
def temporary_folder(prefix: str) -> Iterator[str]:
    """A new folder that is gone after the block, also when the block raises or is stopped."""
    import tempfile

    with held():
        folder = tempfile.mkdtemp(prefix=prefix)
        remove_when_stopped(folder, folder=True)
    try:
        yield folder
    finally:
        _remove(folder)


@contextmanager
def held() -> Iterator[None]:
    """Let no signal stop this process inside the block; one that came stops it after the block.

    A child that is started inside begins with the signals withheld, until its `catch_signals`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WORDS)
    _STOP.held += 1  # a thread of a library may still receive what this one does not
    try:
        yield
    finally:
        _STOP.held -= 1
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if not _STOP.held and _STOP.pending is not None:
            _stop(_STOP.pending, None)


def add_child(pid: int, *, group: bool) -> None:
    """End a child of this process, should this process be stopped.

    Args:
        pid: of the child.
        group: the child leads a process group, and all of it ends.
    """
    _STOP.children[pid] = group


def forget_child(pid: int) -> None:
    """Leave a child that was added and has ended alone."""
    _STOP.children.pop(pid, None)


def end_children() -> None:
    """End all children that were added, and forget them: SIGTERM, a few seconds, SIGKILL."""
    children = {pid: group for pid, group in _STOP.children.items() if _state(pid) != "reaped"}
    for pid, group in children.items():
        _send(pid, group, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE
    while any(_state(pid) == "runs" for pid in children) and time.monotonic() < until:
        time.sleep(0.01)
    for pid, group in children.items():  # also where the child has ended: for what it started
        _send(pid, group, signal.SIGKILL)
    _STOP.children.clear()


def _state(pid: int) -> str:
    """Of a child, which is not reaped here, so that its number stays its own."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return "reaped"
    return "runs" if ended is None else "ended"


def _send(pid: int, group: bool, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def _remove(path: str) -> None:
    with suppress(OSError):
        _STOP.removals[path](path)
    _STOP.removals.pop(path, None)  # last: a stop in between removes the rest


def _stop(number: int, frame: FrameType | None) -> None:
    """The handler: end this process."""
    del frame
    if _STOP.held:
        _STOP.pending = number
        return
    try:
        ignore_signals()  # a second signal must not disturb the first one's work
        end_children()
        for path in list(_STOP.removals):
            _remove(path)
        if not _STOP.quiet:
            # A terminal shows "^C" or a bar on the line where the cursor is.
            os.write(2, f"{os.linesep * os.isatty(2)}{stop_line(number)}\n".encode())
    finally:
        os._exit(128 + number)
