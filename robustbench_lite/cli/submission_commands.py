"""Arguments of `rbl submit new/check/run` and `rbl verify`."""

from __future__ import annotations

import argparse

from robustbench_lite.cli.subcommand import Commands, add_place, command


def add_submit(commands: Commands) -> None:
    """Add `rbl submit` with its three steps."""
    parser = commands.add_parser(
        "submit",
        help="a defense of your own, from template to entry",
        description="A defense of your own, from template to entry: docs/submitting.md.",
        allow_abbrev=False,
    )
    steps = parser.add_subparsers(
        required=True, metavar="STEP", dest="step", parser_class=type(parser)
    )
    new = command(steps, "new", "robustbench_lite.cli.submit:new", "write a folder to fill in")
    new.add_argument("name", metavar="NAME", help="of the row, and of the folder")
    new.add_argument(
        "--checkpoint", metavar="DIR", help="take network and weights from this checkpoint"
    )
    new.add_argument("--out", metavar="DIR", help="default: NAME")
    check = command(
        steps, "check", "robustbench_lite.cli.submit:check", "the verdict a reviewer would give"
    )
    check.add_argument("folder", metavar="DIR", help="of the submission")
    check.add_argument(
        "--examples",
        type=int,
        default=64,
        metavar="N",
        help="images for flags and a quick attack (default: %(default)s)",
    )
    _add_running(check, seconds=1800)
    run = command(
        steps,
        "run",
        "robustbench_lite.cli.submit:run",
        "the full protocol, with evidence; the same command goes on after an interruption",
    )
    run.add_argument("folder", metavar="DIR", help="of the submission")
    _add_running(run, seconds=7 * 24 * 3600)
    run.set_defaults(resumes=True)


def add_verify(commands: Commands) -> None:
    """Add `rbl verify`."""
    parser = command(
        commands,
        "verify",
        "robustbench_lite.cli.submit:verify",
        "check an entry's evidence again, and attack a sample of what it calls robust",
    )
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
    _add_running(parser, seconds=24 * 3600)


def _add_running(parser: argparse.ArgumentParser, *, seconds: int) -> None:
    parser.add_argument(
        "--allow-code", action="store_true", help="run the submitted model.py, if there is one"
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        default=seconds,
        metavar="S",
        help="seconds the process of submitted code may take (default: %(default)s)",
    )
    parser.add_argument(
        "--memory-limit",
        type=float,
        default=16.0,
        metavar="GIB",
        help="memory it may take (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="as of rbl evaluate")
    add_place(parser)
