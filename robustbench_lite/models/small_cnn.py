"""The small convolutional net of the MNIST experiments of Wong & Kolter 2018 (arXiv:1711.00851)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.models.classifier import Classifier


class SmallCnn(Classifier):
    """Conv 16 and conv 32 (4x4, stride 2, padding 1), linear 100, linear K; ReLU between.

    Initialisation is PyTorch's own, as in the authors' code (locuslab/convex_adversarial,
    `examples/problems.py`: `mnist_model`, and `cifar_model` for 32x32).

    Args:
        num_classes: K.
        in_channels: C.
        image_size: `(H, W)`, each at least 4.
        mean: per channel, or None for no normalisation.
        std: per channel, or None for no normalisation.
    """

    # The public code is one nn.Sequential; its layers are known by position.
    public_names: ClassVar[Mapping[str, str]] = {
        "0": "conv1",
        "2": "conv2",
        "5": "fc1",
        "7": "head",
    }

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
    ) -> None:
        super().__init__(mean, std)
        height, width = image_size
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * (height // 4) * (width // 4), 100)
        self.head = nn.Linear(100, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] -> `(B, 100)`."""
        out = F.relu(self.conv1(self.normalize(x)))  # (B, 16, H/2, W/2)
        out = F.relu(self.conv2(out))  # (B, 32, H/4, W/4)
        return F.relu(self.fc1(out.flatten(1)))


def small_cnn(
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> SmallCnn:
    """Build `SmallCnn`; 166,406 parameters for 1x28x28 images and 10 classes.

    Raises:
        InputError: for images under 4x4.
    """
    if min(image_size) < 4:
        raise InputError(f"image_size={image_size} is too small for small_cnn: at least (4, 4)")
    return SmallCnn(num_classes, in_channels, image_size, mean, std)
