"""`torchvision:NAME[.WEIGHTS][@FILE]`: classification networks of torchvision."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from robustbench_lite.checkpoints.sources.contract import (
    SourceNetwork,
    known_name,
    name_and_file,
    normalized,
    optional_package,
    with_weights,
)


def load(spec: str) -> SourceNetwork:
    """A pretrained network of torchvision, or one of its architectures with weights of a file.

    Normalisation and image size are those of the weights; with a file, those of the
    architecture's default weights.

    Args:
        spec: `NAME` with the default weights, `NAME.WEIGHTS` such as `resnet50.IMAGENET1K_V1`, both
            downloaded by torchvision; or `NAME@FILE`.

    Raises:
        InputError: for a library that is missing, an unknown name, or weights that do not fit.
    """
    models = optional_package("torchvision.models", wanted_by="torchvision:")
    wanted, path = name_and_file(spec)
    name, _, tag = wanted.partition(".")
    known_name("torchvision", name, models.list_models(module=models))
    offered = models.get_model_weights(name)
    known_name(f"torchvision's {name}", tag or "DEFAULT", [*offered.__members__])
    weights = offered[tag or "DEFAULT"]
    if path is None:
        model: nn.Module = models.get_model(name, weights=weights)
    else:
        model = with_weights(partial(_build, models, name), path)
    preset = weights.transforms()
    size = preset.crop_size[0]
    return SourceNetwork(
        name=f"{name}@{path.name}" if path else f"{name}.{weights.name}",
        model=normalized(model, preset.mean, preset.std),
        identity={"architecture": name},
        image_shape=(len(preset.mean), size, size),
    )


def _build(models: Any, name: str, classes: int | None) -> nn.Module:
    """Without weights; googlenet and inception otherwise draw theirs for a minute."""
    slow = name in ("googlenet", "inception_v3")
    given = {"num_classes": classes, "init_weights": False if slow else None}
    options = {key: value for key, value in given.items() if value is not None}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model
