"""`rbl.craft`: adversarial images for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import get_args

import torch
from torch import Tensor

from robustbench_lite.api.batch import CheckedNetwork, Model, check_batch
from robustbench_lite.attacks.first_order.pgd import Keep, Start, pgd
from robustbench_lite.attacks.model_state import BnMode
from robustbench_lite.attacks.threat_model import Norm, ThreatModel, parse_eps
from robustbench_lite.core.errors import InputError


def craft(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: str | float | Fraction = Fraction(8, 255),  # Madry et al. 2018, Sec. 5, CIFAR-10
    alpha: str | float | Fraction = Fraction(2, 255),  # likewise
    steps: int = 10,  # Zhang et al. 2019 (TRADES), Sec. 5, and most defenses after it
    loss: str = "ce",
    norm: Norm = "Linf",
    start: Start | None = None,
    keep: Keep = "last",
    kappa: float | None = None,
    bn_mode: BnMode = "eval",
    seed: int | None = None,
    ids: Tensor | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Adversarial images by PGD (Madry et al. 2018, arXiv:1706.06083), as the trainers craft them.

    The model's modes, parameters and their `.grad` are left as they were. With `bn_mode="train"`
    the passes move BatchNorm's running statistics, as in the code of Madry et al. and Rice et al.

    Args:
        model: maps images to logits (B, K).
        x: images (B, C, H, W) in [0, 1], of a floating-point type.
        y: labels (B,), int64; `"kl"` and `"oe"` do not use them.
        eps: radius in [0, 1] units: a number or text, such as `"8/255"`.
        alpha: step size, likewise.
        steps: gradient steps.
        loss: what is ascended: `"ce"`, `"kl"` (to the clean output: TRADES), `"margin"` (needs
            `kappa`), `"dlr"`, or for outliers `"oe"`.
        norm: `"Linf"` or `"L2"`.
        start: `"uniform"`, `"gaussian"` (0.001 N(0, 1)) or `"none"`; None is Gaussian for `"kl"`,
            as in TRADES' code, and uniform for the others, as in Madry et al.
        keep: which iterate comes back: `"last"`, `"first_success"` or `"best_loss"`.
        kappa: confidence of the margin loss; 50 in the "CW" of most defense papers.
        bn_mode: BatchNorm while crafting, `"eval"` or `"train"`.
        seed: fixes the random start, together with `ids`; torch's random state then plays no part.
            None takes one number from torch's global CPU generator, so that each call starts
            elsewhere and `torch.manual_seed` repeats a whole training.
        ids: of the examples (B,), int64 of at least 0; by default their places in the batch. With
            ids of the data set, an example's start does not depend on its batch.
        on_step: called with (k, logits (B, K) at iterate k) before step k; see
            `losses.steps_resisted`.

    Returns:
        x_adv (B, C, H, W), detached, in the ball and in [0, 1].

    Raises:
        InputError: for a wrong shape or type, pixels outside [0, 1], labels that are no class,
            unknown options, and where a loss or gradient is not finite.

    Cost:
        As of `pgd` with one restart: `steps` forward and backward passes, one forward for `"kl"`.
    """
    threat = ThreatModel(norm, parse_eps(eps))  # raises on a radius in 0-255 units
    step_size = float(parse_eps(alpha, "alpha"))
    check_batch(x, y)
    if bn_mode not in get_args(BnMode):
        raise InputError(f"bn_mode={bn_mode!r} is unknown; available: eval, train")
    if ids is None:
        ids = torch.arange(len(x), device=x.device)
    elif ids.dtype != torch.int64 or ids.shape != y.shape:
        raise InputError(f"ids is {ids.dtype} {tuple(ids.shape)}; it must be int64 ({len(x)},)")
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    with torch.inference_mode(False):  # else no gradient could be had
        x, y = (one.clone() if one.is_inference() else one.detach() for one in (x, y))
        return pgd(
            CheckedNetwork(model, y),
            x,
            y,
            norm=norm,
            eps=float(threat.eps),
            alpha=step_size,
            steps=steps,
            restarts=1,
            loss=loss,
            start=start or ("gaussian" if loss == "kl" else "uniform"),
            keep=keep,
            ids=ids,
            seed=seed,
            kappa=kappa,
            mode=bn_mode,
            stream="crafting",
            on_step=on_step,
        )
