"""`rbl leaderboard`: results to a ranked table or page. Needs no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from robustbench_lite.core.errors import InputError

FORMATS = ("terminal", "markdown", "csv", "latex", "html", "json")


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl leaderboard`."""
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS", help="folders or result.json files"
    )
    parser.add_argument("--format", default="terminal", choices=FORMATS)
    parser.add_argument(
        "--reported",
        action="append",
        default=[],
        metavar="TABLE",
        help="show a published table too, see rbl reproduce --list; may be repeated",
    )
    parser.add_argument("--out", metavar="FILE", help="write there (default: standard output)")


def run(arguments: argparse.Namespace) -> None:
    """Print the table, or write it where `--out` says; a line names each file left out."""
    from robustbench_lite.core.storage import write_text
    from robustbench_lite.leaderboard import (
        build_table,
        load_readable,
        load_result,
        render,
        render_page,
    )
    from robustbench_lite.leaderboard.published.load import load_published
    from robustbench_lite.leaderboard.published.reported import reported_rows

    reported = reported_rows(load_published(name) for name in dict.fromkeys(arguments.reported))
    results = load_readable(arguments.results, load_result)
    if not results and not reported:
        raise InputError(f"{', '.join(arguments.results)}: no result.json there or below")
    if arguments.format == "html":
        text = render_page(results, title="Robustness leaderboard", reported=reported)
    else:
        text = render(build_table(results, reported), arguments.format)
    if arguments.out:
        write_text(Path(arguments.out), text if text.endswith("\n") else text + "\n")
        print(f"wrote {arguments.out}")
    else:
        print(text)
