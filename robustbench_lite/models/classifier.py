"""What every built-in network is: a normalisation layer, features, and a linear or cosine head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core.errors import InputError

HeadKind = Literal["linear", "cosine"]


class Normalize(nn.Module):
    """`(x - mean) / std` per channel: the only place where pixels leave [0, 1].

    The two buffers are not part of the `state_dict`: the checkpoint card states them, once.

    Args:
        mean: per channel, in [0, 1] units.
        std: per channel, in [0, 1] units, above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        shape = (1, len(mean), 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] to images of about zero mean and unit spread."""
        return (x - self.mean) / self.std


class CosineHead(nn.Module):
    """Logits are cosines, in [-1, 1]: unit-norm features times unit-norm class vectors, no bias.

    The normalised classifier of LDAM (Cao et al. 2019, arXiv:1906.07413, Sec. 3.2), `NormedLinear`
    in the authors' code, initialised as there: uniform directions scaled to norm 1. Its
    scale s and margins are the loss's. Zero features give zero logits.

    Args:
        in_features: d.
        num_classes: K.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features = in_features
        directions = torch.empty(num_classes, in_features).uniform_(-1.0, 1.0)
        self.weight = nn.Parameter(F.normalize(directions, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Features `(B, d)` -> cosines `(B, K)`."""
        return F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


def make_head(kind: HeadKind, in_features: int, num_classes: int) -> nn.Linear | CosineHead:
    """The last layer of a network, by the option `head`.

    Raises:
        InputError: for another kind.
    """
    if kind not in get_args(HeadKind):
        raise InputError(f'head={kind!r} must be "linear" or "cosine"')
    if kind == "cosine":
        return CosineHead(in_features, num_classes)
    return nn.Linear(in_features, num_classes)


class Classifier(nn.Module):
    """A network whose logits are `head(features(x))`; a family adds `features` and `head`.

    Module names follow the public code of each family, so that released weights load; only the
    last layer has one name everywhere (`head`) and `public_names` maps the family's own to it.

    Args:
        mean: per channel, or None for no normalisation.
        std: per channel, or None for no normalisation.
    """

    public_names: ClassVar[Mapping[str, str]] = {}
    """How keys begin in the family's public code (whole dotted parts) -> ours, if not equal."""

    unused_modules: ClassVar[tuple[str, ...]] = ()
    """Modules that released weights contain and no forward pass of the public code uses."""

    build_arguments: Mapping[str, object]
    """What `build_model` was called with (else empty); `save_checkpoint` checks the card by it."""

    head: nn.Linear | CosineHead

    def __init__(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
        super().__init__()
        self.build_arguments = {}
        plain = mean is None or std is None
        self.normalize: nn.Module = nn.Identity() if plain else Normalize(mean or (), std or ())

    def features(self, x: Tensor) -> Tensor:
        """The input of the last layer: `(B, C, H, W)` in [0, 1] -> `(B, d)`."""
        raise NotImplementedError(f"{type(self).__name__} must define features(x)")

    def forward(self, x: Tensor) -> Tensor:
        """Logits: `(B, C, H, W)` in [0, 1] -> `(B, K)`."""
        logits: Tensor = self.head(self.features(x))
        return logits
