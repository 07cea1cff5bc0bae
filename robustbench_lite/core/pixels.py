"""Pixels are in [0, 1]: every radius is in these units."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError

_OVERSHOOT = 0.2  # a normalised image goes further


def check_pixels(images: Tensor, name: str = "") -> None:
    """Raise InputError where float images are not all finite and in [0, 1].

    Args:
        images: of any shape; whole numbers need no look.
        name: of the data, for the message.
    """
    if not images.is_floating_point() or not images.numel():
        return
    low, high = (float(edge) for edge in torch.aminmax(images.detach()))
    if low >= 0.0 and high <= 1.0:
        return
    if not (math.isfinite(low) and math.isfinite(high)):
        cure = "they hold NaN or infinite pixels"
    elif low >= 0.0 and 1.5 < high <= 255.0:
        cure = "divide by 255, or give them as uint8"
    elif low >= -_OVERSHOOT and high <= 1.0 + _OVERSHOOT:
        cure = "clamp them (images.clamp(0, 1)): resizing may overshoot"
    else:
        cure = "were they normalised? Do that inside the network, and give pixels here"
    what = f"images of {name}" if name else "images"
    raise InputError(f"{what} are in [{low:.8g}, {high:.8g}]; they must be in [0, 1]: {cure}")
