"""Carlini and Wagner's minimal-norm L2 attack with a binary search over its constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from robustbench_lite.attacks.contract import Cost, RunTerms, TargetableAttack
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.losses import lead_of, margin
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.projections import l2_norm, per_example
from robustbench_lite.attacks.targets import succeeded, target_labels_of
from robustbench_lite.attacks.threat_model import Norm

_BETA1, _BETA2, _ADAM_EPS = 0.9, 0.999, 1e-8  # Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1


@dataclass(frozen=True)
class CwL2(TargetableAttack):
    """C&W L2 (Carlini and Wagner 2017, arXiv:1608.04644, Sec. VI-A), targeted or not.

    Minimises ||delta||_2^2 + c * max(z_y - max_{j != y} z_j, -kappa), or with a target t, as in the
    paper, ||delta||_2^2 + c * max(max_{j != t} z_j - z_t, -kappa), by Adam, and searches c per
    example: halved towards the largest failing c after a success, else doubled towards the
    smallest succeeding one (times 10 while there is none), as in the authors' code.

    One deviation from the paper: instead of the tanh change of variables, delta itself is
    optimised and clipped to the box after each step. Under tanh a pixel that is exactly 0 or 1
    has a gradient factor of about 1e-6 and hardly moves; most MNIST pixels are of that kind.

    A call returns the closest misclassified image found (with a target: taken for it), in the
    box; a failed example, or one whose label is the target, yields its clean image. There is no
    ball: who has an eps compares the norm with it. It draws nothing.

    Args:
        kappa: margin by which the wrong class (the target) must lead; 0 for the smallest
            perturbation.
        lr: Adam's learning rate, in pixel units.
        steps: Adam steps per value of c.
        search_steps: values of c tried per example.
        initial_c: first value of c.
    """

    minimises_norm = True

    kappa: float
    lr: float
    steps: Annotated[int, Meta(ge=0)]
    search_steps: Annotated[int, Meta(ge=0)]
    initial_c: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        lower = torch.zeros_like(x[:, 0, 0, 0])  # (B,)
        upper = torch.full_like(lower, torch.inf)
        c = torch.full_like(lower, self.initial_c)
        best, best_norm = x, torch.full_like(lower, torch.inf)
        target = target_labels_of(self, model, x, y, terms)
        with attacked(model):
            for _ in range(self.search_steps):
                x_found, found_norm = _minimise(
                    model, x, y, c, target, kappa=self.kappa, lr=self.lr, steps=self.steps
                )
                success = torch.isfinite(found_norm)
                closer = found_norm < best_norm
                best = torch.where(per_example(closer, x), x_found, best)
                best_norm = torch.minimum(found_norm, best_norm)
                upper = torch.where(success, torch.minimum(upper, c), upper)
                lower = torch.where(success, lower, torch.maximum(lower, c))
                c = torch.where(torch.isinf(upper), c * 10.0, (lower + upper) / 2.0)
        return best

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        return Cost(self.steps + 1, self.steps) * self.search_steps + self.cost_of_choice


def _minimise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    c: Tensor,
    target: Tensor | None,
    *,
    kappa: float,
    lr: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Adam at fixed c (B,): closest success (B, C, H, W) and its norm (B,), inf where none."""
    delta = torch.zeros_like(x)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    best, best_norm = x, torch.full_like(c, torch.inf)
    finite = FiniteCheck(x.device, pixels=x)
    for step in range(steps + 1):
        delta = delta.detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            logits = model(x + delta).to(x.dtype)
            # (B,), above 0 when misclassified, or taken for the target
            lead = margin(logits, y) if target is None else lead_of(logits, target)
            # Plain squares, not a norm: their gradient at delta = 0 is 0.
            cost = delta.square().flatten(1).sum(dim=1) - c * lead.clamp_max(kappa)
        with torch.no_grad():
            norm = l2_norm(delta)
            hit = succeeded(logits.argmax(dim=1), y, target)
            closer = hit & (lead >= kappa) & (norm < best_norm)
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
