"""Watching for NaN and infinity without waiting for the device at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError


class FiniteCheck:
    """Remembers, on the device, the first step at which a tensor was not finite.

    Args:
        device: where the tensors live.
    """

    _NEVER = torch.iinfo(torch.int64).max

    def __init__(self, device: torch.device) -> None:
        self._first_bad = torch.full((), self._NEVER, device=device)

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
        """Wait for the device once; raise InputError if anything was not finite.

        Args:
            what: the quantity watched.
            where: a format string; `{}` becomes the step.
        """
        if (step := int(self._first_bad.item())) != self._NEVER:
            raise InputError(
                f"{what} is not finite at {where.format(step)}: the network gives NaN or infinite "
                "values"
            )
