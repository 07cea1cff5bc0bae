"""Pre-activation ResNet-18 (He et al. 2016, arXiv:1603.05027) as adversarial training uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.models.classifier import Classifier

ShortcutInput = Literal["activation", "input"]


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; a bare 1x1 convolution as shortcut.

    Args:
        in_planes: channels in.
        planes: channels out.
        stride: of the first convolution and of the shortcut.
        shortcut_input: what a convolutional shortcut sees (`preact_resnet18` explains).
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

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_planes, H, W)` -> `(B, planes, H / stride, W / stride)`."""
        activation = F.relu(self.bn1(x))
        shortcut = x
        if self.shortcut is not None:
            shortcut = self.shortcut(activation if self.shortcut_input == "activation" else x)
        out = F.relu(self.bn2(self.conv1(activation)))
        result: Tensor = self.conv2(out) + shortcut
        return result


class PreActResNet18(Classifier):
    """Four stages of two pre-activation blocks, 64 to 512 channels, global average pool.

    Initialisation is PyTorch's own, as in the public codes named at `preact_resnet18`.

    Args:
        num_classes: K.
        in_channels: C.
        mean: per channel, or None for no normalisation.
        std: per channel, or None for no normalisation.
        final_bn: batch norm and ReLU before the pool.
        shortcut_input: what a convolutional shortcut sees.
    """

    public_names: ClassVar[Mapping[str, str]] = {"linear": "head", "fc": "head"}

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        *,
        final_bn: bool,
        shortcut_input: ShortcutInput,
    ) -> None:
        super().__init__(mean, std)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.layer1 = _stage(64, 64, 1, shortcut_input)
        self.layer2 = _stage(64, 128, 2, shortcut_input)
        self.layer3 = _stage(128, 256, 2, shortcut_input)
        self.layer4 = _stage(256, 512, 2, shortcut_input)
        self.bn: nn.BatchNorm2d | None = nn.BatchNorm2d(512) if final_bn else None
        self.head = nn.Linear(512, num_classes)

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


def preact_resnet18(
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    final_bn: bool = True,
    shortcut_input: ShortcutInput = "activation",
) -> PreActResNet18:
    """Build the PreActResNet-18 of Rice et al. 2020 (arXiv:2002.11569), or a public variant of it.

    Three public codes share the name and most keys, and compute different functions:
    Rice et al. (locuslab/robust_overfitting) is the default here; kuangliu/pytorch-cifar has no
    batch norm before the pool (`final_bn=False`); RobustBench's default block, and copies of Wong
    et al.'s fast_adversarial, feed the shortcut with the block's raw input
    (`shortcut_input="input"`). The last difference leaves no trace in the weights.

    Args:
        num_classes: K.
        in_channels: C.
        image_size: any: the pool is global.
        mean: per channel, or None for no normalisation.
        std: per channel, or None for no normalisation.
        final_bn: batch norm and ReLU before the pool.
        shortcut_input: `"activation"` (after batch norm and ReLU) or `"input"` (before them).

    Returns:
        A network of 11,172,170 parameters for RGB and 10 classes (11,171,146 without `final_bn`).

    Raises:
        InputError: for options outside these.
    """
    del image_size
    if not isinstance(final_bn, bool):
        raise InputError(f"final_bn={final_bn!r} must be true or false")
    if shortcut_input not in get_args(ShortcutInput):
        raise InputError(f'shortcut_input={shortcut_input!r} must be "activation" or "input"')
    return PreActResNet18(
        num_classes, in_channels, mean, std, final_bn=final_bn, shortcut_input=shortcut_input
    )
