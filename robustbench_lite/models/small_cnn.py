"""The small convolutional net of the MNIST experiments of Wong & Kolter 2018 (arXiv:1711.00851)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.models.classifier import Classifier, HeadKind, make_head
from robustbench_lite.models.random_masks import MaskOptions, MaskPattern, masked


class SmallCnn(Classifier):
    """Conv 16 and conv 32 (4x4, stride 2, padding 1), linear 100, linear K; ReLU between.

    Initialisation is PyTorch's own, as in the authors' code (locuslab/convex_adversarial,
    `examples/problems.py`: `mnist_model`, and `cifar_model` for 32x32).

    166,406 parameters for 1x28x28 images and 10 classes.

    Masks are those of Random Mask (Luo et al., arXiv:2007.14249); their places in this network,
    between each convolution and its ReLU, are ours.

    Args:
        num_classes, in_channels, image_size, mean, std: see `build_model`;
            images of at least 4x4.
        shallow_drop: share of zeros after the first convolution; 0 for no mask.
        deep_drop: share of zeros after the second convolution; 0 for no mask.
        mask_seed: of the masks.
        mask_pattern: `"free"`, or `"same"` for one pattern in all channels of a layer.
        head: `"linear"`, or `"cosine"` (see `CosineHead`), which has no bias.

    Raises:
        InputError: for images under 4x4, or options outside these.
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
        if min(image_size) < 4:
            raise InputError(f"image_size={image_size} is too small for small_cnn: at least (4, 4)")
        masks = MaskOptions(shallow_drop, deep_drop, mask_seed, mask_pattern)
        height, width = image_size
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * (height // 4) * (width // 4), 100)
        self.mask1 = masks.shallow("mask1", (16, height // 2, width // 2))
        self.mask2 = masks.deep("mask2", (32, height // 4, width // 4))
        self.head = make_head(head, 100, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] -> `(B, 100)`."""
        out = F.relu(masked(self.conv1(self.normalize(x)), self.mask1))  # (B, 16, H/2, W/2)
        out = F.relu(masked(self.conv2(out), self.mask2))  # (B, 32, H/4, W/4)
        return F.relu(self.fc1(out.flatten(1)))
