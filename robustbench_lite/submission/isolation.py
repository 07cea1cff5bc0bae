"""Run a job on submitted code in a process of its own, with limits.

The process has no network (an audit hook refuses it), a bare environment, and is stopped when it
takes too long or too much memory. That keeps an honest mistake from harming a machine; it is no
sandbox against an attacker, who can undo a hook from inside: read the code before you allow it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.processes import of_this_parent
from robustbench_lite.core.stopping import add_child, forget_child, held, temporary_folder

_LOOK = 0.1  # seconds between two looks at the process
_KEPT_NAMES = {"PATH", "HOME", "LANG", "TZ", "VIRTUAL_ENV"}
_KEPT_PREFIXES = (
    "CUDA",
    "CUBLAS",
    "LC_",
    "LD_",
    "MALLOC_",
    "MKL",
    "NVIDIA",
    "OMP",
    "PYTHON",
    "XDG",
)


@dataclass(frozen=True)
class Limits:
    """What the process may take.

    Args:
        seconds: wall-clock time.
        gigabytes: resident memory of the process and those it starts.
    """

    seconds: float
    gigabytes: float


def run_isolated(
    job: str, request: Mapping[str, object], limits: Limits, *, quiet: bool
) -> dict[str, object]:
    """Run a job of `robustbench_lite.submission.isolated_job` and return its answer.

    Args:
        job: name of the job.
        request: its arguments, plain JSON data.
        limits: beyond which the process is killed.
        quiet: keep what the process prints from the terminal.

    Returns:
        What the job answers, plain JSON data.

    Raises:
        InputError: what the job raised; or that it went beyond a limit, or died, and why.
    """
    with temporary_folder("rbl-submission-") as folder:
        place = Path(folder)
        (place / "request.json").write_text(json.dumps({"job": job, **request}), encoding="utf-8")
        answer, log = place / "answer.json", place / "log"
        with log.open("wb") as printed:
            with held():  # it is ended with this process from its first moment
                process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "robustbench_lite.submission.isolated_job",
                        folder,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed if quiet else None,
                    cwd=folder,
                    env=_environment(folder),
                    start_new_session=True,
                )
                add_child(process.pid, group=True)
            ended = _watch(process, limits)
        if ended:
            raise InputError(ended)
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        said = f" ({last[0][:200]})" if last else ""
        try:
            found: dict[str, object] = json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"the process of the submission ended with code {process.returncode} and gave no "
                f"answer{said}: the submitted code must not end or crash the process"
            ) from error
    if "error" in found:
        raise InputError(str(found["error"]))
    return found


def _environment(folder: str) -> dict[str, str]:
    """Nothing of the caller's but what programs need: no tokens, no passwords.

    Temporary files go to `folder`, and away with it.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)
    }
    root = str(Path(__file__).resolve().parents[2])  # a checkout that is not installed
    path = [root, *filter(None, [kept.get("PYTHONPATH")])]
    environment = {**kept, "PYTHONPATH": os.pathsep.join(path), "OMP_WAIT_POLICY": "PASSIVE"}
    return of_this_parent(environment | {"TMPDIR": folder})


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> str:
    """Wait for the process; why it had to be killed, or nothing."""
    end = time.monotonic() + limits.seconds
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_LOOK)
                return ""
            if time.monotonic() > end:
                return (
                    f"the submission took longer than {limits.seconds:g} seconds: make it faster, "
                    "or raise --time-limit"
                )
            if (used := _resident(process.pid)) > limits.gigabytes * 2**30:
                return (
                    f"the submission took {used / 2**30:.1f} GiB of memory, more than the "
                    f"{limits.gigabytes:g} allowed: take smaller batches, or raise --memory-limit"
                )
    finally:
        # The whole group: submitted code may have started processes of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        forget_child(process.pid)


def _resident(session: int) -> int:
    """Resident bytes of the processes of a session; 0 where the system does not say."""
    total, page = 0, os.sysconf("SC_PAGE_SIZE")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold anything; fields after it: state ppid pgrp session.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int((folder / "statm").read_text().split()[1]) * page
        except (OSError, ValueError, IndexError):
            continue  # ended meanwhile
    return total
