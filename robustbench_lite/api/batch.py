"""The batch and the networks of a training loop of one's own, checked before they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.api.identity import pieces_of
from robustbench_lite.api.network import FunctionNetwork
from robustbench_lite.checkpoints.user_network import UserNetwork
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.splits import check_labels, label_cure

Model = nn.Module | Callable[[Tensor], Any]


class CheckedNetwork(UserNetwork):
    """The caller's network: logits in float32 at least, and labels that fit their number.

    Args:
        network: a module or a function that maps images (B, C, H, W) to logits (B, K), or to
            something that holds them.
        y: labels (B,), compared with K in the first pass.
        counts: training images of each class, one for each logit; None where they play no part.
    """

    def __init__(self, network: Model, y: Tensor, counts: Tensor | None = None) -> None:
        if isinstance(network, type) or not callable(network):
            raise InputError(f"model is {described(network)}; give an nn.Module or a function")
        name = getattr(network, "__name__", type(network).__name__)
        if not isinstance(network, nn.Module):
            network = FunctionNetwork(network, pieces_of(network))
        super().__init__(network, name)
        if any(one.is_inference() for one in network.parameters()):
            raise InputError(
                f"model {self.name} was made under torch.inference_mode, so its weights can have "
                "no gradients: make it outside"
            )
        self.y, self.counts = y, counts

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K); half precision becomes float32, as losses need it."""
        is_first = self.classes is None
        logits = super().forward(x)
        if is_first:
            check_labels(self.y, logits.shape[1], "this batch")
            if self.counts is not None and len(self.counts) != logits.shape[1]:
                raise InputError(
                    f"class_counts holds {len(self.counts)} numbers, and model {self.name} gives "
                    f"{logits.shape[1]} logits: give one number for each class"
                )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_batch(x: Tensor, y: Tensor) -> None:
    """Raise InputError unless x holds images (B, C, H, W) of a float type, and y int64 (B,)."""
    check_images("x", x)
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != x.shape[:1]:
        cure = label_cure(y) if isinstance(y, Tensor) else ""
        raise InputError(f"y is {described(y)}; it must be int64 ({len(x)},), as x has rows{cure}")
    if y.device != x.device:
        raise InputError(f"x is on {x.device}, y on {y.device}: put both on one device")


def check_images(name: str, images: Tensor, like: Tensor | None = None) -> None:
    """Raise InputError unless `images` are (B, C, H, W) of a float type, B at least 1.

    Args:
        name: of the argument, for the message.
        images: to be checked; their values are not read.
        like: images whose size, type and device they must have.
    """
    whole = isinstance(images, Tensor) and images.ndim == 4 and len(images) > 0
    if not whole or not images.is_floating_point():
        raise InputError(
            f"{name} is {described(images)}; it must be images (B, C, H, W) of a floating-point "
            "type in [0, 1]: divide uint8 by 255, and give one image as image[None]"
        )
    if like is None:
        return
    if images.shape[1:] != like.shape[1:] or images.dtype != like.dtype:
        raise InputError(f"{name} is {described(images)}, x is {described(like)}: make them alike")
    if images.device != like.device:
        raise InputError(f"x is on {like.device}, {name} on {images.device}: put both on one")


def described(value: object) -> str:
    """A tensor as its type and shape, anything else as its class."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
