"""PGD on the grid of 8-bit images: the attack that ALOE trains with and is tested with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from msgspec import Meta
from torch import Tensor, nn

from robustbench_lite.attacks.contract import Attack, Cost, RunTerms
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.losses import attack_loss
from robustbench_lite.attacks.model_state import BnMode, attacked
from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import uniform

Rounding = Literal["round", "truncate"]
GridStart = Literal["uniform", "none"]
GridLoss = Literal["ce", "oe", "to_uniform", "to_one_hot"]
_LEVELS = 255  # steps of an 8-bit pixel from 0 to 1


def pgd_int(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    alpha: float,
    steps: int,
    loss: str,
    rounding: Rounding,
    start: GridStart,
    ids: Tensor,
    seed: int,
    norm: Norm = "Linf",
    mode: BnMode = "eval",
    stream: str = "pgd_int",
    finite: FiniteCheck | None = None,
) -> Tensor:
    """Linf PGD whose perturbation is a whole number of 1/255 (Chen et al. 2020, arXiv:2003.09711).

    With d in units of 1/255, g the sign of the gradient and e = 255 eps, a step is
    d <- clip(grid(d + 255 alpha g), -e, e), then d <- 255 (clip(x + d / 255, 0, 1) - x).

    The authors' grid is truncation. In float32 d comes back from the box as 2.9999998, where 3 was
    meant; adding 1 and truncating gives 3 again, for ever, so for most pixel values their attack
    stops before it has gone far when eps > 1/255. Rounding has no such fault, and at eps = 1/255
    both go the same way (but for the start: truncated, it is always 0 there).

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1], 8-bit ones if the result is to be such.
        y: labels (B,), int64; used by `ce` alone.
        eps: radius, in [0, 1] units, a whole number of 1/255.
        alpha: step size, likewise.
        steps: gradient steps; 0 returns the start.
        loss: what is ascended: `"ce"`, `"oe"`, `"to_uniform"` or `"to_one_hot"`.
        rounding: `"round"` (to even on a tie), or `"truncate"` as the authors do.
        start: `"uniform"`, grid(U(-e, e)), or `"none"`.
        ids: example ids (B,), int64: with the seed they fix the random start.
        seed: of the random start.
        norm: `"Linf"` only; a protocol passes its own.
        mode: BatchNorm mode; evaluation always uses `"eval"`.
        stream: name of the random stream, so that two attacks on one example draw apart.
        finite: takes the notes of losses and gradients, for a caller who looks later; None raises
            here, at the end.

    Returns:
        The last iterate (B, C, H, W), detached, inside ball and box.

    Raises:
        InputError: on unknown options, an eps or alpha off the grid, or when a loss or gradient is
            not finite (names the step).

    Cost:
        `steps` forwards and backwards.
    """
    _check(norm=norm, steps=steps, loss=loss, rounding=rounding, start=start)
    radius, step_size = whole_levels("eps", eps), whole_levels("alpha", alpha)
    grid = torch.round if rounding == "round" else torch.trunc
    x = x.detach()
    # A tensor: dividing by a Python number, a GPU would multiply by a rounded reciprocal.
    levels = torch.full((), float(_LEVELS), dtype=x.dtype, device=x.device)

    def image(delta: Tensor) -> Tensor:
        return (x + delta / levels).clamp(0.0, 1.0)

    def in_box(delta: Tensor) -> Tensor:
        return (image(delta) - x) * levels

    delta = torch.zeros_like(x)  # (B, C, H, W), in units of 1/255
    if start == "uniform":
        draw = uniform(x.shape, ids=ids, seed=seed, stream=stream, restart=0, step=0).to(x.dtype)
        delta = in_box(grid((2.0 * draw - 1.0) * radius))
    watch = finite or FiniteCheck(x.device, pixels=x)
    with attacked(model, mode=mode):
        for step in range(steps):
            x_adv = image(delta).requires_grad_(True)
            with torch.enable_grad():
                logits = model(x_adv).to(x.dtype)
                values = attack_loss(loss, logits, y, clean_logits=None, kappa=None)
                (gradient,) = torch.autograd.grad(values.sum(), x_adv)
            watch.note(step, values.detach(), gradient)
            moved = grid(delta + step_size * gradient.sign())
            delta = in_box(moved.clamp(-radius, radius))
    if finite is None:
        watch.raise_if_not("loss or gradient", f"step {{}} of {steps}")
    return image(delta)


def whole_levels(name: str, value: float) -> int:
    """`value`, in [0, 1] units, as a whole number of 1/255.

    Raises:
        InputError: when it is none, or outside [0, 1].
    """
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{name}={value:g} is not in [0, 1]; did you mean {value:g}/255?")
    levels = value * _LEVELS
    if abs(levels - round(levels)) > 1e-6:
        raise InputError(
            f"{name}={value:g} is {levels:.6g}/255: the attack moves on the grid of 8-bit images, "
            "so it must be a whole number of 1/255"
        )
    return round(levels)


@dataclass(frozen=True)
class PgdInt(Attack):
    """`pgd_int` as an attack of a protocol; see there for every parameter."""

    norms = ("Linf",)
    searches_elsewhere = True

    loss: GridLoss
    alpha: float
    steps: Annotated[int, Meta(ge=0)]
    rounding: Rounding
    start: GridStart

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_levels("alpha", self.alpha)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        return pgd_int(
            terms.searched(model),
            x,
            y,
            eps=terms.eps,
            alpha=self.alpha,
            steps=self.steps,
            loss=self.loss,
            rounding=self.rounding,
            start=self.start,
            ids=terms.ids,
            seed=terms.seed,
            norm=terms.norm,
            stream=terms.stream,
        )

    def check(self, threat: ThreatModel, num_classes: int | None = None) -> None:
        super().check(threat)
        whole_levels("eps", float(threat.eps))

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        return Cost(self.steps, self.steps)


def _check(*, norm: str, steps: int, loss: str, rounding: str, start: str) -> None:
    for what, value, allowed in (
        ("norm", norm, ("Linf",)),
        ("loss", loss, get_args(GridLoss)),
        ("rounding", rounding, get_args(Rounding)),
        ("start", start, get_args(GridStart)),
    ):
        if value not in allowed:
            raise InputError(f"{what}={value!r} is unknown here; available: {', '.join(allowed)}")
    if steps < 0:
        raise InputError(f"steps={steps} must be at least 0")
