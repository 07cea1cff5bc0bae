"""How far apart two answers of a network on the same images are."""

from __future__ import annotations

import torch
from torch import Tensor


def logit_gaps(logits: Tensor, others: Tensor) -> Tensor:
    """The largest difference (B,) of an image's logits, both (B, K), relative to their size.

    Without what all classes share: a constant added to the logits would hide any difference. Of
    each image by its own size: a few huge logits would hide the rest. A thousandth of the logits as
    they are is what float32 leaves to see of them.
    """
    level, other = (each - each.mean(dim=1, keepdim=True) for each in (logits, others))
    size = torch.maximum(level.abs().amax(dim=1), 1e-3 * logits.abs().amax(dim=1))
    return (level - other).abs().amax(dim=1) / size.clamp_min(1e-30)
