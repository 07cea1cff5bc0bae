"""Per-example attack losses: larger is worse for the network. Logits in, (B,) out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_lite.core.errors import InputError

TARGETABLE_LOSSES = ("ce", "margin", "dlr")
LOSSES = ("ce", "margin", "dlr", "kl", "oe", "to_uniform", "to_one_hot")


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each example: logits (B, K), y (B,) int64 to (B,)."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y of each example: above 0 exactly when y is not the prediction.

    The label's own logit is masked with -inf, so the value is right when all others are negative.
    """
    own = logits.gather(1, y[:, None])  # (B, 1)
    others = logits.scatter(1, y[:, None], -torch.inf)  # (B, K)
    return others.amax(dim=1) - own.squeeze(1)


def clipped_margin(logits: Tensor, y: Tensor, *, kappa: float) -> Tensor:
    """min(margin, kappa): Carlini and Wagner 2017 (arXiv:1608.04644), f_6 with the sign turned.

    Its ascent is the "CW" column of most defense papers, with kappa = 50.
    """
    return margin(logits, y).clamp_max(kappa)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690, Eq. 6), per example.

    -(z_y - max_{j != y} z_j) / (z_(1) - z_(3)), logits sorted downwards; needs K >= 3.
    """
    if logits.shape[1] < 3:
        raise InputError(f"the DLR loss needs at least 3 classes, got {logits.shape[1]}")
    top = logits.topk(3, dim=1).values  # (B, 3)
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)  # 1e-12 as in the authors' code


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """z_t - z_y of each example: logits (B, K), y and target (B,) int64 to (B,)."""
    pair = logits.gather(1, torch.stack([target, y], dim=1))  # (B, 2)
    return pair[:, 0] - pair[:, 1]


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690, Eq. 7).

    -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), logits sorted downwards; needs K >= 4.
    """
    if logits.shape[1] < 4:
        raise InputError(f"the targeted DLR loss needs at least 4 classes, got {logits.shape[1]}")
    top = logits.topk(4, dim=1).values  # (B, 4)
    scale = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3])
    return targeted_margin(logits, y, target) / (scale + 1e-12)  # 1e-12 as in the authors' code


def lead_of(logits: Tensor, target: Tensor) -> Tensor:
    """z_t - max_{j != t} z_j of each example: above 0 exactly when t is the prediction.

    Carlini and Wagner 2017 (arXiv:1608.04644), f_6 with the sign turned, as they have it: for
    targeted attacks. `targeted_margin` compares with the label alone, which lets a third class win.
    """
    return -margin(logits, target)


def dlr_of_lead(logits: Tensor, target: Tensor) -> Tensor:
    """`targeted_dlr` with the strongest other class in the label's place: it is above 0 exactly
    when the target is the prediction.

    (z_t - max_{j != t} z_j) / (z_(1) - (z_(3) + z_(4)) / 2). Croce and Hein (Eq. 7) want any
    misclassification, for which it is enough to lead the label. Below 4 classes, where the ratio is
    not defined, its numerator.
    """
    lead = lead_of(logits, target)
    if logits.shape[1] < 4:
        return lead
    top = logits.topk(4, dim=1).values
    return lead / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


def loss_towards(name: str, logits: Tensor, target: Tensor, *, kappa: float | None) -> Tensor:
    """The loss called `name` of an attack that aims at classes `target` (B,), per example (B,).

    Larger is better for the attack: `ce` is the cross-entropy of the target with the sign turned
    (torchattacks' targeted mode), `margin` is min(lead, kappa) (Carlini and Wagner's f_6), `dlr` is
    `dlr_of_lead`.

    Raises:
        InputError: for a loss that knows no target, and as `check_loss`.
    """
    check_loss(name, kappa)
    if name not in TARGETABLE_LOSSES:
        raise InputError(
            f"loss {name!r} has no targeted form; available: {', '.join(TARGETABLE_LOSSES)}"
        )
    if name == "ce":
        return -cross_entropy(logits, target)
    if name == "dlr":
        return dlr_of_lead(logits, target)
    assert kappa is not None
    return lead_of(logits, target).clamp_max(kappa)


def kl_to_clean(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(logits)) of each example, both (B, K), to (B,).

    The inner problem of TRADES (Zhang et al. 2019, arXiv:1901.08573, Eq. 5).
    """
    log_q = functional.log_softmax(logits, dim=1)
    log_p = functional.log_softmax(clean_logits, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """-(1/K) sum_k log p_k of each example: logits (B, K) to (B,), at least log K.

    The outlier loss of Outlier Exposure (Hendrycks et al. 2019, arXiv:1812.04606) and of ALOE
    (Chen et al. 2020, arXiv:2003.09711); it is log K + KL(uniform || p).
    """
    return torch.logsumexp(logits, dim=1) - logits.mean(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """-sum_k p_k log p_k of each example: logits (B, K) to (B,), in [0, log K]."""
    log_p = functional.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def check_loss(name: str, kappa: object) -> None:
    """Raise InputError for an unknown loss, or a margin without its kappa."""
    if name not in LOSSES:
        raise InputError(f"unknown loss {name!r}; available: {', '.join(LOSSES)}")
    if name == "margin" and not isinstance(kappa, int | float):
        raise InputError(
            f"loss 'margin' needs kappa, a number: 50 in the CW columns of defense papers; "
            f"got {kappa!r}"
        )


def attack_loss(
    name: str, logits: Tensor, y: Tensor, *, clean_logits: Tensor | None, kappa: float | None
) -> Tensor:
    """The loss called `name`, per example (B,); `kl` needs `clean_logits`, `margin` a `kappa`.

    The last three of `LOSSES` use no labels: `oe` is `uniform_cross_entropy` (its ascent makes an
    outlier confident), `to_uniform` is -oe and `to_one_hot` is -entropy.
    """
    if name == "ce":
        return cross_entropy(logits, y)
    check_loss(name, kappa)
    if name == "margin":
        assert kappa is not None
        return clipped_margin(logits, y, kappa=kappa)
    if name == "dlr":
        return dlr(logits, y)
    if name == "oe":
        return uniform_cross_entropy(logits)
    if name == "to_uniform":
        return -uniform_cross_entropy(logits)
    if name == "to_one_hot":
        return -entropy(logits)
    if clean_logits is None:
        raise InputError("loss 'kl' needs the clean logits")
    return kl_to_clean(logits, clean_logits)
