"""Projected gradient descent, the loop behind PGD-20, CW-Linf-30 and every crafting step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from robustbench_lite.attacks.contract import Cost, Count, RunTerms, TargetableAttack
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.losses import (
    TARGETABLE_LOSSES,
    attack_loss,
    check_loss,
    loss_towards,
)
from robustbench_lite.attacks.model_state import BnMode, attacked
from robustbench_lite.attacks.projections import (
    l2_norm,
    per_example,
    project,
    steepest_ascent,
)
from robustbench_lite.attacks.targets import succeeded, target_labels_of
from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import normal, uniform

Start = Literal["uniform", "gaussian", "none"]
Keep = Literal["last", "first_success", "best_loss"]


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float,
    alpha: float,
    steps: int,
    restarts: int,
    loss: str,
    start: Start,
    keep: Keep,
    ids: Tensor,
    seed: int,
    kappa: float | None = None,
    mode: BnMode = "eval",
    stream: str = "pgd",
    on_step: Callable[[int, Tensor], None] | None = None,
    finite: FiniteCheck | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """PGD (Madry et al. 2018, arXiv:1706.06083, Sec. 2.1), untargeted unless given a `target`.

    Each step moves by `alpha` along the sign (Linf) or the normalised gradient (L2) of the loss,
    then projects onto the ball and onto [0, 1].

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,), int64.
        norm: `"Linf"` or `"L2"`.
        eps: radius, in [0, 1] units.
        alpha: step size, in the same units.
        steps: gradient steps per restart; 0 returns the start.
        restarts: independent starts, at least 1. A success is kept over a failure, then the
            larger final loss (later restart on a tie, as in Rice et al. 2020).
        loss: a name of `losses.LOSSES`: `"ce"`, `"margin"` (needs kappa), `"dlr"`, `"kl"` (to the
            clean output), or those of outliers, for which labels do not matter.
        start: `"uniform"` in the ball (L2: Gaussian direction, radius uniform in [0, eps]; as Rice
            et al.), `"gaussian"` for 0.001 N(0, 1) projected by the first step only (TRADES), or
            `"none"`. All are clipped to [0, 1], except the Gaussian one before a step.
        keep: which iterate comes back: `"last"`; `"first_success"`, the first misclassified one
            (else the last); `"best_loss"`, that of the largest loss (any misclassified one
            before any other).
        ids: example ids (B,), int64: with the seed they fix the random start.
        seed: of the random start.
        kappa: confidence at which the margin loss saturates.
        mode: BatchNorm mode while crafting; evaluation always uses `"eval"`.
        stream: name of the random stream, so that two attacks on one example draw apart.
        on_step: called with (k, logits (B, K) at iterate k) for each forward pass of a restart;
            k = 0 is the start. GAIRAT counts its kappa from it.
        finite: takes the notes of losses and gradients, for a caller who looks later (training
            waits for the device once an epoch); None raises here, at the end of each restart.
        target: classes (B,), int64, that the images should be taken for: the loss is then
            `losses.loss_towards`, and "misclassified" above means taken for that class. An image
            whose label it is, is left out. None: any wrong class will do.

    Returns:
        x_adv (B, C, H, W), detached, inside ball and box; a failed example yields what `keep` says,
        one that is left out its clean image.

    Raises:
        InputError: on unknown options; without `finite` on images outside [0, 1]; or when a loss
            or gradient is not finite (names the step).

    Cost:
        `steps` forwards and backwards per restart, one more forward unless `keep="last"` with one
        restart, and one for the clean output with the KL loss.
    """
    _check(norm=norm, steps=steps, restarts=restarts, start=start, keep=keep)
    check_loss(loss, kappa)
    kept: _Scored | None = None
    with attacked(model, mode=mode):
        clean_logits = _forward(model, x) if loss == "kl" else None

        def score(x_adv: Tensor, step: int) -> _Scored:
            """Losses of an iterate, with a graph, and which rows are a success."""
            logits = _full_precision(model(x_adv))
            if target is None:
                values = attack_loss(loss, logits, y, clean_logits=clean_logits, kappa=kappa)
            else:
                values = loss_towards(loss, logits, target, kappa=kappa)
            if on_step is not None:
                on_step(step, logits.detach())
            prediction = logits.detach().argmax(dim=1)
            return _Scored(x_adv.detach(), values, succeeded(prediction, y, target))

        for restart in range(restarts):
            x_adv = _start(x, norm, eps, start, ids=ids, seed=seed, stream=stream, restart=restart)
            if steps == 0 or keep != "last":  # no step will bring it inside
                x_adv = project(x_adv, x, norm=norm, eps=eps) if steps else x_adv.clamp(0.0, 1.0)
            trail: _Scored | None = None
            watch = finite or FiniteCheck(x.device, pixels=x)
            for step in range(steps):
                x_adv = x_adv.detach().requires_grad_(True)
                with torch.enable_grad():
                    now = score(x_adv, step)
                    (gradient,) = torch.autograd.grad(now.loss.sum(), x_adv)
                with torch.no_grad():
                    watch.note(step, now.loss, gradient)
                    if keep != "last":
                        trail = now.after(trail, keep)
                    x_adv = x_adv + alpha * steepest_ascent(gradient, norm=norm)
                    x_adv = project(x_adv, x, norm=norm, eps=eps)
            if finite is None:
                watch.raise_if_not("loss or gradient", f"step {{}} of {steps}")
            if keep == "last" and restarts == 1:
                return _unless_left_out(x_adv.detach(), x, y, target)
            with torch.no_grad():
                end = score(x_adv, steps).after(trail, keep)
                kept = end.after(kept, "best_loss")
    assert kept is not None
    return _unless_left_out(kept.x_adv, x, y, target)


def _unless_left_out(x_adv: Tensor, x: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """`x_adv`, and the clean image where the target is the label."""
    if target is None:
        return x_adv
    return torch.where(per_example(target == y, x), x, x_adv)


@dataclass
class _Scored:
    """Iterates with their losses (B,) and whether each is a success (B,)."""

    x_adv: Tensor
    loss: Tensor
    wrong: Tensor

    def after(self, earlier: _Scored | None, keep: Keep) -> _Scored:
        """Per example, this iterate or the earlier one, as `keep` prefers."""
        if earlier is None or keep == "last":
            return self
        if keep == "first_success":
            mine = ~earlier.wrong
        else:
            larger = (self.wrong == earlier.wrong) & (self.loss.detach() >= earlier.loss)
            mine = larger | (self.wrong & ~earlier.wrong)
        return _Scored(
            torch.where(per_example(mine, self.x_adv), self.x_adv, earlier.x_adv),
            torch.where(mine, self.loss.detach(), earlier.loss.detach()),
            torch.where(mine, self.wrong, earlier.wrong),
        )


def _full_precision(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return _full_precision(model(x))


def _start(
    x: Tensor,
    norm: Norm,
    eps: float,
    start: Start,
    *,
    ids: Tensor,
    seed: int,
    stream: str,
    restart: int,
) -> Tensor:
    draw_normal = partial(normal, ids=ids, seed=seed, stream=stream, restart=restart)
    draw_uniform = partial(uniform, ids=ids, seed=seed, stream=stream, restart=restart)
    if start == "none":
        return x
    if start == "gaussian":
        return x + 0.001 * draw_normal(x.shape, step=0).to(x.dtype)
    if norm == "Linf":
        noise = (2.0 * draw_uniform(x.shape, step=0).to(x.dtype) - 1.0) * eps
        return (x + noise).clamp(0.0, 1.0)
    direction = draw_normal(x.shape, step=0).to(x.dtype)
    radius = draw_uniform(x[:, :1, :1, :1].shape, step=1).to(x.dtype) * eps
    noise = direction / per_example(l2_norm(direction), x) * radius
    return (x + noise).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Pgd(TargetableAttack):
    """`pgd` as an attack of a protocol; see there for every parameter."""

    norms = ("Linf", "L2")
    searches_elsewhere = True

    loss: str
    alpha: float
    steps: Annotated[int, Meta(ge=0)]
    restarts: Count
    start: Start
    keep: Keep
    kappa: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loss(self.loss, self.kappa)
        if self.target is not None and self.loss not in TARGETABLE_LOSSES:
            allowed = ", ".join(TARGETABLE_LOSSES)
            raise InputError(f"loss={self.loss!r} knows no target; with one, choose from {allowed}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        return pgd(
            terms.searched(model),
            x,
            y,
            norm=terms.norm,
            eps=terms.eps,
            loss=self.loss,
            alpha=self.alpha,
            steps=self.steps,
            restarts=self.restarts,
            start=self.start,
            keep=self.keep,
            kappa=self.kappa,
            ids=terms.ids,
            seed=terms.seed,
            stream=terms.stream,
            target=target_labels_of(self, model, x, y, terms),
        )

    def check(self, threat: ThreatModel, num_classes: int | None = None) -> None:
        super().check(threat)
        if (
            self.target is None
            and self.loss == "dlr"
            and num_classes is not None
            and num_classes < 3
        ):
            raise InputError(f"the DLR loss needs at least 3 classes, the data has {num_classes}")

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        scored = self.keep != "last" or self.restarts > 1  # the last iterate gets a pass too
        clean = self.loss == "kl"
        steps = self.steps * self.restarts
        return Cost(steps + scored * self.restarts + clean, steps) + self.cost_of_choice


def _check(*, norm: str, steps: int, restarts: int, start: str, keep: str) -> None:
    for what, value, allowed in (
        ("norm", norm, ("Linf", "L2")),
        ("start", start, ("uniform", "gaussian", "none")),
        ("keep", keep, ("last", "first_success", "best_loss")),
    ):
        if value not in allowed:
            raise InputError(f"{what}={value!r} is unknown; available: {', '.join(allowed)}")
    if steps < 0 or restarts < 1:
        raise InputError(f"steps={steps} and restarts={restarts}: at least 0 and 1")
