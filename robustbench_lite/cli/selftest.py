"""`rbl selftest`: attacks against networks whose robust accuracy is known without them."""

from __future__ import annotations

import argparse
from pathlib import Path

from robustbench_lite.core.errors import InputError


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl selftest`."""
    parser.add_argument(
        "--weights",
        metavar="DIR",
        help="also released networks with published brackets (files: docs/selftest.md)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="their images: DIR/sdp/mnist, DIR/sdp/cifar10 and DIR/mnist (default: --weights)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--format", default="terminal", choices=("terminal", "json"))


def run(arguments: argparse.Namespace) -> int:
    """Print a row a case; 1 when one fails."""
    import time

    import torch

    from robustbench_lite.core.numerics import check_seed, choose_device, device_name
    from robustbench_lite.core.provenance import current_versions
    from robustbench_lite.selftest.run import Row, run_selftest
    from robustbench_lite.selftest.table import as_json, heading, line, summary

    check_seed(arguments.seed)
    threads = torch.get_num_threads() if arguments.threads is None else arguments.threads
    if threads < 1:
        raise InputError(f"--threads {threads} must be at least 1")
    if arguments.data_dir and not arguments.weights:
        raise InputError("--data-dir is for the networks of --weights DIR: give that too")
    device, begin = choose_device(arguments.device), time.perf_counter()
    rows: list[Row] = []
    terminal = arguments.format == "terminal"
    found = run_selftest(
        device=device,
        seed=arguments.seed,
        threads=threads,
        weights=Path(arguments.weights) if arguments.weights else None,
        data=Path(arguments.data_dir) if arguments.data_dir else None,
    )
    for row in found:
        if terminal:
            print(heading() + "\n" + line(row) if not rows else line(row), flush=True)
        rows.append(row)
    if terminal:
        print(summary(rows, time.perf_counter() - begin))
    else:
        terms = {"device": device_name(device), "seed": arguments.seed, **current_versions()}
        print(as_json(rows, terms))
    return int(not all(row.ok for row in rows))
