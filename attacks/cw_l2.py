"""Carlini and Wagner's minimal-norm L2 attack with a binary search over its constant."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.losses import margin
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.projections import l2_norm, per_example

_BETA1, _BETA2, _ADAM_EPS = 0.9, 0.999, 1e-8  # Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1


def cw_l2(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    kappa: float,
    lr: float,
    steps: int,
    search_steps: int,
    initial_c: float,
    ids: Tensor,
    seed: int,
) -> Tensor:
    """C&W L2 (Carlini and Wagner 2017, arXiv:1608.04644, Sec. VI-A), untargeted.

    Minimises ||delta||_2^2 + c * max(z_y - max_{j != y} z_j, -kappa) by Adam, and searches c per
    example: halved towards the largest failing c after a success, else doubled towards the
    smallest succeeding one (times 10 while there is none), as in the authors' code.

    One deviation from the paper: instead of the tanh change of variables, delta itself is
    optimised and clipped to the box after each step. Under tanh a pixel that is exactly 0 or 1
    has a gradient factor of about 1e-6 and hardly moves; most MNIST pixels are of that kind.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,), int64.
        kappa: margin by which the wrong class must lead; 0 for the smallest perturbation.
        lr: Adam's learning rate, in pixel units.
        steps: Adam steps per value of c.
        search_steps: values of c tried per example.
        initial_c: first value of c.
        ids: example ids (B,); unused, the attack draws nothing.
        seed: unused likewise.

    Returns:
        x_adv (B, C, H, W) in the box: the closest misclassified image found; a failed example
        yields its clean image. There is no ball: who has an eps compares the norm with it.

    Raises:
        InputError: when a loss or gradient is not finite.

    Cost:
        `search_steps * (steps + 1)` forwards, `search_steps * steps` backwards.
    """
    lower = torch.zeros_like(x[:, 0, 0, 0])  # (B,)
    upper = torch.full_like(lower, torch.inf)
    c = torch.full_like(lower, initial_c)
    best, best_norm = x, torch.full_like(lower, torch.inf)
    with attacked(model):
        for _ in range(search_steps):
            x_found, found_norm = _minimise(model, x, y, c, kappa=kappa, lr=lr, steps=steps)
            success = torch.isfinite(found_norm)
            closer = found_norm < best_norm
            best = torch.where(per_example(closer, x), x_found, best)
            best_norm = torch.minimum(found_norm, best_norm)
            upper = torch.where(success, torch.minimum(upper, c), upper)
            lower = torch.where(success, lower, torch.maximum(lower, c))
            c = torch.where(torch.isinf(upper), c * 10.0, (lower + upper) / 2.0)
    return best


def check_parameters(attack: str, params: Mapping[str, object], num_classes: int) -> None:
    """Raise InputError for parameters that are no numbers of the right kind."""
    for key in ("steps", "search_steps"):
        if not isinstance(params[key], int):
            raise InputError(f"{key}={params[key]!r} must be an integer")
    for key in ("kappa", "lr", "initial_c"):
        if not isinstance(params[key], int | float):
            raise InputError(f"{key}={params[key]!r} must be a number")


def _minimise(
    model: nn.Module, x: Tensor, y: Tensor, c: Tensor, *, kappa: float, lr: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Adam at fixed c (B,): closest success (B, C, H, W) and its norm (B,), inf where none."""
    delta = torch.zeros_like(x)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    best, best_norm = x, torch.full_like(c, torch.inf)
    finite = FiniteCheck(x.device)
    for step in range(steps + 1):
        delta = delta.detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            logits = model(x + delta).to(x.dtype)
            lead = margin(logits, y)  # (B,), above 0 when misclassified
            # Plain squares, not a norm: their gradient at delta = 0 is 0.
            cost = delta.square().flatten(1).sum(dim=1) - c * lead.clamp_max(kappa)
        with torch.no_grad():
            norm = l2_norm(delta)
            closer = (logits.argmax(dim=1) != y) & (lead >= kappa) & (norm < best_norm)
            best = torch.where(per_example(closer, x), x + delta, best)
            best_norm = torch.where(closer, norm, best_norm)
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(cost.sum(), delta)
        with torch.no_grad():
            finite.note(step, gradient)
            first = _BETA1 * first + (1 - _BETA1) * gradient
            second = _BETA2 * second + (1 - _BETA2) * gradient.square()
            unbiased = first / (1 - _BETA1 ** (step + 1))
            scale = (second / (1 - _BETA2 ** (step + 1))).sqrt() + _ADAM_EPS
            delta = (x + delta - lr * unbiased / scale).clamp(0.0, 1.0) - x
    finite.raise_if_not("gradient", f"step {{}} of {steps} of cw_l2")
    return best.detach(), best_norm
