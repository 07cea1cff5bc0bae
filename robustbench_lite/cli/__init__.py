"""The command line: `rbl` and `robustbench-lite`, one file a command.

Each module of `COMMANDS` has `add`, which adds its arguments to a parser, and `run`. It is imported
when its command is chosen, and imports what is heavy inside `run`, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from robustbench_lite import __version__
from robustbench_lite.cli.options import set_run
from robustbench_lite.core.allocator import keep_freed_memory
from robustbench_lite.core.messages import OneLine, shortened
from robustbench_lite.core.progress_bar import show_progress
from robustbench_lite.core.stopping import same_command_resumes, started_with_others, stop_line

logger = logging.getLogger(__name__)

COMMANDS = {
    "demo": (
        "demo",
        "train three networks on digits, attack them, rank them (a few minutes, no download)",
    ),
    "train": (
        "train",
        "train a recipe to a checkpoint; run the same command again to resume",
    ),
    "evaluate": (
        "evaluate",
        "attack a network with a protocol; run the same command again to resume",
    ),
    "transfer": (
        "transfer",
        "black-box transfer: craft images on source networks, test target networks with them",
    ),
    "detect": (
        "detect",
        "out-of-distribution detection, clean and under attack",
    ),
    "leaderboard": ("leaderboard", "results to a ranked table or page"),
    "reproduce": ("reproduce", "published numbers, ours beside them, and an outcome for each"),
    "classes": (
        "classes",
        "results by class, with the errors of frequent and under-represented classes",
    ),
    "compare": (
        "compare",
        "two results on the same examples: paired test, differing examples, by class",
    ),
    "plot": ("plot", "results and runs as SVG or PNG"),
    "submit": ("submit", "a defense of your own, from template to entry"),
    "verify": (
        "verify",
        "check an entry's evidence again, and attack a sample of what it calls robust",
    ),
    "import": (
        "import_weights",
        "weights of another project (.pt, .pth, .safetensors) to a checkpoint; runs no code of it",
    ),
    "export": (
        "export",
        "a checkpoint or results for Hugging Face, RobustBench or Every Eval Ever, or as ONNX",
    ),
    "models": ("models", "check a network of any source with one batch"),
    "list": ("listing", "the names of all defenses, attacks, models, data sets, ..."),
    "show": ("show", "a recipe with the keys of its bases, a protocol, result or model, as TOML"),
    "selftest": (
        "selftest",
        "attack networks whose robust accuracy is known: run it first on a new machine or GPU",
    ),
    "doctor": ("doctor", "versions, device, threads and folders, for a bug report"),
}
"""Name of a command -> its module and what it does, in the order of `rbl --help`."""


_MEANT_OPTIONS = {
    **dict.fromkeys(("n-ex", "n-examples", "num-examples", "limit", "samples"), "--n"),
    **dict.fromkeys(("attack", "attacks"), "--protocol"),
    **dict.fromkeys(("epsilon", "radius", "threat"), "--eps"),
    **dict.fromkeys(("bs", "batch"), "--batch-size"),
    **dict.fromkeys(("data", "data-path", "root"), "--data-dir"),
    **dict.fromkeys(("gpu", "cuda"), "--device"),
}
"""What other packages call an option -> ours, in the commands that have it."""


class UsageError(Exception):
    """Wrong arguments, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{_with_near_match(message)} (see {self.prog} --help)")


class _CommandParser(_Parser):
    """The parser of a command or step; the module of a command is imported when it is chosen."""

    def __init__(self, *, module: str = "", **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.fill()
        self.set_defaults(options=tuple(self._option_string_actions))
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        self.fill()
        return super().format_help()

    def fill(self) -> None:
        """Add the arguments of the command, once."""
        if self._module:
            module = importlib.import_module(f"robustbench_lite.cli.{self._module}")
            self._module = ""
            set_run(self, module.run)
            module.add(self)


def _with_near_match(message: str) -> str:
    """argparse names a wrong choice and all choices; put the nearest first."""
    if "invalid choice: " not in message:
        return message
    wrong, _, choices = message.partition("invalid choice: ")[2].partition(" (choose from ")
    known = [choice.strip(" '") for choice in choices.rstrip(")").split(",")]
    near = difflib.get_close_matches(wrong.strip("'"), known, n=1, cutoff=0.4)
    return f"{message}; did you mean {near[0]}?" if near else message


def _near_option(word: str, options: Sequence[str]) -> str:
    """The option that an unknown one may mean, as the end of a message; or nothing."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return ""
    meant = _MEANT_OPTIONS.get(name.strip("-").replace("_", "-"), "")
    near = [meant] if meant in options else difflib.get_close_matches(name, options, n=1)
    return f"; did you mean {near[0]}?" if near else ""


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
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", dest="command", parser_class=_CommandParser
    )
    for name, (module, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, description=summary, module=module)
    return parser


def _complete(parser: argparse.ArgumentParser) -> None:
    from robustbench_lite.cli.completion import complete

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                command.fill()
    complete(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; signals are the caller's matter (`robustbench_lite.__main__`).

    Args:
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 2 for a user's mistake (one line on stderr), 130 after Ctrl-C.
    """
    from robustbench_lite.core.errors import InputError, ResultError

    # Before torch is imported: OpenMP threads that sleep while they wait, instead of spinning.
    # On a machine with other work to do, spinning makes small networks many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A line of a table is not worth a traceback, and none may be lost by a stop.
            stream.reconfigure(errors="replace", line_buffering=True)
    keep_freed_memory()
    same_command_resumes(False)
    try:
        parser = build_parser()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
            _complete(parser)
        arguments, rest = parser.parse_known_args(argv)
        if arguments.takes_checkpoints and not any(word.startswith("-") for word in rest):
            # argparse takes the positional arguments that stand together, and leaves the others.
            arguments.checkpoint, rest = [*arguments.checkpoint, *rest], []
        if rest and not arguments.takes_overrides:
            near = _near_option(rest[0], arguments.options)
            raise UsageError(f"unrecognized arguments: {' '.join(rest)}{near}")
        if started_with_others() and not arguments.takes_workers:
            raise UsageError(
                f"rbl {arguments.command} works in one process: start it without torchrun"
            )
        same_command_resumes(arguments.resumes)
        show_progress(not getattr(arguments, "quiet", False))
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
        arguments.overrides = rest
        lines = logging.StreamHandler()
        lines.setFormatter(OneLine("rbl: %(message)s"))
        level = logging.INFO if arguments.verbose else logging.WARNING
        logging.basicConfig(level=level, handlers=[lines])
        return int(arguments.run(arguments) or 0)
    except (InputError, ResultError, UsageError) as error:
        return _complain(" ".join(str(error).split()))
    except KeyboardInterrupt:
        if not started_with_others():  # else whoever started them says it once
            print(stop_line(signal.SIGINT), file=sys.stderr)
        return 130
    except BrokenPipeError:  # `rbl list attacks | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        return _complain(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))


def _complain(message: str) -> int:
    error = sys.exception()
    if error is not None and error.__cause__ is not None:
        logger.info("what led to the error:", exc_info=error)
    print(shortened(f"rbl: error: {message}"), file=sys.stderr)
    return 2
