"""Random crop and flip of a whole batch on its device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_lite.core.errors import InputError


def pad_crop_flip(
    images: Tensor, generator: torch.Generator, *, padding: int, flip: bool
) -> Tensor:
    """Zero-pad each image, crop it back at a random place, mirror half of them.

    The usual CIFAR augmentation (He et al. 2016, arXiv:1512.03385, Sec. 4.2: pad 4, crop 32, flip),
    as a few kernels for the batch: no loop over images. Draws are made on the generator's device
    and moved, so a CPU generator gives the same augmentation on every device; a generator on the
    images' device copies nothing and never waits for the device.

    Args:
        images: uint8 (B, C, H, W).
        generator: the only source of randomness; it advances by 2 draws (3 with `flip`) an image.
        padding: pixels added on each side, >= 0; offsets are uniform on 0 .. 2 * padding.
        flip: whether to mirror left-right, each image with probability 1/2.

    Returns:
        uint8 (B, C, H, W), a new tensor.

    Raises:
        InputError: images that are not uint8 (B, C, H, W), or a negative padding.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}; pad_crop_flip takes uint8 "
            "(B, C, H, W)"
        )
    if padding < 0:
        raise InputError(f"padding={padding} is negative; allowed: 0 or more pixels")
    batch, channels, height, width = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        numbers = torch.randint(high, (batch, 1), generator=generator, device=generator.device)
        return numbers.to(device, non_blocking=True)

    rows = draw(2 * padding + 1) + torch.arange(height, device=device)  # (B, H)
    columns = draw(2 * padding + 1) + torch.arange(width, device=device)  # (B, W)
    if flip:
        columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    padded = functional.pad(images, (padding,) * 4)
    return padded[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
