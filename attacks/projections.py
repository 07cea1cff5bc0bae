"""Projections onto norm balls and the pixel box, and the norms themselves, per example."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.attacks.threat_model import Norm


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Shape (B,) to (B, 1, ..., 1), so that it broadcasts over `like` (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def l2_norm(delta: Tensor) -> Tensor:
    """Euclidean norm of each example: (B, ...) to (B,)."""
    norms: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return norms


def l1_norm(delta: Tensor) -> Tensor:
    """Sum of absolute entries of each example: (B, ...) to (B,)."""
    return delta.flatten(1).abs().sum(dim=1)


def linf_norm(delta: Tensor) -> Tensor:
    """Largest absolute entry of each example: (B, ...) to (B,)."""
    return delta.flatten(1).abs().amax(dim=1)


def project(x_adv: Tensor, x: Tensor, *, norm: Norm, eps: float) -> Tensor:
    """Nearest point of the ball around `x` (per example), then clipped to [0, 1].

    Args:
        x_adv: points to project (B, C, H, W).
        x: centres (B, C, H, W), inside [0, 1].
        norm: `"Linf"` or `"L2"`.
        eps: radius in [0, 1] units.

    Returns:
        (B, C, H, W). For Linf the exact projection onto ball and box; for L2 onto the ball of
        radius eps (1 - 1e-6) first, then the box, which stays in both because the centre is in it.
    """
    if norm == "Linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0.0, 1.0)
    delta = x_adv - x
    size = l2_norm(delta)
    # A millionth inside, so that float32 rounding of x + delta cannot leave the ball again;
    # points inside already get factor 1 exactly.
    factor = torch.where(size > eps, eps * (1.0 - 1e-6) / size.clamp_min(1e-30), 1.0)
    return (x + delta * per_example(factor, delta)).clamp(0.0, 1.0)


def steepest_ascent(gradient: Tensor, *, norm: Norm) -> Tensor:
    """Unit step of steepest ascent: sign for Linf, normalised gradient for L2 (0 stays 0)."""
    if norm == "Linf":
        return gradient.sign()
    # Scaled by the largest entry first: squares of tiny gradients would underflow to 0.
    largest = linf_norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = gradient / per_example(largest, gradient)
    return scaled / per_example(l2_norm(scaled).clamp_min(1e-30), gradient)
