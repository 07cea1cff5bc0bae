"""An evaluation killed at random moments ends with the same bytes as an unbroken one.

    python benchmarks/killed.py --kills 10 --seconds 900 --out DIR -- \
        CHECKPOINT --protocol linf_standard --eps 0.15 --n 2000 --chunk-size 100 --data-dir DATA

Runs `rbl evaluate` with the arguments after `--` once unbroken into DIR/whole (unless it is there)
and once into DIR/killed, where the process gets SIGKILL at random moments, about `--seconds`
divided by `--kills` apart, and is started again. Then every file of both folders is
compared, but for timings and temporary files.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path


def start(arguments, out):
    command = [sys.executable, "-m", "robustbench_lite", "evaluate", *arguments, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def digests(folder):
    """SHA-256 by relative path; seconds are not part of a result."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("timing") and path.suffix != ".tmp"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, required=True, help="of an unbroken run, about")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("evaluate", nargs="+", help="arguments of rbl evaluate, after --")
    arguments = parser.parse_args()
    whole, killed = arguments.out / "whole", arguments.out / "killed"
    together = start(arguments.evaluate, whole)  # beside the killed one
    moments = random.Random(arguments.seed)
    for kill in range(arguments.kills):
        process = start(arguments.evaluate, killed)
        wait = moments.uniform(0.3, 1.7) * arguments.seconds / arguments.kills
        begin = time.monotonic()
        while process.poll() is None and time.monotonic() - begin < wait:
            time.sleep(0.05)
        if process.poll() is not None:
            sys.exit(f"finished before kill {kill + 1}: give fewer --seconds")
        process.kill()
        process.wait()
        parts = len(list(killed.glob("parts/*/*.parquet")))
        print(f"kill {kill + 1}: after {wait:.0f} s, {parts} parts are there", flush=True)
    if start(arguments.evaluate, killed).wait() or together.wait():
        sys.exit("an evaluation failed: run it by hand to see why")
    one, two = digests(whole), digests(killed)
    differing = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    print(f"{len(one)} files, differing: {', '.join(differing) or 'none'}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
