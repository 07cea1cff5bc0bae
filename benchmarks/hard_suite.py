"""The test suite where it is most likely to fail: vector units, threads, orders, a busy machine.

    python benchmarks/hard_suite.py                              # `make test-hard`
    python benchmarks/hard_suite.py --only busy -- tests/attacks/test_pgd.py -k box

Runs pytest, slow tests included, with `ATEN_CPU_CAPABILITY` = default, avx2 and unset, on 1 and 2
threads, each time in another random order, and once beside two processes that never rest. A run
that fails does not end it. It prints a table of the runs and which test failed in which of them.
The exit code is 1 if anything failed. Logs lie in `--out`; what follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

PARALLEL = ("--numprocesses", "auto", "--maxprocesses", "4", "--dist", "worksteal")


@dataclass(frozen=True)
class Run:
    """One run of the suite: vector unit ("" for the machine's own), threads, busy neighbours."""

    capability: str
    threads: int
    busy: int = 0

    @property
    def name(self) -> str:
        ending = "-busy" if self.busy else ""
        return f"{self.capability or 'unset'}-{self.threads}{ending}"


RUNS = [Run(unit, threads) for unit in ("default", "avx2", "") for threads in (1, 2)]
RUNS.append(Run("", 1, busy=2))


@dataclass(frozen=True)
class Outcome:
    """What a run gave. `failed` names tests; `code` is pytest's exit code."""

    run: Run
    seed: int
    code: int
    passed: int
    skipped: int
    failed: tuple[str, ...]
    seconds: float


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """As many processes that use a core each while the block runs."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_suite(run: Run, seed: int, out: Path, arguments: list[str]) -> Outcome:
    """Run pytest once; its output goes to `out`."""
    environment = {**os.environ, "RBL_TEST_THREADS": str(run.threads)}
    environment.pop("ATEN_CPU_CAPABILITY", None)
    if run.capability:
        environment["ATEN_CPU_CAPABILITY"] = run.capability
    report, log = out / f"{run.name}.xml", out / f"{run.name}.log"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *PARALLEL, "--shuffle", str(seed)]
    command += [f"--junitxml={report}", *arguments]
    begin = time.monotonic()
    with busy_processes(run.busy), log.open("wb") as file:
        code = subprocess.run(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    passed, skipped, failed = read_report(report)
    return Outcome(run, seed, code, passed, skipped, failed, time.monotonic() - begin)


def read_report(report: Path) -> tuple[int, int, tuple[str, ...]]:
    """Number of tests passed and skipped, and the names of those that failed."""
    if not report.exists():
        return 0, 0, ()
    passed, skipped, failed = 0, 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        found = {child.tag for child in case}
        if found & {"failure", "error"}:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in found:
            skipped += 1
        else:
            passed += 1
    return passed, skipped, tuple(failed)


def table(outcomes: list[Outcome]) -> str:
    """The runs as a Markdown table, then each failed test with the runs in which it failed."""
    lines = [
        "| ATEN_CPU_CAPABILITY | threads | beside | order | passed | skipped | failed | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        beside = f"{one.run.busy} busy processes" if one.run.busy else "nothing"
        failed = str(len(one.failed)) if one.failed or one.code == 0 else f"pytest ended {one.code}"
        cells = (one.run.capability or "unset", one.run.threads, beside, one.seed)
        cells += (one.passed, one.skipped, failed, round(one.seconds))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    where: dict[str, list[str]] = {}
    for one in outcomes:
        for test in one.failed:
            where.setdefault(test, []).append(one.run.name)
    lines += [f"FAILED {test}: {', '.join(runs)}" for test, runs in sorted(where.items())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/test-hard"), help="for the logs")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the orders")
    parser.add_argument("--only", default="", help="runs whose name has this, such as avx2 or busy")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = [run for run in RUNS if arguments.only in run.name]
    if not runs:
        parser.error(f"--only {arguments.only}: runs are {', '.join(run.name for run in RUNS)}")
    outcomes = []
    for number, run in enumerate(runs):
        print(f"{number + 1} of {len(runs)}: {run.name}", flush=True)
        seed = arguments.seed + number
        outcomes.append(run_suite(run, seed, arguments.out.resolve(), arguments.pytest))
    print(table(outcomes))
    sys.exit(any(one.code for one in outcomes))


if __name__ == "__main__":
    main()
