# PYTHON_ARGCOMPLETE_OK
"""`rbl` and `python -m robustbench_lite`: what runs first, and therefore imports little."""

# Not `signal`, which takes milliseconds to import, and Ctrl-C is a traceback until `main` runs.
from _signal import SIG_BLOCK, SIG_SETMASK, SIGINT, pthread_sigmask  # type: ignore[import-not-found]


def main() -> int:
    """Run one command as a process of its own: signals end it as `core.stopping` says.

    Returns:
        The exit code, as of `robustbench_lite.cli.main`.
    """
    before = pthread_sigmask(SIG_BLOCK, (SIGINT,))  # Ctrl-C waits for its handler
    from robustbench_lite.core.stopping import catch_signals, ignore_signals, started_with_others

    worker = started_with_others()
    catch_signals(quiet=worker)
    if worker:
        from robustbench_lite.core.processes import end_with_parent

        end_with_parent()  # else a worker would wait for others that are gone
    else:
        pthread_sigmask(SIG_SETMASK, before)
    from robustbench_lite.cli import main as run

    code = run()
    ignore_signals()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
