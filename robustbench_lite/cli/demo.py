"""`rbl demo`: the whole job on digits, offline, in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

RECIPES = ("digits_standard", "digits_pgd_at", "digits_trades")
PROTOCOL, EPS = "linf_standard", "0.15"


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl demo`."""
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.set_defaults(resumes=True)


def run(arguments: argparse.Namespace) -> None:
    """Train, evaluate, rank; a second call finds everything done."""
    from robustbench_lite.attacks.protocol import load_protocol
    from robustbench_lite.checkpoints.model_source import resolve_model
    from robustbench_lite.cli.train import summary
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.datasets import load_split
    from robustbench_lite.evaluation.evaluate import Settings, evaluate
    from robustbench_lite.evaluation.progress_bar import evaluation_bar
    from robustbench_lite.leaderboard import build_table, load_result, render, write_page
    from robustbench_lite.training.loop import train
    from robustbench_lite.training.progress_bar import training_bar
    from robustbench_lite.training.recipe import load_recipe

    out, device = Path(arguments.out), choose_device(arguments.device)
    train_split, test_split = load_split("digits", "train"), load_split("digits", "test")
    protocol = load_protocol(PROTOCOL, eps=EPS)
    results = []
    for name in RECIPES:
        recipe = load_recipe(name)
        print(f"training {name}", flush=True)
        best = train(recipe, train_split, out=out / name, device=device, progress=training_bar())
        print(summary(recipe, best).splitlines()[0])
        print(f"attacking it with {protocol.id} on {len(test_split)} test images", flush=True)
        folder = out / "results" / name
        evaluate(
            resolve_model(str(best), allow_code=False, device="cpu"),
            test_split,
            protocol,
            out=folder,
            n=None,
            seed=0,
            settings=Settings(),
            device=device,
            progress=evaluation_bar(name),
        )
        results.append(load_result(folder))
    page = out / "leaderboard.html"
    write_page(page, results, title="Robustness leaderboard: digits")
    print(f"\n{render(build_table(results), 'terminal')}\n")
    print(f"page: {page.resolve()}")
