"""Outliers that need no download: noise, and inliers spoilt beyond recognition.

The recipes are those of the code of ODIN (Liang et al. 2018, arXiv:1706.02690) and of Outlier
Exposure (Hendrycks et al. 2019, arXiv:1812.04606). Where the latter's noise is of *normalised*
values, it is un-normalised here (v std + mean): a network that takes pixels sees the same input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.catalogue import dataset_info
from robustbench_lite.datasets.splits import Split

_CHUNK = 1024  # images in the making at a time; fixed, since the draws of a chunk depend on it


@dataclass(frozen=True)
class Ingredients:
    """What a recipe makes images of.

    Args:
        images: inliers in random order, float32 (M, C, H, W) in [0, 1].
        others: for each of them another inlier.
        dataset: name of the inliers' data set.
        generator: the only source of randomness.
    """

    images: Tensor
    others: Tensor
    dataset: str
    generator: torch.Generator

    def normal(self) -> Tensor:
        """Standard normal numbers in the shape of the images."""
        return torch.randn(self.images.shape, generator=self.generator)

    def uniform(self) -> Tensor:
        """Numbers in [0, 1) in the shape of the images."""
        return torch.rand(self.images.shape, generator=self.generator)

    def chosen(self, rows: Tensor) -> Ingredients:
        """Those of the rows `rows` (M,), bool, alone."""
        return dataclasses.replace(self, images=self.images[rows], others=self.others[rows])


Recipe = Callable[[Ingredients], Tensor]
"""Ingredients to float32 (M, C, H, W); what is outside [0, 1] will be clipped."""


def synthesize(recipe: Recipe, like: Split, *, count: int, seed: int) -> Tensor:
    """`count` images by a recipe, made on the CPU.

    Args:
        recipe: one of this module's.
        like: inliers, at least two; each is used once before any is used again.
        count: at least 1.
        seed: in [0, 2**63).

    Returns:
        uint8 (count, C, H, W), on the CPU.
    """
    if len(like) < 2:
        raise InputError(f"outliers like {len(like)} images of {like.name}: two are needed")
    inliers, generator = like.to("cpu"), torch.Generator().manual_seed(seed)
    rounds = -(-count // len(like))
    orders = [torch.randperm(len(like), generator=generator) for _ in range(rounds)]
    rows = torch.cat(orders)[:count]
    others = (rows + torch.randint(1, len(like), (count,), generator=generator)) % len(like)
    made = []
    for one, other in zip(torch.split(rows, _CHUNK), torch.split(others, _CHUNK), strict=True):
        given = Ingredients(inliers.pixels(one), inliers.pixels(other), like.name, generator)
        made.append((recipe(given).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8))
    return torch.cat(made)


def gaussian(given: Ingredients) -> Tensor:
    """N(0.5, 1) per value (ODIN)."""
    return 0.5 + given.normal()


def uniform(given: Ingredients) -> Tensor:
    """U(0, 1) per value (ODIN)."""
    return given.uniform()


def gaussian_oe(given: Ingredients) -> Tensor:
    """N(0, 0.5^2) clipped to [-1, 1], of normalised values (Outlier Exposure)."""
    return _pixels((0.5 * given.normal()).clamp(-1.0, 1.0), given.dataset)


def rademacher(given: Ingredients) -> Tensor:
    """-1 or 1 with probability 1/2, of normalised values (Outlier Exposure)."""
    return _pixels(torch.where(given.uniform() < 0.5, -1.0, 1.0), given.dataset)


def blobs(given: Ingredients) -> Tensor:
    """2 v - 1, of normalised values (Outlier Exposure); v is Bernoulli(0.7), blurred with sigma
    1.5 over height, width and channels, and 0 where then below 0.75."""
    v = (given.uniform() < 0.7).float()
    across = [_blur(size, sigma=1.5) for size in v.shape[1:]]
    v = torch.einsum("bchw,Cc,Hh,Ww->bCHW", v, *across)
    return _pixels(torch.where(v < 0.75, 0.0, v) * 2.0 - 1.0, given.dataset)


def arithmetic_mean(given: Ingredients) -> Tensor:
    """(a + b) / 2 of two inliers."""
    return (given.images + given.others) / 2.0


def geometric_mean(given: Ingredients) -> Tensor:
    """sqrt(a b) of two inliers."""
    return torch.sqrt(given.images * given.others)


def jigsaw(given: Ingredients) -> Tensor:
    """The left half becomes the upper one, the right half the lower.

    Of the quadrants a b / c d it makes a' c / d b', where a' has its upper and lower half
    exchanged, and b' its left and right half.
    """
    height, width = given.images.shape[2:]
    if height % 2 or width % 2:
        raise InputError(f"outlier source 'jigsaw' needs even sides; got {height}x{width} images")
    upper, lower = given.images.chunk(2, dim=2)
    (a, b), (c, d) = upper.chunk(2, dim=3), lower.chunk(2, dim=3)
    a, b = a.roll(height // 4, dims=2), b.roll(width // 4, dims=3)
    return torch.cat([torch.cat([a, c], dim=3), torch.cat([d, b], dim=3)], dim=2)


def speckle(given: Ingredients) -> Tensor:
    """x + x N(0, 1)."""
    return given.images * (1.0 + given.normal())


def pixelate(given: Ingredients) -> Tensor:
    """Means over a grid of a fifth of the resolution (6x6 of 32x32; at least 2x2), and back."""
    height, width = given.images.shape[2:]
    coarse = (max(2, height // 5), max(2, width // 5))
    means = functional.interpolate(given.images, coarse, mode="area")
    return functional.interpolate(means, (height, width), mode="nearest-exact")


def rgb_shift(given: Ingredients) -> Tensor:
    """Channels (G mirrored left-right, B, R)."""
    if given.images.shape[1] != 3:
        raise InputError(
            f"outlier source 'rgb_shift' needs RGB images; {given.dataset} has "
            f"{given.images.shape[1]} channel"
        )
    red, green, blue = given.images.chunk(3, dim=1)
    return torch.cat([green.flip(3), blue, red], dim=1)


def invert(given: Ingredients) -> Tensor:
    """1 - x in all channels but the first; in the only one of greyscale images."""
    kept = 1 if given.images.shape[1] > 1 else 0
    return torch.cat([given.images[:, :kept], 1.0 - given.images[:, kept:]], dim=1)


def mixture(given: Ingredients) -> Tensor:
    """`gaussian`, `blobs` and `jigsaw` in turn: equal parts of each stretch of the images."""
    recipes = (gaussian, blobs, jigsaw)
    part = torch.arange(len(given.images)) % len(recipes)
    made = torch.empty_like(given.images)
    for index, recipe in enumerate(recipes):
        made[part == index] = recipe(given.chosen(part == index))
    return made


def _pixels(normalised: Tensor, dataset: str) -> Tensor:
    info = dataset_info(dataset)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (info.mean, info.std))
    return normalised * std + mean


def _blur(size: int, *, sigma: float) -> Tensor:
    """Matrix (size, size) of a Gaussian blur along an axis whose ends are continued.

    The kernel is cut at 4 sigma, as in scipy and scikit-image.
    """
    radius = math.floor(4.0 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = torch.zeros(size, size)
    for row in range(size):
        matrix[row].index_add_(0, (row + offsets).clamp(0, size - 1), weights / weights.sum())
    return matrix
