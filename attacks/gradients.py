"""Loss and input gradient of a network, once or averaged over passes of a randomised one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def loss_and_gradient(
    model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], *, eot: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward and backward pass on the input alone.

    Args:
        model: maps (B, C, H, W) to logits (B, K); frozen by the caller (`attacked`).
        x: images (B, C, H, W).
        loss: logits (B, K) to one value per example (B,).
        eot: passes over which the gradient is averaged (expectation over transformation, Athalye
            et al. 2018, arXiv:1802.00420); logits and losses are of the last, as in AutoAttack.

    Returns:
        Logits (B, K) and losses (B,), both of the last pass, and gradient (B, C, H, W); detached,
        at least float32.
    """
    total = torch.zeros_like(x)
    x = x.detach().requires_grad_(True)
    for _ in range(eot):
        with torch.enable_grad():
            logits = model(x)
            logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
            losses = loss(logits)
            (gradient,) = torch.autograd.grad(losses.sum(), x)
        total += gradient
    return logits.detach(), losses.detach(), total / eot if eot > 1 else total
