"""Pre-activation ResNet-18 (He et al. 2016, arXiv:1603.05027) as adversarial training uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.models.classifier import Classifier, HeadKind, make_head
from robustbench_lite.models.random_masks import (
    MaskDraw,
    MaskOptions,
    MaskPattern,
    RandomMask,
    masked,
)

ShortcutInput = Literal["activation", "input"]


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; a bare 1x1 convolution as shortcut.

    Args:
        in_planes: channels in.
        planes: channels out.
        stride: of the first convolution and of the shortcut.
        shortcut_input: what a convolutional shortcut sees (`PreActResNet18` explains).
    """

    def __init__(
        self, in_planes: int, planes: int, stride: int, shortcut_input: ShortcutInput
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)
            )
        self.shortcut_input = shortcut_input
        self.mask1: RandomMask | None = None
        self.mask2: RandomMask | None = None

    def add_masks(self, draw: MaskDraw, name: str, size: tuple[int, int]) -> tuple[int, int]:
        """Mask both pre-activations; the shortcut's path itself stays unmasked.

        Args:
            draw: gives the masks.
            name: of the block in its network.
            size: `(H, W)` of its input.

        Returns:
            `(H, W)` of its output.
        """
        stride = self.conv1.stride[0]
        height, width = -(-size[0] // stride), -(-size[1] // stride)
        self.mask1 = draw(f"{name}.mask1", (self.conv1.in_channels, *size))
        self.mask2 = draw(f"{name}.mask2", (self.conv1.out_channels, height, width))
        return height, width

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, planes, H / stride, W / stride)`."""
        activation = F.relu(masked(self.bn1(x), self.mask1))
        shortcut = x
        if self.shortcut is not None:
            shortcut = self.shortcut(activation if self.shortcut_input == "activation" else x)
        out = F.relu(masked(self.bn2(self.conv1(activation)), self.mask2))
        result: Tensor = self.conv2(out) + shortcut
        return result


class PreActResNet18(Classifier):
    """Four stages of two pre-activation blocks, 64 to 512 channels, global average pool.

    The one of Rice et al. 2020 (arXiv:2002.11569), or a public variant of it; 11,172,170 parameters
    for RGB and 10 classes (11,171,146 without `final_bn`). Initialisation is PyTorch's own, as in
    the public codes.

    Three public codes share the name and most keys, and compute different functions:
    Rice et al. (locuslab/robust_overfitting) is the default here; kuangliu/pytorch-cifar has no
    batch norm before the pool (`final_bn=False`); RobustBench's default block, and copies of Wong
    et al.'s fast_adversarial, feed the shortcut with the block's raw input
    (`shortcut_input="input"`). The last difference leaves no trace in the weights.

    Masks are those of Random Mask (Luo et al., arXiv:2007.14249), which has none for this network.
    Their places are ours, as in the authors' SENet-18, a pre-activation network too: a masked
    convolution is conv(ReLU(M * BN(x))); the stem, the shortcut paths and the last batch norm are
    not masked, and a shortcut that sees the activation sees the masked one. Eight in each part.

    Args:
        num_classes, in_channels, image_size, mean, std: see `build_model`.
        final_bn: batch norm and ReLU before the pool.
        shortcut_input: `"activation"` (after batch norm and ReLU) or `"input"` (before them).
        shallow_drop: share of zeros on the pre-activations of stages 1 and 2; 0 for no mask.
        deep_drop: share of zeros on those of stages 3 and 4; 0 for no mask.
        mask_seed: of the masks.
        mask_pattern: `"free"`, or `"same"` for one pattern in all channels of a layer.
        head: `"linear"`, or `"cosine"` (see `CosineHead`), which has no bias.

    Raises:
        InputError: for options outside these.
    """

    public_names: ClassVar[Mapping[str, str]] = {"linear": "head", "fc": "head"}

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        final_bn: bool = True,
        shortcut_input: ShortcutInput = "activation",
        shallow_drop: float = 0.0,
        deep_drop: float = 0.0,
        mask_seed: int = 0,
        mask_pattern: MaskPattern = "free",
        head: HeadKind = "linear",
    ) -> None:
        super().__init__(mean, std)
        if not isinstance(final_bn, bool):
            raise InputError(f"final_bn={final_bn!r} must be true or false")
        if shortcut_input not in get_args(ShortcutInput):
            raise InputError(f'shortcut_input={shortcut_input!r} must be "activation" or "input"')
        masks = MaskOptions(shallow_drop, deep_drop, mask_seed, mask_pattern)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.layer1 = _stage(64, 64, 1, shortcut_input)
        self.layer2 = _stage(64, 128, 2, shortcut_input)
        self.layer3 = _stage(128, 256, 2, shortcut_input)
        self.layer4 = _stage(256, 512, 2, shortcut_input)
        self.bn: nn.BatchNorm2d | None = nn.BatchNorm2d(512) if final_bn else None
        size = image_size
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), 1):
            draw = masks.shallow if number <= 2 else masks.deep
            for place, block in enumerate(stage):
                assert isinstance(block, PreActBlock)
                size = block.add_masks(draw, f"layer{number}.{place}", size)
        self.head = make_head(head, 512, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] -> `(B, 512)`."""
        out: Tensor = self.layer2(self.layer1(self.conv1(self.normalize(x))))
        out = self.layer4(self.layer3(out))  # (B, 512, H/8, W/8)
        if self.bn is not None:
            out = F.relu(self.bn(out))
        return out.mean(dim=(2, 3))


def _stage(
    in_planes: int, planes: int, stride: int, shortcut_input: ShortcutInput
) -> nn.Sequential:
    return nn.Sequential(
        PreActBlock(in_planes, planes, stride, shortcut_input),
        PreActBlock(planes, planes, 1, shortcut_input),
    )
