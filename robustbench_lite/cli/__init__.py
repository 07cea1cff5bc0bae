"""The command line: `rbl` and `robustbench-lite`. Heavy imports wait inside the commands."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Sequence

from robustbench_lite.cli.parser import UsageError, build_parser
from robustbench_lite.core.allocator import keep_freed_memory
from robustbench_lite.core.messages import OneLine, shortened
from robustbench_lite.core.stopping import same_command_resumes, started_with_others, stop_line

logger = logging.getLogger(__name__)


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
        arguments, rest = build_parser().parse_known_args(argv)
        if rest and not arguments.takes_overrides:
            raise UsageError(f"unrecognized arguments: {' '.join(rest)}")
        if started_with_others() and not arguments.takes_workers:
            raise UsageError(
                f"rbl {arguments.command} works in one process: start it without torchrun"
            )
        same_command_resumes(arguments.resumes)
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
