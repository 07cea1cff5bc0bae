"""`rbl train`: a recipe to a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from robustbench_lite.recipe import Recipe


def run(arguments: argparse.Namespace) -> None:
    """Train, and say what came out and what to do with it."""
    from robustbench_lite.cli.progress import training_bar
    from robustbench_lite.datasets import load_split
    from robustbench_lite.numerics import choose_device
    from robustbench_lite.recipe import load_recipe
    from robustbench_lite.training import train

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    device = choose_device(arguments.device)
    data = load_split(recipe.data.name, "train", data_dir=arguments.data_dir, progress=True)
    out = Path(arguments.out or f"runs/{recipe.name}")
    best = train(
        recipe,
        data,
        out=out,
        device=device,
        threads=arguments.threads,
        progress=training_bar(),
    )
    print(summary(recipe, best))


def summary(recipe: Recipe, best: Path) -> str:
    """What was chosen, on how many examples, and the command that evaluates it."""
    metrics = json.loads((best / "card.json").read_text(encoding="utf-8"))["metrics"]
    section = recipe.validation
    eps = recipe.as_dict()["validation"]["eps"]
    protocol = "linf_standard" if section.norm == "Linf" else "l2_standard"
    return (
        f"best epoch {metrics['epoch']:.0f} of {recipe.training.epochs}: clean "
        f"{100 * metrics['clean_accuracy']:.2f} %, robust {100 * metrics['robust_accuracy']:.2f} % "
        f"on {recipe.data.validation} held-out examples (PGD-{section.steps}, {section.norm} {eps})"
        f"\ncheckpoint: {best}\n"
        f"next: rbl evaluate {best} --protocol {protocol} --eps {eps}"
    )
