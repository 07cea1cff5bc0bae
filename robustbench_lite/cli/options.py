"""What the argument lists of the commands share. Importing it needs only the standard library."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from robustbench_lite.checkpoints.model_source import LoadedModel

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


def add_network(parser: argparse.ArgumentParser) -> None:
    """Arguments that name one network: a checkpoint folder or a factory."""
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="a checkpoint folder")
    parser.add_argument(
        "--model", metavar="FACTORY", help="instead: FILE.py:factory or package.module:factory"
    )
    parser.add_argument(
        "--allow-code", action="store_true", help="let --model run the code of its file"
    )


def chosen_network(arguments: argparse.Namespace) -> LoadedModel:
    """The network that the arguments of `add_network` name, on the CPU.

    Raises:
        InputError: unless exactly one is named; or for what `resolve_model` refuses.
    """
    from robustbench_lite.checkpoints.model_source import resolve_model

    if (arguments.checkpoint is None) == (arguments.model is None):
        raise InputError("give either a CHECKPOINT folder or --model FACTORY")
    return resolve_model(
        arguments.checkpoint or arguments.model, allow_code=arguments.allow_code, device="cpu"
    )


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
