"""DenseNet-BC (Huang et al. 2017, arXiv:1608.06993) as ALOE's authors train it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.models.classifier import Classifier

_BLOCKS = 3


class Bottleneck(nn.Module):
    """Batch norm, ReLU, 1x1 convolution to 4 k channels; the same with 3x3 to k; then appended.

    Args:
        in_planes: channels in.
        growth: k, channels added.
    """

    def __init__(self, in_planes: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, in_planes + growth, H, W)`, the input first."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return torch.cat([x, out], dim=1)


class DenseBlock(nn.Module):
    """Bottlenecks, each of which sees the output of all before it.

    Args:
        layers: how many.
        in_planes: channels in.
        growth: channels that each adds.
    """

    def __init__(self, layers: int, in_planes: int, growth: int) -> None:
        super().__init__()
        widths = (in_planes + index * growth for index in range(layers))
        self.layer = nn.Sequential(*(Bottleneck(width, growth) for width in widths))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, in_planes + layers * growth, H, W)`."""
        out: Tensor = self.layer(x)
        return out


class Transition(nn.Module):
    """Batch norm, ReLU, 1x1 convolution to half the channels, 2x2 average pool.

    Args:
        in_planes: channels in.
    """

    def __init__(self, in_planes: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, in_planes // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, in_planes / 2, H / 2, W / 2)`, rounded down."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(Classifier):
    """Three dense blocks of `(depth - 4) / 6` bottlenecks, compression 0.5, no dropout.

    Names and initialisation as in jfc43/robust-ood-detection `models/densenet.py`: all convolutions
    normal with variance 2 / n, where the code's n, meant as a fan, is the number of bottlenecks in
    a block (16 at depth 100); batch norm 1 and 0; the linear layer's bias 0. That code pools 8x8;
    here the pool is global, the same on 32x32 images.

    Args:
        depth: 6 n + 4.
        growth: channels that each bottleneck adds.
        num_classes, in_channels, image_size, mean, std: see `build_model`;
            images of at least 4x4.

    Raises:
        InputError: for images under 4x4.
    """

    public_names: ClassVar[Mapping[str, str]] = {"fc": "head"}

    def __init__(
        self,
        depth: int,
        growth: int,
        *,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
    ) -> None:
        super().__init__(mean, std)
        if min(image_size) < 4:
            raise InputError(
                f"image_size={image_size} is too small for densenet_bc_{depth}_{growth}: "
                "at least (4, 4)"
            )
        layers, rest = divmod(depth - 4, 2 * _BLOCKS)
        assert rest == 0, depth
        width = 2 * growth
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.block1 = DenseBlock(layers, width, growth)
        width += layers * growth
        self.trans1 = Transition(width)
        width //= 2
        self.block2 = DenseBlock(layers, width, growth)
        width += layers * growth
        self.trans2 = Transition(width)
        width //= 2
        self.block3 = DenseBlock(layers, width, growth)
        width += layers * growth
        self.bn1 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(2 / layers) ** 0.5)
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] -> `(B, d)`; d is 342 at depth 100, growth 12."""
        out = self.trans1(self.block1(self.conv1(self.normalize(x))))
        out = self.block3(self.trans2(self.block2(out)))  # (B, d, H/4, W/4)
        return F.relu(self.bn1(out)).mean(dim=(2, 3))


densenet_bc_100_12 = partial(DenseNet, 100, 12)
"""DenseNet-BC, depth 100, growth 12: ALOE's network; 769,162 parameters for RGB, 10 classes.

Source: Chen et al. 2020 (arXiv:2003.09711), authors' code.
"""
