"""The MNIST network of the TRADES authors' code (Zhang et al. 2019, arXiv:1901.08573)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.models.classifier import Classifier

_SMALLEST = 16


class TradesSmallCnn(Classifier):
    """Convolutions 32, 32, pool, 64, 64, pool (3x3, no padding), linear 200, 200, K; ReLU between.

    Names and initialisation as in yaodongyu/TRADES `models/small_cnn.py`: convolutions Kaiming
    normal with bias 0, the last layer all 0 (so that logits and input gradients begin at 0), the
    other linear layers PyTorch's own. Dropout 0.5 follows the first linear layer's ReLU.

    312,202 parameters for 1x28x28 images and 10 classes.

    Args:
        num_classes, in_channels, image_size, mean, std: see `build_model`;
            images of at least 16x16.

    Raises:
        InputError: for images under 16x16.
    """

    public_names: ClassVar[Mapping[str, str]] = {"classifier.fc3": "head"}

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
    ) -> None:
        super().__init__(mean, std)
        if min(image_size) < _SMALLEST:
            raise InputError(
                f"image_size={image_size} is too small for trades_small_cnn: at least "
                f"({_SMALLEST}, {_SMALLEST})"
            )
        height, width = (((side - 4) // 2 - 4) // 2 for side in image_size)
        self.feature_extractor = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(in_channels, 32, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 3),
                relu2=nn.ReLU(),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(64, 64, 3),
                relu4=nn.ReLU(),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(64 * height * width, 200),
                relu1=nn.ReLU(),
                drop=nn.Dropout(0.5),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(),
            )
        )
        self.head = nn.Linear(200, num_classes)
        for module in self.feature_extractor:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] -> `(B, 200)`."""
        maps = self.feature_extractor(self.normalize(x))  # (B, 64, 4, 4) for 28x28
        out: Tensor = self.classifier(maps.flatten(1))
        return out
