"""What the argument lists of the commands share. Imports only the standard library."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], int | None]
"""Does a command's work; returns its exit code (None: 0)."""


def set_run(parser: argparse.ArgumentParser, run: Run) -> None:
    """Let a command's parser call `run`, with the defaults of what a command may take or do."""
    parser.set_defaults(run=run, takes_overrides=False, takes_workers=False, resumes=False)


def add_step(steps: Any, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    """Add a step such as `rbl submit check` to what `add_subparsers` gave."""
    parser: argparse.ArgumentParser = steps.add_parser(name, help=summary, description=summary)
    set_run(parser, run)
    return parser


def add_place(parser: argparse.ArgumentParser) -> None:
    """Options of all commands that compute: where data comes from, device and threads."""
    parser.add_argument(
        "--data-dir", metavar="DIR", help="local Parquet folder or archives, instead of a download"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")


def folder_name(text: str) -> str:
    """A folder name: whatever is not a letter, digit or one of `._@-` becomes `_`."""
    return re.sub(r"[^\w.@-]", "_", text).lstrip(".") or "_"
