"""`rbl submit`: a defense of your own, from template to entry."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.cli.options import add_place, add_step
from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from robustbench_lite.submission.isolation import Limits
    from robustbench_lite.submission.review import RunOptions

REFUSED = 1  # exit code


def add(parser: argparse.ArgumentParser) -> None:
    """The three steps of `rbl submit`."""
    parser.description = "A defense of your own, from template to entry: docs/submitting.md."
    steps = parser.add_subparsers(
        required=True, metavar="STEP", dest="step", parser_class=type(parser)
    )
    blank = add_step(steps, "new", new, "write a folder to fill in")
    blank.add_argument("name", metavar="NAME", help="of the row, and of the folder")
    blank.add_argument(
        "--checkpoint", metavar="DIR", help="take network and weights from this checkpoint"
    )
    blank.add_argument("--out", metavar="DIR", help="default: NAME")
    review = add_step(steps, "check", check, "what a reviewer would say")
    review.add_argument("folder", metavar="DIR", help="of the submission")
    review.add_argument(
        "--examples",
        type=int,
        default=64,
        metavar="N",
        help="images for flags and a quick attack (default: %(default)s)",
    )
    add_isolation(review, seconds=1800)
    full = add_step(
        steps,
        "run",
        run,
        "the full protocol, with evidence; run the same command again to resume",
    )
    full.add_argument("folder", metavar="DIR", help="of the submission")
    add_isolation(full, seconds=7 * 24 * 3600)
    full.set_defaults(resumes=True)


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
        run_options(arguments),
        allow_code=arguments.allow_code,
        limits=limits(arguments),
        examples=arguments.examples,
    )
    print(render(findings))
    return REFUSED if verdict(findings) == "refused" else 0


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, write the entry, print its row."""
    from robustbench_lite.leaderboard import build_table, load_result
    from robustbench_lite.leaderboard import render as table
    from robustbench_lite.submission.entry import SEED
    from robustbench_lite.submission.entry import run as run_submission

    entry = run_submission(
        Path(arguments.folder),
        run_options(arguments),
        allow_code=arguments.allow_code,
        limits=limits(arguments),
        seed=SEED,
    )
    print(table(build_table([load_result(entry)]), "terminal"))
    print(f"entry: {entry}; now `rbl verify {entry}`")


def add_isolation(parser: argparse.ArgumentParser, *, seconds: int) -> None:
    """Options of a process that runs submitted code; `seconds` is the default time limit."""
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


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Where a network of a submission runs, from the command line."""
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.evaluation.evaluate import Settings
    from robustbench_lite.submission.review import RunOptions

    Settings(batch_size=arguments.batch_size, threads=arguments.threads)  # refuses 0 and less
    # Absolute: submitted code runs in another folder.
    data_dir = str(Path(arguments.data_dir).resolve()) if arguments.data_dir else None
    device = str(choose_device(arguments.device))
    return RunOptions(data_dir, device, arguments.batch_size, arguments.threads)


def limits(arguments: argparse.Namespace) -> Limits:
    """Limits of the process of submitted code, from the command line."""
    from robustbench_lite.submission.isolation import Limits

    for name, value in (
        ("--time-limit", arguments.time_limit),
        ("--memory-limit", arguments.memory_limit),
    ):
        if not value > 0:
            raise InputError(f"{name} {value:g} must be above 0")
    return Limits(arguments.time_limit, arguments.memory_limit)
