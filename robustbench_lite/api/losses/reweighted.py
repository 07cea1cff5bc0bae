"""Losses with a weight for each example: GAIRAT, LRAT and MAIL."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from robustbench_lite.api.batch import CheckedNetwork, Model
from robustbench_lite.api.losses.given import GIVEN, PLAIN, batch_of, loss_of
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.instance_weights import GeometryWeight
from robustbench_lite.defenses.label_losses import LabelLoss
from robustbench_lite.defenses.methods.irat import Irat
from robustbench_lite.defenses.methods.lrat import Lrat
from robustbench_lite.defenses.methods.mail import MailAt, MailMart, MailNormalization, MailTrades


def irat(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    kappa: Tensor,
    *,
    steps: int = 10,
    weight: GeometryWeight = "tanh",
    lam: float = -1.0,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """mean_i w(kappa_i) B / sum_j w(kappa_j) CE(f(x'_i), y_i), GAIRAT (Zhang et al. 2021).

    Source: arXiv:2010.01736; K = 10, "tanh" and lam = -1 in the authors' code for CIFAR-10.

    Args:
        kappa: (B,), how many of the attack's iterates were right, from `steps_resisted(y)`.
        steps: K, the attack's number of steps.
        weight: `"tanh"`, `"sigmoid"` or `"discrete"`.
        lam: lambda; infinity is plain adversarial training.
    """
    defense = Irat(replace(GIVEN, steps=steps), weight, lam, 1)
    crafted = {"kappa": _counted(kappa, y, steps)}
    return loss_of(defense, model, x, y, x_adv, crafted=crafted, label_loss=label_loss)


def lrat(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    kappa: Tensor,
    *,
    steps: int = 10,
    weight: Literal["kappa", "hard", "margin"] = "kappa",
    lam: float = 0.0,
    slope: float = 10.0,
    bias: float = 0.0,
    pair_constant: float = 1.0,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """mean_i [omega_i CE(f(x'_i), y_i) + max(0, C - omega_i) CE(f(x_i), y_i)], LRAT, of one attack.

    A reconstruction from the abstract of arXiv:2106.15776, as the defense `lrat`; the defaults are
    ours. `"hard"` and `"margin"` make one more pass of x', in eval mode.

    Args:
        kappa: as in `irat`; only `"kappa"` reads it.
        steps: the attack's number of steps.
        weight: where omega comes from, as in the defense.
        lam: of `"kappa"`.
        slope: of `"margin"`.
        bias: of `"margin"`.
        pair_constant: C.
    """
    inner = replace(GIVEN, steps=steps)
    defense = Lrat(
        crafting=inner,
        attacks=("pgd",),
        weight=weight,
        lam=lam,
        slope=slope,
        bias=bias,
        pair_constant=pair_constant,
        mean_over_attacks=False,
        batchnorm="separate",
        begin_epoch=1,
    )
    batch = batch_of(x, y, x_adv)
    omega = defense.weights(CheckedNetwork(model, y), batch, x_adv, _counted(kappa, y, steps))
    crafted = {"x_adv_pgd": x_adv, "weights": omega[:, None]}
    return loss_of(defense, model, x, y, x_adv, crafted=crafted, label_loss=label_loss)


def mail_at(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    slope: float = 10.0,
    bias: float = -0.5,
    normalization: MailNormalization = "code",
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """mean_i omega_i CE(f(x'_i), y_i), omega of the margins of f(x') (Wang et al. 2021).

    Source: arXiv:2106.07904; slope, bias and normalization of the authors' command.

    Args:
        slope: of omega's sigmoid.
        bias: the margin at which the sigmoid is 1/2.
        normalization: `"code"`, 3 times the sigmoid; `"paper"`, scaled to mean 1.
    """
    defense = MailAt(GIVEN, slope, bias, normalization, 1)
    return loss_of(defense, model, x, y, x_adv, label_loss=label_loss)


def mail_trades(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    slope: float = 2.0,
    bias: float = 0.0,
    beta: float = 5.0,
    normalization: MailNormalization = "code",
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """CE(f(x), y) + beta mean_i omega_i KL_i; as `mail_at`, beta 5 in the authors' code."""
    defense = MailTrades(GIVEN, slope, bias, beta, normalization, 1)
    return loss_of(defense, model, x, y, x_adv, label_loss=label_loss)


def mail_mart(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    slope: float = 1.0,
    bias: float = -1.5,
    beta: float = 5.0,
    normalization: MailNormalization = "code",
) -> Tensor:
    """`mart` with omega on the boosted cross-entropy; as `mail_at`, all of the authors' script."""
    defense = MailMart(GIVEN, slope, bias, beta, normalization, 1)
    return loss_of(defense, model, x, y, x_adv)


def _counted(kappa: Tensor, y: Tensor, steps: int) -> Tensor:
    """kappa, if it is one count of at most `steps` for each label."""
    if not isinstance(kappa, Tensor) or kappa.shape != y.shape or int(kappa.max()) > steps:
        raise InputError(
            f"kappa must be counts ({len(y)},) of at most steps={steps}: take those of "
            "losses.steps_resisted(y)"
        )
    return kappa
