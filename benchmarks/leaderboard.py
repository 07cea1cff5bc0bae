"""Seconds from stored results to a table.

    python benchmarks/leaderboard.py --rows 10000 --n 1000

Writes made-up results of several data sets and protocols to a temporary folder, then finds, reads,
checks, ranks and renders them. What it takes merely to read and parse the same files is the floor.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from robustbench_lite.core.flag_rules import FLAGS
from robustbench_lite.leaderboard import (
    build_table,
    find_results,
    load_results,
    render,
    render_page,
)
from robustbench_lite.leaderboard.results.protocol import protocol_hash
from robustbench_lite.leaderboard.statistics.accuracy import accuracy, pack_labels, pack_outcomes

ATTACKS = ("pgd20_ce", "cwinf30_k50", "aa_standard")
PARAMETERS = {"loss": "ce", "steps": 20, "restarts": 1, "start": "uniform", "keep": "best_loss"}
T = TypeVar("T")
GROUPS = 20  # tables that the rows fall into


def result(index: int, n: int, labels: str, rng: np.random.Generator) -> dict[str, object]:
    """The content of one `result.json`."""
    strength = rng.random(n)
    rates = np.sort(rng.random(1 + len(ATTACKS)))[::-1]
    clean, *robust = (strength < rate for rate in rates)
    counted = [accuracy(int(bits.sum()), n) for bits in (clean, *robust)]
    return {
        "schema_version": 1,
        "name": f"network {index}",
        "defense": "pgd_at",
        "architecture": "preact_resnet18",
        "parameters": 11_172_170,
        "extra_data": False,
        "dataset": {"name": "cifar10", "split": "test", "hash": "sha256:data", "canonical": True},
        "model": {"kind": "checkpoint", "hash": f"sha256:{index}", "selection": "last epoch"},
        "protocol": protocol(index),
        "n_examples": n,
        "examples": {"first": 0, "count": n},
        "seed": 0,
        "clean_accuracy": counted[0],
        "robust_accuracy": counted[-1],
        "attacks": {
            name: {**counts, "forwards": 21.0, "backwards": 20.0}
            for name, counts in zip(ATTACKS, counted[1:], strict=True)
        },
        "outcomes": {
            "encoding": "packbits-base64",
            "clean": pack_outcomes(clean),
            "attacks": {
                name: pack_outcomes(bits) for name, bits in zip(ATTACKS, robust, strict=True)
            },
            "labels": labels,
        },
        "flags": [],
        "checks": {flag.name: {"value": 0.0, "points": n} for flag in FLAGS},
        "status": "verified",
        "settings": {"batch_size": 500, "chunk_size": 500, "threads": 1, "device": "cuda"},
        "git_commit": "0123456789abcdef",
        "environment": {"versions": {"torch": "2.13.0", "numpy": "2.4.6"}, "device_name": "none"},
    }


def protocol(index: int) -> dict[str, object]:
    """What a result stores of its protocol, which is one of `GROUPS`."""
    eps = f"{1 + index % GROUPS}/255"
    plan: dict[str, object] = {
        "id": f"linf_standard@{eps}.v2",
        "name": "linf_standard",
        "version": 2,
        "norm": "Linf",
        "eps": eps,
        "eps_value": (1 + index % GROUPS) / 255,
        "engine": "ours",
        "engine_version": "1",
        "attacks": [
            {"name": name, "title": name, "attack": "pgd", **PARAMETERS} for name in ATTACKS
        ],
    }
    return {**plan, "hash": protocol_hash(plan)}


def timed(what: str, action: Callable[[], T]) -> T:
    wall, cpu = time.perf_counter(), time.process_time()
    value = action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:<28}{wall:7.2f} s, {cpu:6.2f} s of CPU", flush=True)
    return value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=1000, help="examples of each result")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = pack_labels(rng.integers(0, 10, arguments.n))
    with tempfile.TemporaryDirectory() as folder:
        for index in range(arguments.rows):
            path = Path(folder, f"{index:05d}", "result.json")
            path.parent.mkdir()
            path.write_text(json.dumps(result(index, arguments.n, labels, rng), indent=2) + "\n")
        print(
            f"{arguments.rows} results of {arguments.n} examples, {path.stat().st_size} bytes each"
        )
        files = find_results([folder])
        timed(
            "floor: read and parse only",
            lambda: [msgspec.json.decode(f.read_bytes()) for f in files],
        )
        results = timed("find, read and check", lambda: load_results([folder]))
        table = timed("rank and build the table", lambda: build_table(results))
        for format in ("terminal", "markdown", "csv", "latex", "json"):
            timed(f"render {format}", lambda format=format: render(table, format))
        page = timed("render the page", lambda: render_page(results, title="Leaderboard"))
        print(f"the page has {len(page) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
