"""Random crop, flip and rotation of a whole batch on its device."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_lite.core.errors import InputError

PaddingMode = Literal["zeros", "reflect"]


def pad_crop_flip(
    images: Tensor,
    generator: torch.Generator,
    *,
    padding: int,
    flip: bool,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Pad each image, crop it back at a random place, mirror half of them.

    The usual CIFAR augmentation (He et al. 2016, arXiv:1512.03385, Sec. 4.2: pad 4, crop 32, flip),
    as a few kernels for the batch: no loop over images. Draws are made on the generator's device
    and moved, so a CPU generator gives the same augmentation on every device; a generator on the
    images' device copies nothing and never waits for the device.

    Args:
        images: uint8 or float32 (B, C, H, W).
        generator: the only source of randomness; it advances by 2 draws (3 with `flip`) an image.
        padding: pixels added on each side, >= 0; offsets are uniform on 0 .. 2 * padding.
        flip: whether to mirror left-right, each image with probability 1/2.
        padding_mode: `"zeros"`, or `"reflect"` (the edge is not repeated), as in Rice's code.

    Returns:
        (B, C, H, W) of the same type, a new tensor.

    Raises:
        InputError: images that are not uint8 or float32 (B, C, H, W), a padding below 0 or,
            reflected, not below the image's sides, or another mode.
    """
    _check_crop(images, padding, padding_mode)
    batch, channels, height, width = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        numbers = torch.randint(high, (batch, 1), generator=generator, device=generator.device)
        return numbers.to(device, non_blocking=True)

    rows = draw(2 * padding + 1) + torch.arange(height, device=device)  # (B, H)
    columns = draw(2 * padding + 1) + torch.arange(width, device=device)  # (B, W)
    if flip:
        columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    if padding_mode == "reflect":
        rows, columns = _reflected(rows - padding, height), _reflected(columns - padding, width)
    else:
        images = functional.pad(images, (padding,) * 4)
    return images[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _check_crop(images: Tensor, padding: int, padding_mode: str) -> None:
    if images.dtype not in (torch.uint8, torch.float32) or images.ndim != 4:
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}; pad_crop_flip takes uint8 or "
            "float32 (B, C, H, W)"
        )
    if padding < 0:
        raise InputError(f"padding={padding} is negative; allowed: 0 or more pixels")
    if padding_mode not in get_args(PaddingMode):
        raise InputError(
            f"padding_mode={padding_mode!r}; allowed: {', '.join(get_args(PaddingMode))}"
        )
    height, width = images.shape[2:]
    if padding_mode == "reflect" and padding >= min(height, width):
        raise InputError(
            f"padding={padding} is too much to reflect images of {height}x{width}; allowed: below "
            f"{min(height, width)}"
        )


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places outside 0 .. size - 1 mirrored at the first or the last one."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def rotate(images: Tensor, generator: torch.Generator, *, degrees: float) -> Tensor:
    """Rotate each image about its centre by an angle uniform on [-degrees, degrees].

    The nearest pixel is taken and corners are filled with 0, as torchvision's `RandomRotation`
    does by default.

    Args:
        images: uint8 or float32 (B, C, H, W).
        generator: the only source of randomness; one draw an image, on the generator's device.
        degrees: largest angle, in [0, 180].

    Returns:
        (B, C, H, W) of the same type, a new tensor.
    """
    batch, channels, height, width = images.shape
    device = images.device
    drawn = torch.rand((batch, 1, 1), generator=generator, device=generator.device)
    angle = (drawn.to(device, non_blocking=True) * 2 - 1) * math.radians(degrees)
    y = torch.arange(height, device=device).view(1, height, 1) - (height - 1) / 2
    x = torch.arange(width, device=device).view(1, 1, width) - (width - 1) / 2
    rows = (x * angle.sin() + y * angle.cos() + (height - 1) / 2).round().long()  # (B, H, W)
    columns = (x * angle.cos() - y * angle.sin() + (width - 1) / 2).round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = images[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows.clamp(0, height - 1)[:, None],
        columns.clamp(0, width - 1)[:, None],
    ]
    return found * inside[:, None]
