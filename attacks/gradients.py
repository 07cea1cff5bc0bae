"""Loss and input gradient of a network, once or averaged over passes of a randomised one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def loss_and_gradient(
    model: nn.Module,
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    eot: int = 1,
    mean_loss: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward and backward pass on the input alone.

    Args:
        model: maps (B, C, H, W) to logits (B, K); frozen by the caller (`attacked`).
        x: images (B, C, H, W).
        loss: logits (B, K) to one value per example (B,).
        eot: passes over which the gradient is averaged (expectation over transformation, Athalye
            et al. 2018, arXiv:1802.00420).
        mean_loss: average the losses too; else they are of the last pass, as in AutoAttack.

    Returns:
        Logits (B, K) of the last pass, losses (B,) and gradient (B, C, H, W); detached, of the type
        of `x` whatever the network's own.
    """
    total, seen = torch.zeros_like(x), []
    x = x.detach().requires_grad_(True)
    for _ in range(eot):
        with torch.enable_grad():
            logits = model(x).to(x.dtype)
            losses = loss(logits)
            (gradient,) = torch.autograd.grad(losses.sum(), x)
        total += gradient
        seen.append(losses.detach())
    kept = torch.stack(seen).mean(dim=0) if mean_loss else seen[-1]
    return logits.detach(), kept, total / eot if eot > 1 else total
