"""Networks by name; normalisation is a layer inside each.

Listing names imports no network and no torch: `MODELS` holds `"module:builder"` strings.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_lite.core.describe_diff import first_line
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "architecture_options", "build_model"]

_HERE = "robustbench_lite.models"

MODELS = Registry(
    "architecture",
    {
        "small_cnn": Entry(
            f"{_HERE}.small_cnn:SmallCnn",
            "2 convolutions, 2 linear layers; 28x28, 32x32 and 8x8 images",
            "Wong & Kolter 2018, arXiv:1711.00851",
        ),
        "trades_small_cnn": Entry(
            f"{_HERE}.trades_small_cnn:TradesSmallCnn",
            "4 convolutions, 3 linear layers, dropout; 28x28 and 32x32 images",
            "Zhang et al. 2019 (TRADES), arXiv:1901.08573, authors' code",
        ),
        "preact_resnet18": Entry(
            f"{_HERE}.preact_resnet:PreActResNet18",
            "pre-activation ResNet-18, CIFAR stem",
            "He et al. 2016, arXiv:1603.05027; as in Rice et al. 2020, arXiv:2002.11569",
        ),
        "resnet18": Entry(
            f"{_HERE}.resnet:resnet18",
            "ResNet-18, CIFAR stem, strides 1,2,2,2",
            "He et al. 2015, arXiv:1512.03385",
        ),
        "resnet18_wide_map": Entry(
            f"{_HERE}.resnet:resnet18_wide_map",
            "ResNet-18 with strides 1,1,2,2: LBGAT's natural network",
            "Cui et al. 2021, arXiv:2011.11164, authors' code",
        ),
        "densenet_bc_100_12": Entry(
            f"{_HERE}.densenet:densenet_bc_100_12",
            "DenseNet-BC, depth 100, growth 12: ALOE's network",
            "Huang et al. 2017, arXiv:1608.06993; as in Chen et al. 2020, arXiv:2003.09711",
        ),
        "wrn28_10": Entry(
            f"{_HERE}.wide_resnet:wrn28_10",
            "WideResNet-28-10, no dropout",
            "Zagoruyko & Komodakis 2016, arXiv:1605.07146",
        ),
        "wrn34_10": Entry(
            f"{_HERE}.wide_resnet:wrn34_10",
            "WideResNet-34-10, no dropout",
            "Zhang et al. 2019 (TRADES), arXiv:1901.08573, authors' code",
        ),
        "wrn34_20": Entry(
            f"{_HERE}.wide_resnet:wrn34_20",
            "WideResNet-34-20, no dropout",
            "Rice et al. 2020, arXiv:2002.11569",
        ),
    },
    "robustbench_lite.models",
)

_SHARED_ARGUMENTS = ("num_classes", "in_channels", "image_size", "mean", "std")


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    **kwargs: object,
) -> nn.Module:
    """Build a registered network with freshly initialised weights.

    Args:
        name: a key of `MODELS`.
        num_classes: K, the number of logits.
        in_channels: C of the images.
        image_size: `(H, W)` of the images in pixels.
        mean: per channel, in [0, 1] units, subtracted by the first layer; None for no such layer.
        std: per channel, in [0, 1] units, the divisor of that layer; None when `mean` is None.
        **kwargs: options of this one architecture, such as `final_bn` of `preact_resnet18`.

    Returns:
        A float32 module in training mode: `(B, C, H, W)` in [0, 1] -> logits `(B, K)`; the built-in
        ones also have `features(x) -> (B, d)` and `head`.

    Raises:
        InputError: for an unknown architecture or option, or numbers that make no network.
    """
    from torch import nn

    from robustbench_lite.models.classifier import Classifier

    builder = MODELS.load(name)
    _check_options(name, builder, kwargs)
    _check_sizes(num_classes, in_channels, image_size)
    _check_normalization(in_channels, mean, std)
    try:
        model = builder(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            mean=mean,
            std=std,
            **kwargs,
        )
    except InputError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise InputError(
            f"architecture {name!r} cannot be built with num_classes={num_classes}, "
            f"image_size={image_size} and options {str(kwargs)[:80]}: {first_line(error)[:120]}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"architecture {name!r} gave a {type(model).__name__}; "
            "its builder must return an nn.Module"
        )
    if isinstance(model, Classifier):
        model.build_arguments = {
            "architecture": name,
            "architecture_kwargs": dict(kwargs),
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": tuple(image_size),
            "mean": None if mean is None else tuple(float(value) for value in mean),
            "std": None if std is None else tuple(float(value) for value in std),
        }
    return model


def architecture_options(name: str) -> dict[str, object]:
    """The options of a registered architecture and their defaults, `"required"` without one.

    Raises:
        InputError: for an unknown architecture, or one that cannot be imported.
    """
    parameters = inspect.signature(MODELS.load(name)).parameters
    return {
        option: "required" if parameter.default is parameter.empty else parameter.default
        for option, parameter in parameters.items()
        if option not in _SHARED_ARGUMENTS
    }


def _check_options(name: str, builder: Callable[..., object], kwargs: dict[str, object]) -> None:
    parameters = inspect.signature(builder).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    options = [option for option in parameters if option not in _SHARED_ARGUMENTS]
    unknown = [key for key in kwargs if key not in options]
    if unknown:
        raise InputError(
            f"architecture {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"its options: {', '.join(options) or 'none'}"
        )


def _check_sizes(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
    if num_classes < 2:
        raise InputError(f"num_classes={num_classes} is too small: a classifier needs at least 2")
    if in_channels < 1:
        raise InputError(f"in_channels={in_channels} is too small: images have at least 1 channel")
    if len(image_size) != 2 or min(image_size) < 1:
        raise InputError(f"image_size={image_size} must be (height, width), both at least 1 pixel")


def _check_normalization(
    in_channels: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> None:
    if mean is None and std is None:
        return
    if mean is None or std is None:
        raise InputError(f"mean={mean}, std={std}: give both, or neither for no normalisation")
    if len(mean) != in_channels or len(std) != in_channels:
        raise InputError(
            f"mean={mean}, std={std}: each needs one number for each of {in_channels} channels"
        )
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise InputError(f"mean={mean}, std={std}: numbers must be finite and std above 0")
