"""Watching for NaN and infinity without waiting for the device at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.pixels import check_pixels


class FiniteCheck:
    """Remembers, on the device, the first step at which a tensor was not finite.

    Args:
        device: where the tensors live.
        pixels: clean images, which have to be in [0, 1]; None where somebody looked already.
    """

    _NEVER, _PIXELS = torch.iinfo(torch.int64).max, -1

    def __init__(self, device: torch.device, pixels: Tensor | None = None) -> None:
        self._first_bad = torch.full((), self._NEVER, device=device)
        self._pixels = pixels
        if pixels is not None and pixels.numel():
            low, high = torch.aminmax(pixels.detach())
            inside = (low >= 0.0) & (high <= 1.0)
            self._first_bad = torch.where(inside, self._first_bad, self._PIXELS)

    def note(self, step: int, *tensors: Tensor) -> None:
        """Look at the tensors of one step; waits for nothing."""
        # NaN and infinity show in the extremes, found far faster than `isfinite` of every value.
        extremes = [value for each in tensors if each.numel() for value in torch.aminmax(each)]
        if not extremes:
            return
        finite = torch.stack([value.double() for value in extremes]).isfinite().all()
        bad_now = torch.where(finite, self._NEVER, step)
        self._first_bad = torch.minimum(self._first_bad, bad_now)

    def raise_if_not(self, what: str, where: str) -> None:
        """Wait for the device once; raise InputError if anything was not finite, or a pixel
        outside [0, 1].

        Args:
            what: the quantity watched.
            where: a format string; `{}` becomes the step.
        """
        if (step := int(self._first_bad.item())) == self._PIXELS and self._pixels is not None:
            check_pixels(self._pixels)
        if step != self._NEVER:
            raise InputError(
                f"{what} is not finite at {where.format(step)}: the network gives NaN or infinite "
                "values"
            )
