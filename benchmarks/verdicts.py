"""AutoAttack's verdicts, stage by stage and seed by seed: the reference against itself and ours.

    python benchmarks/verdicts.py run CHECKPOINT --eps 0.15 --n 1000 --engine reference --out DIR
    python benchmarks/verdicts.py run CHECKPOINT --eps 0.15 --n 1000 --engine ours --out DIR
    python benchmarks/verdicts.py compare DIR

`run` writes a JSON per (engine, seed): which examples stand after each stage; seeds that are there
already are not run again. `compare` prints a table per stage and the examples that any two runs
judge differently. The verdict of every stage is a forward pass of the plain network.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from attack_sides import STAGES, load, our_stage, predictions, reference_stage

from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.core.numerics import deterministic, plain_numerics
from robustbench_lite.verifier import verify


def run(arguments):
    """One JSON per seed."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    model, x, y = load(arguments)
    n = len(x)
    threat = ThreatModel("Linf", parse_eps(arguments.eps))
    for seed in arguments.seeds:
        path = arguments.out / f"{arguments.engine}-{seed}.json"
        if path.exists():
            continue
        with deterministic(threads=1, seed=seed), plain_numerics():
            standing = predictions(model, x) == y
            record = {"clean": standing.nonzero().flatten().tolist()}
            for stage in STAGES:
                ids = standing.nonzero().flatten()
                if len(ids):
                    terms = {"norm": threat.norm, "eps": float(threat.eps), "seed": seed}
                    terms["batch_size"] = arguments.batch_size
                    if arguments.engine == "ours":
                        network = search_network(
                            model, precision="float32", device=x.device, like=x[0]
                        ).module
                        terms |= {"ids": ids, "network": network}
                    attack = our_stage if arguments.engine == "ours" else reference_stage
                    x_adv = attack(stage, model, x[ids], y[ids], **terms)
                    verdict = verify(model, x[ids], x_adv, y[ids], threat=threat, batch_size=250)
                    standing[ids[verdict.broken]] = False
                record[stage] = standing.nonzero().flatten().tolist()
                print(arguments.engine, seed, stage, len(record[stage]), "of", n, flush=True)
        path.write_text(json.dumps({"n": n, "standing": record}))


def compare(arguments):
    """The tables."""
    runs = {}
    for path in sorted(arguments.out.glob("*-*.json")):
        engine, seed = path.stem.rsplit("-", 1)
        runs[engine, int(seed)] = json.loads(path.read_text())
    n = next(iter(runs.values()))["n"]
    print("| engine | seed | " + " | ".join(("clean", *STAGES)) + " |")
    print("|---|---|" + "---|" * (len(STAGES) + 1))
    for (engine, seed), record in runs.items():
        counts = [str(len(record["standing"][stage])) for stage in ("clean", *STAGES)]
        print(f"| {engine} | {seed} | " + " | ".join(counts) + " |")
    print(f"\nrobust of {n}; examples that not every run judges alike at the end:")
    final = {run: set(record["standing"][STAGES[-1]]) for run, record in runs.items()}
    differing = sorted(set.union(*final.values()) - set.intersection(*final.values()))
    for example in differing:
        broken = {
            engine: f"{sum(example not in final[r] for r in final if r[0] == engine)} of "
            f"{sum(r[0] == engine for r in final)}"
            for engine in dict.fromkeys(r[0] for r in final)
        }
        print(f"  {example}: broken by " + ", ".join(f"{k} {v} seeds" for k, v in broken.items()))
    if not differing:
        print("  none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("checkpoint")
    one.add_argument("--eps", required=True)
    one.add_argument("--n", type=int)
    one.add_argument("--engine", choices=("ours", "reference"), required=True)
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    one.add_argument("--batch-size", type=int, default=250)
    one.add_argument("--data-dir")
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(go=run, architecture=None, device="cpu")
    two = commands.add_parser("compare")
    two.add_argument("out", type=Path)
    two.set_defaults(go=compare)
    arguments = parser.parse_args()
    arguments.go(arguments)


if __name__ == "__main__":
    main()
