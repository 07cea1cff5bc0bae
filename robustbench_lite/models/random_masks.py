"""Fixed random masks on feature maps (Luo et al., "Random Mask", arXiv:2007.14249)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import fold_seed

MaskPattern = Literal["free", "same"]


class RandomMask(nn.Module):
    """One binary mask M of shape (1, C, H, W): u -> M * u, the same in training and evaluation.

    Drawn when the layer is built and never again; nothing is rescaled by 1 / (1 - drop_ratio), as
    dropout would. Exactly int(drop_ratio * C * H * W) entries are zero, uniform without
    replacement over all of them; with `same_pattern`, int(drop_ratio * H * W) entries of one H x W
    pattern that all channels share. The mask is a buffer of the `state_dict`: a network with
    another mask is another network. (The authors' code saves it for some variants only.)

    Args:
        shape: (C, H, W) of the feature maps.
        drop_ratio: share of zeros, in [0, 1].
        seed: of this mask alone; torch's own generator is neither read nor moved.
        same_pattern: one pattern for all channels.
    """

    mask: Tensor

    def __init__(
        self, shape: tuple[int, int, int], drop_ratio: float, *, seed: int, same_pattern: bool
    ) -> None:
        super().__init__()
        channels, height, width = shape
        cells = height * width if same_pattern else channels * height * width
        # On the CPU whatever the default device is: one seed means one mask.
        generator = torch.Generator("cpu").manual_seed(seed % 2**63)
        order = torch.randperm(cells, generator=generator, device="cpu")
        kept = torch.ones(cells, dtype=torch.bool, device="cpu")
        kept[order[: int(drop_ratio * cells)]] = False
        mask = kept.view(1, -1, height, width).expand(1, channels, height, width).contiguous()
        self.register_buffer("mask", mask.to(torch.get_default_device()))

    def forward(self, u: Tensor) -> Tensor:
        """Maps `(B, C, H, W)`, after batch norm and before ReLU, with zeros where the mask is.

        Raises:
            InputError: for maps of another size than the mask's, which might broadcast.
        """
        if u.shape[1:] != self.mask.shape[1:]:
            raise InputError(
                f"feature maps {tuple(u.shape[1:])} do not fit a mask {tuple(self.mask.shape[1:])}:"
                " a masked network takes images of the size it was built for"
            )
        return u * self.mask


def masked(u: Tensor, mask: RandomMask | None) -> Tensor:
    """`u` (B, C, H, W) behind its mask; without one, `u` itself."""
    if mask is None:
        return u
    out: Tensor = mask(u)
    return out


MaskDraw = Callable[[str, tuple[int, int, int]], RandomMask | None]
"""(unique name of the layer, (C, H, W)) -> its mask, or None where nothing is dropped."""


@dataclass(frozen=True)
class MaskOptions:
    """Which part of a network is masked and how much: the options `shallow_drop` and so on.

    Args:
        shallow_drop: share of zeros in the shallow part, in [0, 1]; 0 for no mask at all.
        deep_drop: likewise in the deep part.
        seed: of all masks, apart from that of the weights; each layer folds in its own name.
        pattern: `"free"`, or `"same"` for one pattern shared by a layer's channels (ablation).

    Raises:
        InputError: for options outside these.
    """

    shallow_drop: float
    deep_drop: float
    seed: int
    pattern: MaskPattern

    def __post_init__(self) -> None:
        for name in ("shallow_drop", "deep_drop"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise InputError(f"{name}={value!r} must be a number in [0, 1], a share of zeros")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"mask_seed={self.seed!r} must be an integer, at least 0")
        if self.pattern not in get_args(MaskPattern):
            raise InputError(f'mask_pattern={self.pattern!r} must be "free" or "same"')

    def shallow(self, layer: str, shape: tuple[int, int, int]) -> RandomMask | None:
        """The mask of a layer of the shallow part (see `MaskDraw`)."""
        return self._draw(self.shallow_drop, layer, shape)

    def deep(self, layer: str, shape: tuple[int, int, int]) -> RandomMask | None:
        """The mask of a layer of the deep part (see `MaskDraw`)."""
        return self._draw(self.deep_drop, layer, shape)

    def _draw(self, drop: float, layer: str, shape: tuple[int, int, int]) -> RandomMask | None:
        if drop == 0:
            return None
        seed = fold_seed(self.seed, "mask", layer)
        return RandomMask(shape, drop, seed=seed, same_pattern=self.pattern == "same")
