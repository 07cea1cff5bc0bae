"""Small networks. Where weights are drawn here, it is by counter: the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_lite.core.random_numbers import random_words

SIDE = 8
PIXELS = SIDE * SIDE
_GRID = 1024  # weights and images are multiples of 1 / 1024: float32 holds them exactly


def grid_uniform(rows: int, columns: int, *, seed: int, stream: str) -> Tensor:
    """Uniform draws in [0, 1), multiples of 1 / 1024: float32 (rows, columns)."""
    words = random_words(
        columns, ids=torch.arange(rows), seed=seed, stream=stream, restart=0, step=0
    )
    return (words % _GRID).float() / _GRID


class Linear(nn.Module):
    """Logits W x + b of images of 8x8 grey pixels.

    Args:
        weight: (K, 64).
        bias: (K,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) to (B, K)."""
        return nn.functional.linear(x.flatten(1), self.weight, self.bias)


class Staircase(nn.Module):
    """Logits [b, w . q(x)], q rounding pixels to multiples of 1 / levels: its gradient is 0.

    Args:
        weight: (64,).
        bias: of the first class.
        levels: steps between 0 and 1.
    """

    def __init__(self, weight: Tensor, bias: float, *, levels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.tensor(bias))
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) to (B, 2)."""
        steps = (x.flatten(1) * self.levels).round() / self.levels
        score = steps @ self.weight
        return torch.stack([self.bias.expand_as(score), score], dim=1)


def box_network(center: Tensor, *, half: float, slack: float) -> nn.Sequential:
    """A ReLU network that gives class 1 where sum_i max(|x_i - center_i| - half, 0) < slack.

    128 hidden ReLUs, two a pixel: max(x - c - half, 0) and max(c - x - half, 0).

    Args:
        center: (64,).
        half: half the side of the box.
        slack: above 0.
    """
    eye = torch.eye(PIXELS)
    hidden, head = nn.Linear(PIXELS, 2 * PIXELS), nn.Linear(2 * PIXELS, 2)
    with torch.no_grad():
        hidden.weight.copy_(torch.cat([eye, -eye]))
        hidden.bias.copy_(torch.cat([-center - half, center - half]))
        head.weight.copy_(torch.stack([torch.zeros(2 * PIXELS), -torch.ones(2 * PIXELS)]))
        head.bias.copy_(torch.tensor([0.0, slack]))
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), head)


def conv_network(side: int, *, maps: int, hidden: int, classes: int) -> nn.Sequential:
    """A convolution that halves the side and two linear layers, a ReLU after each but the last.

    Small enough for a mixed-integer program. Its weights are torch's first draws.

    Args:
        side: of the grey images, even.
        maps: of the convolution.
        hidden: units of the first linear layer.
        classes: K.
    """
    return nn.Sequential(
        nn.Conv2d(1, maps, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(maps * (side // 2) ** 2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
