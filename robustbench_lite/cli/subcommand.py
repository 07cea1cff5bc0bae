"""What the argument lists of the commands share. Imports only the standard library."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TypeAlias

# argparse has no public name for it
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command(
    commands: Commands, name: str, target: str, summary: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """A sub-parser whose `run` imports `target` only when the command is run."""

    def run(arguments: argparse.Namespace) -> object:
        module, _, function = target.partition(":")
        return getattr(import_module(module), function)(arguments)

    parser = commands.add_parser(
        name, help=summary, description=summary, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(run=run, takes_overrides=False, takes_workers=False, resumes=False)
    return parser


def add_place(parser: argparse.ArgumentParser) -> None:
    """Where data comes from and where work is done: the same for all that compute."""
    parser.add_argument(
        "--data-dir", metavar="DIR", help="local Parquet folder or archives, instead of a download"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
