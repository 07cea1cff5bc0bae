"""`rbl train`: a recipe to a checkpoint."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.cli.options import add_data, add_place, chosen_data

if TYPE_CHECKING:
    from robustbench_lite.training.loop import TrainingProgress
    from robustbench_lite.training.recipe import Recipe


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl train`."""
    parser.epilog = (
        "Every key of the recipe can be overridden: --training.epochs 5 "
        "--defense.crafting.eps 8/255. `rbl list recipes` names the recipes."
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name, or a .toml file")
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/RECIPE)")
    parser.add_argument(
        "--log",
        action="append",
        metavar="NAME",
        help="send the metrics of each epoch to tensorboard, wandb, mlflow or aim, where it is "
        "installed; may be repeated",
    )
    add_data(parser, splits=False, default="that of the recipe")
    parser.add_argument(
        "--allow-code", action="store_true", help="let --dataset run the code of its file"
    )
    add_place(parser)
    parser.set_defaults(takes_overrides=True, resumes=True)


def run(arguments: argparse.Namespace) -> None:
    """Train, and say what came out and what to do with it."""
    from robustbench_lite.checkpoints.checkpoint import load_checkpoint
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.training.loop import train
    from robustbench_lite.training.progress_bar import training_bar
    from robustbench_lite.training.recipe import load_recipe
    from robustbench_lite.training.trackers import RunLog

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    device = choose_device(arguments.device)
    arguments.split = "train"
    data = chosen_data(arguments, recipe.data.name)
    if arguments.dataset is not None:
        recipe = load_recipe(arguments.recipe, [*arguments.overrides, "--data.name", data.name])
    out = Path(arguments.out or f"runs/{recipe.name}")
    log, show = RunLog(out, recipe, arguments.log or []), training_bar()

    def report(progress: TrainingProgress) -> None:
        show(progress)
        log(progress)

    best = train(
        recipe,
        data,
        out=out,
        device=device,
        threads=arguments.threads,
        progress=report,
    )
    log.close()
    load_checkpoint(best)  # a finished run is not trained again: its files may have been damaged
    print(summary(recipe, best))


def summary(recipe: Recipe, best: Path) -> str:
    """What was chosen, on how many examples, and the command that evaluates it."""
    from robustbench_lite.checkpoints.card import read_card

    metrics = read_card(best / "card.json").metrics
    section = recipe.validation
    eps = recipe.as_dict()["validation"]["eps"]
    protocol = "linf_standard" if section.norm == "Linf" else "l2_standard"
    return (
        f"best epoch {metrics['epoch']:.0f} of {recipe.training.epochs}: clean "
        f"{100 * metrics['clean_accuracy']:.2f} %, robust {100 * metrics['robust_accuracy']:.2f} % "
        f"on {recipe.data.validation} held-out examples (PGD-{section.steps}, {section.norm} {eps})"
        f"{_before_weights(recipe, metrics['epoch'])}\ncheckpoint: {best}\n"
        f"next: rbl evaluate {shlex.quote(str(best))} --protocol {protocol} --eps {eps}"
    )


def _before_weights(recipe: Recipe, epoch: float) -> str:
    """A line when the chosen epoch is one in which the method had not begun to weigh."""
    begin = getattr(recipe.defense, "begin_epoch", 1)
    if epoch >= begin:
        return ""
    return (
        f"\nnote: {recipe.defense_name} weighs examples from epoch {begin} on, so this is not yet "
        "its network; last/ is"
    )
