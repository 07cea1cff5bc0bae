"""Whether a network gives a gradient on its input at all: int8, numpy and ONNX code gives none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.core.describe_diff import first_line
from robustbench_lite.core.numerics import is_out_of_memory


def missing_gradient(model: nn.Module, x: Tensor) -> str:
    """Why no gradient comes back to a network's input; empty where one does, even if it is zero.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K), without gradients at least.
        x: a few images (B, C, H, W).

    Raises:
        RuntimeError: torch's own, when memory runs out.

    Cost:
        One forward and one backward.
    """
    images = x.detach().clone().requires_grad_(True)
    with torch.enable_grad(), attacked(model):
        try:
            logits = model(images)
            if not logits.requires_grad:
                return (
                    "the model's logits carry no gradient (torch.no_grad or .detach() in its "
                    "forward?)"
                )
            torch.autograd.grad(logits.float().sum(), images)
        except Exception as error:  # of a user's network: any
            if is_out_of_memory(error):
                raise
            return f"no gradient reaches the model's input: {first_line(error)[:100]}"
    return ""
