"""The parser of the command line. Imports only the standard library, so that `--help` is quick."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from robustbench_lite import __version__
from robustbench_lite.cli import (
    doctor,
    network_commands,
    show,
    submission_commands,
    table_commands,
)
from robustbench_lite.cli.subcommand import Commands


class UsageError(Exception):
    """Wrong arguments, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{_with_near_match(message)} (see {self.prog} --help)")


def _with_near_match(message: str) -> str:
    """argparse names a wrong choice and all choices; put the nearest first."""
    if "invalid choice: " not in message:
        return message
    wrong, _, choices = message.partition("invalid choice: ")[2].partition(" (choose from ")
    known = [choice.strip(" '") for choice in choices.rstrip(")").split(",")]
    near = difflib.get_close_matches(wrong.strip("'"), known, n=1, cutoff=0.4)
    return f"{message}; did you mean {near[0]}?" if near else message


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rbl`: a sub-parser a command, each with `run` as its default."""
    parser = _Parser(
        prog="rbl",
        description="Train adversarial defenses, attack them with PGD, CW and AutoAttack, rank "
        "them with uncertainty.",
        epilog="First steps: rbl demo",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"robustbench_lite {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is being done")
    kind: type[argparse.ArgumentParser] = _Parser
    commands: Commands = parser.add_subparsers(
        required=True, metavar="COMMAND", dest="command", parser_class=kind
    )
    for add in (
        network_commands.add_demo,
        network_commands.add_train,
        network_commands.add_evaluate,
        network_commands.add_transfer,
        network_commands.add_detect,
        table_commands.add_leaderboard,
        table_commands.add_reproduce,
        table_commands.add_classes,
        table_commands.add_compare,
        table_commands.add_plot,
        submission_commands.add_submit,
        submission_commands.add_verify,
        network_commands.add_import,
        table_commands.add_list,
        show.add,
        doctor.add,
    ):
        add(commands)
    return parser
