"""WideResNet (Zagoruyko & Komodakis 2016, arXiv:1605.07146) as in the TRADES authors' code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.models.classifier import Classifier


class WideBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions.

    Where the width changes, the 1x1 shortcut sees the activation, not the raw input.

    Args:
        in_planes: channels in.
        out_planes: channels out.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, in_planes: int, out_planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, out_planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_planes)
        self.conv2 = nn.Conv2d(out_planes, out_planes, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None  # spelled as in the public weights
        if in_planes != out_planes:
            self.convShortcut = nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, out_planes, H / stride, W / stride)`."""
        activation = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(activation)))
        shortcut = x if self.convShortcut is None else self.convShortcut(activation)
        result: Tensor = self.conv2(out) + shortcut
        return result


class WideStage(nn.Module):
    """Blocks of one width; the first one changes width and resolution.

    Args:
        blocks: how many.
        in_planes: channels in.
        out_planes: channels out.
        stride: of the first block.
    """

    def __init__(self, blocks: int, in_planes: int, out_planes: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(in_planes, out_planes, stride)
        rest = (WideBlock(out_planes, out_planes, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, out_planes, H / stride, W / stride)`."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(Classifier):
    """Three stages of `(depth - 4) / 6` blocks, 16 * widen_factor channels and up; no dropout.

    Initialisation as in yaodongyu/TRADES `models/wideresnet.py`: convolutions normal with variance
    2 / (k * k * out_channels), batch norm 1 and 0, the linear layer's bias 0. That code pools 8x8;
    here the pool is global, the same on 32x32 images. It also declares a stage `sub_block1` that
    its forward pass never uses and released weights contain (LBGAT's too): not built here.

    Args:
        depth: 6 n + 4.
        widen_factor: multiplies 16, 32 and 64 channels.
        num_classes, in_channels, image_size, mean, std: see `build_model`.
    """

    public_names: ClassVar[Mapping[str, str]] = {"fc": "head", "linear": "head"}
    unused_modules: ClassVar[tuple[str, ...]] = ("sub_block1",)

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        *,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
    ) -> None:
        del image_size  # any size: the pool is global
        super().__init__(mean, std)
        blocks, rest = divmod(depth - 4, 6)
        assert rest == 0, depth
        widths = (16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.block1 = WideStage(blocks, widths[0], widths[1], 1)
        self.block2 = WideStage(blocks, widths[1], widths[2], 2)
        self.block3 = WideStage(blocks, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.head = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] -> `(B, 64 * widen_factor)`."""
        out = self.block3(self.block2(self.block1(self.conv1(self.normalize(x)))))
        return F.relu(self.bn1(out)).mean(dim=(2, 3))


wrn28_10 = partial(WideResNet, 28, 10)
"""WideResNet-28-10; 36,479,194 parameters for RGB and 10 classes."""
wrn34_10 = partial(WideResNet, 34, 10)
"""WideResNet-34-10, the net of TRADES and LBGAT; 46,160,474 parameters for RGB, 10 classes."""
wrn34_20 = partial(WideResNet, 34, 20)
"""WideResNet-34-20; 184,531,674 parameters for RGB and 10 classes."""
