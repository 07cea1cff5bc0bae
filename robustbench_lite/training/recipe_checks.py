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
    """Check ranges that types do not say, and choices that exclude each other.

    Args:
        recipe: complete and typed.
        origin: where its keys stand.

    Raises:
        InputError: names the file, the key, its value and what is allowed.
    """

    def refuse(message: str, *keys: str) -> NoReturn:
        raise InputError(f"recipe {origin.of(*keys)}: {message}")

    _check_label_loss(recipe, refuse)
    training, validation, optimizer = recipe.training, recipe.validation, recipe.optimizer
    try:
        ThreatModel(validation.norm, validation.eps)
    except InputError as error:
        refuse(str(error), "validation.eps")
    for key, value, lowest in (
        ("training.epochs", training.epochs, 1),
        ("training.batch_size", training.batch_size, 2),
        ("data.validation", recipe.data.validation, 1),
        ("data.crop_padding", recipe.data.crop_padding, 0),
        ("validation.every", validation.every, 1),
        ("validation.steps", validation.steps, 1),
    ):
        if value < lowest:
            refuse(f"{key}={value} must be at least {lowest}", key)
    for section in ("defense", "weight_perturbation"):
        begin, key = getattr(getattr(recipe, section), "begin_epoch", 0), f"{section}.begin_epoch"
        if begin > training.epochs:
            refuse(
                f"{key}={begin} is after the last of training.epochs={training.epochs}: "
                f"{recipe.chosen[section]!r} would never begin",
                *(key, "training.epochs"),
            )
    if not 0.0 <= training.ema_decay < 1.0:
        refuse(f"training.ema_decay={training.ema_decay} is not in [0, 1)", "training.ema_decay")
    if not 0 <= training.seed < 2**63:
        refuse(f"training.seed={training.seed} is not in [0, 2**63)", "training.seed")
    for key, rate in (
        ("optimizer.momentum", optimizer.momentum),
        ("optimizer.weight_decay", optimizer.weight_decay),
    ):
        if rate < 0.0:
            refuse(f"{key}={rate}: momentum and weight_decay are at least 0", key)
    if optimizer.nesterov and optimizer.momentum == 0.0:
        keys = ("optimizer.nesterov", "optimizer.momentum")
        refuse("optimizer.nesterov needs a momentum above 0", *keys)
    if optimizer.lr <= 0.0:
        refuse(f"optimizer.lr={optimizer.lr} must be above 0", "optimizer.lr")


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
