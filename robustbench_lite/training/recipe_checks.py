"""Values of a recipe that have the right type and are wrong all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from robustbench_lite.training.recipe import Recipe
    from robustbench_lite.training.recipe_expansion import Origin


def check_values(recipe: Recipe, origin: Origin) -> None:
    """Check what no single key says: choices and numbers that exclude each other.

    Args:
        recipe: complete and typed.
        origin: where its keys stand.

    Raises:
        InputError: names the file, the key, its value and what is allowed.
    """

    def refuse(message: str, *keys: str) -> NoReturn:
        raise InputError(f"recipe {origin.of(*keys)}: {message}")

    _check_label_loss(recipe, refuse)
    _check_extra(recipe, refuse)
    training, validation, optimizer = recipe.training, recipe.validation, recipe.optimizer
    try:
        ThreatModel(validation.norm, validation.eps)
    except InputError as error:
        refuse(str(error), "validation.eps")
    for section in ("defense", "weight_perturbation"):
        begin, key = getattr(getattr(recipe, section), "begin_epoch", 0), f"{section}.begin_epoch"
        if begin > training.epochs:
            refuse(
                f"{key}={begin} is after the last of training.epochs={training.epochs}: "
                f"{recipe.chosen[section]!r} would never begin",
                *(key, "training.epochs"),
            )
    if optimizer.nesterov and optimizer.momentum == 0.0:
        keys = ("optimizer.nesterov", "optimizer.momentum")
        refuse("optimizer.nesterov needs a momentum above 0", *keys)


def _check_extra(recipe: Recipe, refuse: Callable[..., NoReturn]) -> None:
    """Extra images: a file, and at least one of them in each batch."""
    data, batch_size = recipe.data, recipe.training.batch_size
    if not data.extra and (data.extra_fraction or data.extra_hash):
        key = "extra_fraction" if data.extra_fraction else "extra_hash"
        refuse(f"data.{key} is given without data.extra, the .npz of extra images", f"data.{key}")
    if data.extra and not data.extra_images(batch_size):
        refuse(
            f"data.extra_fraction={data.extra_fraction} gives no extra image in a batch of "
            f"{batch_size}: set it to their share of each batch, such as 0.7",
            *("data.extra_fraction", "data.extra"),
        )
    if data.extra and recipe.chosen["imbalance"] != "none":
        refuse(
            f"data.extra with imbalance.name={recipe.chosen['imbalance']!r}: extra images would "
            "change the numbers of the classes; leave one of them out",
            *("data.extra", "imbalance.name"),
        )


def _check_label_loss(recipe: Recipe, refuse: Callable[..., NoReturn]) -> None:
    """Some methods are themselves only with one label loss."""
    needed, label_loss = recipe.defense.required_label_loss, recipe.chosen["label_loss"]
    smoothing = getattr(recipe.label_loss, "smoothing", None)
    if needed is not None and label_loss != needed:
        refuse(
            f"label_loss.name={label_loss!r}, but defense {recipe.defense_name!r} is itself only "
            f"with {needed!r}",
            *("label_loss.name", "defense.name"),
        )
    if needed is not None and smoothing:
        refuse(
            f"label_loss.smoothing={smoothing}, but defense {recipe.defense_name!r} has no "
            "smoothed labels: set 0.0",
            *("label_loss.smoothing", "defense.name"),
        )
