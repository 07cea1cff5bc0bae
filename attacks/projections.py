"""Projections onto norm balls and the pixel box, and the norms themselves, per example."""

from __future__ import annotations

from collections.abc import Callable

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


_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def l1_projection(x: Tensor, delta: Tensor, eps: float | Tensor) -> Tensor:
    """Nearest allowed perturbation: ||delta'||_1 <= eps and 0 <= x + delta' <= 1, per example.

    The exact projection onto ball and box at once of Croce and Hein 2021, arXiv:2103.01208: all
    entries shrink by one multiplier per example and stop at the box. It is found to the last bit
    by bisection, in a third of the time of the sort that the authors use.

    Args:
        x: centres (B, ...), inside [0, 1], float32 or float64.
        delta: perturbations (B, ...), of the same type.
        eps: radius, at least 0, in [0, 1] units; or a tensor of them, (B,) or (1,).

    Returns:
        delta' (B, ...): the nearest up to rounding towards 0, so that x + delta' stays inside;
        entries are whole multiples of the machine epsilon of the type (float32: 2**-23).
    """
    size, x_flat = delta.abs().flatten(1), x.flatten(1)
    buffer = torch.gt(delta.flatten(1), 0.0, out=torch.empty_like(size))
    room = torch.lerp(x_flat, 1.0 - x_flat, buffer)  # to the wall ahead; weights 0, 1 are exact
    limit = eps[:, None] if isinstance(eps, Tensor) else eps

    def outside(multiplier: Tensor) -> Tensor:
        torch.sub(size, multiplier, out=buffer)
        return buffer.clamp_(max=room).clamp_(min=0.0).sum(dim=1, keepdim=True) > limit

    multiplier = _largest_float(outside, like=size, more=1)
    multiplier = multiplier.masked_fill(~outside(torch.zeros_like(multiplier)), 0.0)
    shrunk = size.sub_(multiplier).clamp_(max=room).clamp_(min=0.0)
    # Cut to the spacing of floats below 2: equal moves of many pixels would else all round up.
    spacing = torch.finfo(size.dtype).eps
    shrunk.div_(spacing).trunc_().mul_(spacing)
    return delta.sign().mul_(shrunk.view_as(delta))


def kth_largest(values: Tensor, k: Tensor) -> Tensor:
    """The k-th largest entry of each row, k per row.

    Args:
        values: (B, D), at least 0, float32 or float64.
        k: (B,), from 1 to D.

    Returns:
        (B,), entries of `values`.
    """
    buffer = torch.empty_like(values)

    def enough(threshold: Tensor) -> Tensor:
        return torch.ge(values, threshold, out=buffer).sum(dim=1, keepdim=True) >= k[:, None]

    return _largest_float(enough, like=values).squeeze(1)


def _largest_float(holds: Callable[[Tensor], Tensor], *, like: Tensor, more: int = 0) -> Tensor:
    """The largest float (B, 1) for which a condition on each row holds, and `more` floats above.

    Floats from 0 up have the order of their bits, so 31 questions (63) settle every bit. The
    condition holds at 0 and from some number on no longer, and never at NaN.
    """
    integer = _INTEGERS[like.dtype]
    bits = torch.zeros(len(like), 1, dtype=integer, device=like.device)
    for place in reversed(range(torch.iinfo(integer).bits - 1)):
        trial = bits | (1 << place)
        bits = torch.where(holds(trial.view(like.dtype)), trial, bits)
    return (bits + more).view(like.dtype)
