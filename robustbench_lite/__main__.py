"""`rbl` and `python -m robustbench_lite`: what runs first, and therefore imports little."""

from __future__ import annotations

from robustbench_lite.core.stopping import catch_signals, ignore_signals, started_with_others


def main() -> int:
    """Run one command as a process of its own: signals end it as `core.stopping` says.

    Returns:
        The exit code, as of `robustbench_lite.cli.main`.
    """
    worker = started_with_others()
    catch_signals(quiet=worker)
    if worker:
        from robustbench_lite.processes import end_with_parent

        end_with_parent()  # else a worker would wait for others that are gone
    from robustbench_lite.cli import main as run

    code = run()
    ignore_signals()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
