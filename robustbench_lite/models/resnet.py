"""ResNet-18 with the CIFAR stem (He et al. 2015, arXiv:1512.03385), in two stride patterns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.models.classifier import Classifier


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut, ReLU after the sum.

    Args:
        in_planes: channels in.
        planes: channels out.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, planes, H / stride, W / stride)`."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet18(Classifier):
    """Four stages of two basic blocks, 64 to 512 channels, global average pool.

    Initialisation is PyTorch's own, as in the code the field shares (kuangliu/pytorch-cifar,
    `models/resnet.py`), whose module names these are. That code pools 4x4; here the pool is global,
    the same on 32x32 images and defined on any size.

    Args:
        num_classes: K.
        in_channels: C.
        strides: of the four stages.
        mean: per channel, or None for no normalisation.
        std: per channel, or None for no normalisation.
    """

    public_names: ClassVar[Mapping[str, str]] = {"linear": "head", "fc": "head"}

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        strides: tuple[int, int, int, int],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
    ) -> None:
        super().__init__(mean, std)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, strides[0])
        self.layer2 = _stage(64, 128, strides[1])
        self.layer3 = _stage(128, 256, strides[2])
        self.layer4 = _stage(256, 512, strides[3])
        self.head = nn.Linear(512, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] -> `(B, 512)`."""
        out: Tensor = F.relu(self.bn1(self.conv1(self.normalize(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))  # (B, 512, h, w)
        return out.mean(dim=(2, 3))


def _stage(in_planes: int, planes: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(in_planes, planes, stride), BasicBlock(planes, planes, 1))


def resnet18(
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ResNet18:
    """The usual CIFAR ResNet-18, strides 1,2,2,2; 11,173,962 parameters for RGB and 10 classes."""
    del image_size  # any size: the pool is global
    return ResNet18(num_classes, in_channels, (1, 2, 2, 2), mean, std)


def resnet18_wide_map(
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ResNet18:
    """LBGAT's natural network, strides 1,1,2,2: last map 8x8 on 32x32 images, weights as resnet18.

    Source: Cui et al. 2021 (arXiv:2011.11164), authors' code `models/resnetcifar.py`,
    `ResNet18_cifar`. Weights of `resnet18` fit it and mean another function.
    """
    del image_size  # any size: the pool is global
    return ResNet18(num_classes, in_channels, (1, 1, 2, 2), mean, std)
