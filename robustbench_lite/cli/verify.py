"""`rbl verify`: an entry checked again."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from robustbench_lite.cli.submit import REFUSED, add_isolation, limits, run_options
from robustbench_lite.core.errors import InputError


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl verify`."""
    parser.add_argument("entry", metavar="ENTRY", help="folder of an entry")
    parser.add_argument(
        "--submission", metavar="DIR", help="its submission (default: the folder around ENTRY)"
    )
    parser.add_argument(
        "--k",
        type=int,
        default=50,
        metavar="N",
        help="claimed-robust examples to attack again (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="S", help="draws them (default: one nobody knows beforehand)"
    )
    add_isolation(parser, seconds=24 * 3600)


def run(arguments: argparse.Namespace) -> int:
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
        run_options(arguments),
        Sample(arguments.k, seed),
        allow_code=arguments.allow_code,
        limits=limits(arguments),
    )
    print(render(findings, accepted="verified"))
    return REFUSED if verdict(findings) == "refused" else 0
