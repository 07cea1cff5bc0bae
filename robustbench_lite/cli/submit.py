"""`rbl submit` and `rbl verify`."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from robustbench_lite.submission.isolation import Limits
    from robustbench_lite.submission.review import RunOptions

_REFUSED = 1  # exit code


def new(arguments: argparse.Namespace) -> None:
    """Write the template."""
    from robustbench_lite.submission.template import new_submission

    checkpoint = Path(arguments.checkpoint) if arguments.checkpoint else None
    out = Path(arguments.out or arguments.name)
    new_submission(out, arguments.name, checkpoint=checkpoint)
    print(f"wrote {out}: fill in what says TODO, then `rbl submit check {out}`")


def check(arguments: argparse.Namespace) -> int:
    """Print the findings and the verdict; exit code 1 for a refusal."""
    from robustbench_lite.submission.findings import render, verdict
    from robustbench_lite.submission.review import check as check_submission

    if arguments.examples < 1:
        raise InputError(f"--examples {arguments.examples} must be at least 1")
    findings = check_submission(
        Path(arguments.folder),
        _place(arguments),
        allow_code=arguments.allow_code,
        limits=_limits(arguments),
        examples=arguments.examples,
    )
    print(render(findings))
    return _REFUSED if verdict(findings) == "refused" else 0


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, write the entry, print its row."""
    from robustbench_lite.leaderboard import build_table, load_result
    from robustbench_lite.leaderboard import render as table
    from robustbench_lite.submission.entry import SEED
    from robustbench_lite.submission.entry import run as run_submission

    entry = run_submission(
        Path(arguments.folder),
        _place(arguments),
        allow_code=arguments.allow_code,
        limits=_limits(arguments),
        seed=SEED,
    )
    print(table(build_table([load_result(entry)]), "terminal"))
    print(f"entry: {entry}; now `rbl verify {entry}`")


def verify(arguments: argparse.Namespace) -> int:
    """Print what holds and what does not; exit code 1 when the entry is refused."""
    from robustbench_lite.submission.findings import render, verdict
    from robustbench_lite.submission.recheck import Sample
    from robustbench_lite.submission.verification import verify_entry

    entry = Path(arguments.entry)
    if not entry.is_dir():
        raise InputError(f"no entry folder {entry}; `rbl submit run` writes one")
    if arguments.k < 1:
        raise InputError(f"--k {arguments.k} must be at least 1")
    seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    findings = verify_entry(
        entry,
        Path(arguments.submission) if arguments.submission else entry.resolve().parent,
        _place(arguments),
        Sample(arguments.k, seed),
        allow_code=arguments.allow_code,
        limits=_limits(arguments),
    )
    print(render(findings, accepted="verified"))
    return _REFUSED if verdict(findings) == "refused" else 0


def _place(arguments: argparse.Namespace) -> RunOptions:
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.evaluation.evaluate import Settings
    from robustbench_lite.submission.review import RunOptions

    Settings(batch_size=arguments.batch_size, threads=arguments.threads)  # refuses 0 and less
    # Absolute: submitted code runs in another folder.
    data_dir = str(Path(arguments.data_dir).resolve()) if arguments.data_dir else None
    device = str(choose_device(arguments.device))
    return RunOptions(data_dir, device, arguments.batch_size, arguments.threads)


def _limits(arguments: argparse.Namespace) -> Limits:
    from robustbench_lite.submission.isolation import Limits

    for name, value in (
        ("--time-limit", arguments.time_limit),
        ("--memory-limit", arguments.memory_limit),
    ):
        if not value > 0:
            raise InputError(f"{name} {value:g} must be above 0")
    return Limits(arguments.time_limit, arguments.memory_limit)
