"""The fast gradient sign method."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.pgd import pgd
from robustbench_lite.attacks.threat_model import Norm


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float,
    ids: Tensor,
    seed: int,
) -> Tensor:
    """One step of length `eps` on cross-entropy from x (Goodfellow et al. 2015, arXiv:1412.6572).

    Sec. 4; with `norm="L2"` the step goes along the normalised gradient (FGM).

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,), int64.
        norm: `"Linf"` or `"L2"`.
        eps: radius and step, in [0, 1] units.
        ids: example ids (B,); unused, the attack draws nothing.
        seed: unused likewise.

    Returns:
        x_adv (B, C, H, W), inside ball and box; a failed example yields its stepped image.

    Cost:
        One forward and one backward.
    """
    return pgd(
        model,
        x,
        y,
        norm=norm,
        eps=eps,
        alpha=eps,
        steps=1,
        restarts=1,
        loss="ce",
        start="none",
        keep="last",
        ids=ids,
        seed=seed,
    )


def check_parameters(attack: str, params: Mapping[str, object], num_classes: int) -> None:
    """Raise InputError for a norm that has no single steepest step here."""
    del attack, num_classes
    if params["norm"] not in ("Linf", "L2"):
        raise InputError(f"norm={params['norm']!r} is unknown here; available: Linf, L2")
