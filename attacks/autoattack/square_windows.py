"""The windows of the Square Attack: how large, where, and the pattern that L2 and L1 paint.

Everything for several steps of several rows at once; rows may be at different steps, so their
windows differ in size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.attacks.threat_model import Norm

# Andriushchenko et al. 2020, Sec. 5.1: the share of pixels is halved after these iterations.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_BITS = 32  # of a random word


def window_sizes(norm: Norm, shape: torch.Size, *, queries: int, p_init: float) -> list[int]:
    """Side of the window at every step of a run.

    Andriushchenko et al. 2020 (arXiv:1912.00049), Sec. 3.2: a window holds the share p of the
    pixels. As AutoAttack sets it, p follows the iteration and is not stretched to the number of
    queries (`resc_schedule=False`). L2 and L1 need an odd side of at least 3 (Sec. 3.3).

    Args:
        norm: `"Linf"`, `"L2"` or `"L1"`.
        shape: of an image, (C, H, W).
        queries: iterations.
        p_init: the first share of pixels.

    Returns:
        `queries` + 1 sides. The first is 0: step 0 asks for the starting point as it is.
    """
    channels, height, width = shape
    sizes = [0]
    for iteration in range(queries):
        p = p_init / 2 ** sum(iteration > bound for bound in _HALVED_AFTER)
        # In the authors' order of operations: another one may round to another integer.
        side = round(math.sqrt(p * shape.numel() / channels))
        side = max(side, 1) if norm == "Linf" else max(side, 3) // 2 * 2 + 1
        sizes.append(min(side, height, width))
    return sizes


def largest_window(sizes: Tensor, shape: torch.Size) -> int:
    """A side that no window of `sizes` exceeds, at least 1, without waiting for a GPU."""
    if sizes.device.type == "cpu":
        return max(1, int(sizes.numpy().max()))
    return min(shape[1], shape[2])


def random_bits(words: Tensor, n: int) -> Tensor:
    """The first `n` bits of random words (..., n_words), as bool (..., n)."""
    bits = (words[..., None] >> torch.arange(min(n, _BITS), device=words.device)) & 1
    return bits.flatten(-2)[..., :n].bool()


def words_for_bits(n: int) -> int:
    """Words that hold `n` random bits."""
    return -(-n // _BITS)


@dataclass(frozen=True)
class Windows:
    """Windows of sides up to D, as D x D places: a smaller one repeats its last row and column.

    Args:
        sizes: sides (...), int64; 0 is one pixel that does not count.
        offset: int64 (..., D), rows from the top of the window, or columns from its left edge.
        rows: int64 (..., D), rows of the image.
        columns: int64 (..., D).
    """

    sizes: Tensor
    offset: Tensor
    rows: Tensor
    columns: Tensor

    def pixels(self, width: int) -> Tensor:
        """Place of each pixel in a flattened image (..., D * D)."""
        return _grid(self.rows * width, torch.add, self.columns)

    def inside(self) -> Tensor:
        """Whether each place counts: bool (..., D * D), true once per pixel."""
        counts = torch.arange(self.offset.shape[-1], device=self.sizes.device)
        counts = counts < self.sizes[..., None]
        return _grid(counts, torch.logical_and, counts)

    def inside_of(self, other: Windows) -> Tensor:
        """Whether each place lies in the other one of its windows: bool (..., D * D)."""
        rows = other._spans(other.rows, self.rows)
        return _grid(rows, torch.logical_and, other._spans(other.columns, self.columns))

    def _spans(self, mine: Tensor, theirs: Tensor) -> Tensor:
        first = mine[..., :1]
        return (theirs >= first) & (theirs < first + self.sizes[..., None])

    def part(self, index: int) -> Windows:
        """The windows at an index of the last of the dimensions (...)."""
        return Windows(
            self.sizes[..., index],
            *(each[..., index, :] for each in (self.offset, self.rows, self.columns)),
        )


def place_windows(words: Tensor, sizes: Tensor, shape: torch.Size, *, side: int) -> Windows:
    """Windows at uniform positions.

    The first row is uniform over 0 .. H - s - 1, or 0 where the window fills the image; columns
    likewise. So the last position, H - s, is never drawn: the paper has it (Algorithm 2), the
    authors' code does not, and it is the code that published numbers come from.

    Args:
        words: random words (..., 2).
        sizes: sides (...), int64.
        shape: of an image, (C, H, W).
        side: D, at least the largest of `sizes` and 1.
    """
    place = torch.arange(side, device=sizes.device)
    offset = torch.minimum(place, (sizes - 1).clamp_min(0)[..., None])
    top, left = (
        (words[..., axis] * (shape[1 + axis] - sizes).clamp_min(1)) >> _BITS for axis in (0, 1)
    )
    return Windows(sizes, offset, top[..., None] + offset, left[..., None] + offset)


def _grid(down: Tensor, combine: Callable[[Tensor, Tensor], Tensor], across: Tensor) -> Tensor:
    """(..., D) of rows and of columns to (..., D * D)."""
    return combine(down[..., :, None], across[..., None, :]).flatten(-2)


def pattern(size: int, norm: Norm) -> Tensor:
    """The eta of Andriushchenko et al. 2020, Sec. 3.3 and Fig. 3: two bumps of opposite sign.

    Each half is a sum of nested squares about its middle, the k-th (from 1) of weight 1/k^2 (L2)
    or 1/k^4 (L1, Croce and Hein 2021, arXiv:2103.01208).

    Returns:
        float64 (size, size), of norm 1.
    """
    upper = size // 2
    both = torch.cat([_bump(upper, size, norm), -_bump(size - upper, size, norm)])
    return both / _norm(both, norm)


def _bump(height: int, width: int, norm: Norm) -> Tensor:
    if height == 0:
        return torch.zeros(0, width, dtype=torch.float64)
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(down[:, None], across)  # the innermost square that holds the pixel
    squares = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64)
    weights = squares ** (-2.0 if norm == "L2" else -4.0)
    bump = weights.flip(0).cumsum(0).flip(0)[ring]  # and all squares around that one
    return bump / _norm(bump, norm)


def _norm(values: Tensor, norm: Norm) -> Tensor:
    return values.square().sum().sqrt() if norm == "L2" else values.abs().sum()


class PatternTable:
    """The patterns of some sizes, to be painted on windows that differ from row to row.

    Args:
        sizes: the sides that occur; 0 paints nothing.
        norm: `"L2"` or `"L1"`.
        device: where the windows are.
    """

    def __init__(self, sizes: list[int], norm: Norm, device: torch.device) -> None:
        patterns = {size: pattern(size, norm).flatten() for size in sorted(set(sizes) - {0})}
        self._values = torch.cat(list(patterns.values())).to(device)
        first, n = torch.zeros(max(patterns) + 1, dtype=torch.int64), 0
        for size, values in patterns.items():
            first[size], n = n, n + len(values)
        self._first = first.to(device)

    def values(self, windows: Windows, turned: Tensor) -> Tensor:
        """The pattern's value at each place: float64 (..., D * D).

        Args:
            windows: where the patterns lie, sides (...).
            turned: bool (...), whether the pattern is transposed.
        """
        down = torch.where(turned, 1, windows.sizes)[..., None]
        across = torch.where(turned, windows.sizes, 1)[..., None]
        first = self._first[windows.sizes][..., None]
        place = _grid(windows.offset * down + first, torch.add, windows.offset * across)
        return self._values.take(place)
