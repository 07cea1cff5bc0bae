"""ResNet-18 with the CIFAR stem (He et al. 2015, arXiv:1512.03385), in two stride patterns."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.models.classifier import Classifier, HeadKind, make_head
from robustbench_lite.models.random_masks import (
    MaskDraw,
    MaskOptions,
    MaskPattern,
    RandomMask,
    masked,
)


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
        self.mask1: RandomMask | None = None
        self.mask2: RandomMask | None = None
        self.shortcut_mask: RandomMask | None = None

    def add_masks(self, draw: MaskDraw, name: str, size: tuple[int, int]) -> tuple[int, int]:
        """Mask both convolutions and, where it has one, the shortcut's.

        Args:
            draw: gives the masks.
            name: of the block in its network.
            size: `(H, W)` of its input.

        Returns:
            `(H, W)` of its output.
        """
        stride = self.conv1.stride[0]
        height, width = -(-size[0] // stride), -(-size[1] // stride)
        shape = (self.conv1.out_channels, height, width)
        self.mask1 = draw(f"{name}.mask1", shape)
        self.mask2 = draw(f"{name}.mask2", shape)
        if len(self.shortcut):
            self.shortcut_mask = draw(f"{name}.shortcut_mask", shape)
        return height, width

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, planes, H / stride, W / stride)`."""
        out = F.relu(masked(self.bn1(self.conv1(x)), self.mask1))
        out = masked(self.bn2(self.conv2(out)), self.mask2)
        # The sum is not masked: where the branch is, the shortcut alone remains.
        return F.relu(out + masked(self.shortcut(x), self.shortcut_mask))


class ResNet18(Classifier):
    """Four stages of two basic blocks, 64 to 512 channels, global average pool.

    Initialisation is PyTorch's own, as in the code the field shares (kuangliu/pytorch-cifar,
    `models/resnet.py`), whose module names these are. That code pools 4x4; here the pool is global,
    the same on 32x32 images and defined on any size.

    With strides 1,2,2,2 it is the usual CIFAR ResNet-18; 11,173,962 parameters for RGB, 10 classes.

    Masks are those of Random Mask (Luo et al., arXiv:2007.14249), in the authors' places: after
    the batch norm of every convolution of a part, ten in each. They hold no parameters, and tie
    the network to `image_size`.

    Args:
        strides: of the four stages.
        num_classes, in_channels, image_size, mean, std: see `build_model`.
        shallow_drop: share of zeros on the stem and stages 1 and 2; 0 for no mask.
        deep_drop: share of zeros on stages 3 and 4; 0 for no mask.
        mask_seed: of the masks.
        mask_pattern: `"free"`, or `"same"` for one pattern in all channels of a layer.
        head: `"linear"`, or `"cosine"` (see `CosineHead`), which has no bias.

    Raises:
        InputError: for options outside these.
    """

    public_names: ClassVar[Mapping[str, str]] = {"linear": "head", "fc": "head"}

    def __init__(
        self,
        strides: tuple[int, int, int, int],
        *,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        shallow_drop: float = 0.0,
        deep_drop: float = 0.0,
        mask_seed: int = 0,
        mask_pattern: MaskPattern = "free",
        head: HeadKind = "linear",
    ) -> None:
        super().__init__(mean, std)
        masks = MaskOptions(shallow_drop, deep_drop, mask_seed, mask_pattern)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, strides[0])
        self.layer2 = _stage(64, 128, strides[1])
        self.layer3 = _stage(128, 256, strides[2])
        self.layer4 = _stage(256, 512, strides[3])
        self.stem_mask = masks.shallow("stem_mask", (64, *image_size))
        size = image_size
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), 1):
            draw = masks.shallow if number <= 2 else masks.deep
            for place, block in enumerate(stage):
                assert isinstance(block, BasicBlock)
                size = block.add_masks(draw, f"layer{number}.{place}", size)
        self.head = make_head(head, 512, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] -> `(B, 512)`."""
        out: Tensor = F.relu(masked(self.bn1(self.conv1(self.normalize(x))), self.stem_mask))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))  # (B, 512, h, w)
        return out.mean(dim=(2, 3))


def _stage(in_planes: int, planes: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(in_planes, planes, stride), BasicBlock(planes, planes, 1))


resnet18 = partial(ResNet18, (1, 2, 2, 2))


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
    return ResNet18(
        (1, 1, 2, 2),
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
    )
