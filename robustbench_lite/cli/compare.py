"""`rbl compare`: two results, example by example. Needs no torch."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl compare`."""
    parser.add_argument("a", metavar="A", help="a result folder or result.json")
    parser.add_argument("b", metavar="B", help="another, of the same data")
    parser.add_argument("--format", default="terminal", choices=("terminal", "markdown", "json"))


def run(arguments: argparse.Namespace) -> None:
    """Print the comparison."""
    from robustbench_lite.leaderboard import load_result
    from robustbench_lite.leaderboard.statistics.comparison import compare
    from robustbench_lite.leaderboard.statistics.per_class import stored_labels
    from robustbench_lite.leaderboard.table.comparison import render_comparison

    a, b = load_result(arguments.a), load_result(arguments.b)
    labels, source = stored_labels(arguments.a, a), a
    if labels is None:
        labels, source = stored_labels(arguments.b, b), b
    comparison = compare(a, b, labels=labels, labels_of=source)
    print(render_comparison(comparison, format=arguments.format), end="")
