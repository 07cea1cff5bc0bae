"""Losses of one network on images and what an attack made of them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from robustbench_lite.api.batch import Model
from robustbench_lite.api.losses.given import GIVEN, PLAIN, loss_of
from robustbench_lite.defenses.label_losses import LabelLoss
from robustbench_lite.defenses.methods.alp import Alp
from robustbench_lite.defenses.methods.mart import Mart, MartConstants
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.methods.random_mask import RandomMaskTraining
from robustbench_lite.defenses.methods.standard import Standard
from robustbench_lite.defenses.methods.trades import Trades


def standard(model: Model, x: Tensor, y: Tensor, *, label_loss: LabelLoss = PLAIN) -> Tensor:
    """CE(f(x), y), the undefended baseline."""
    return loss_of(Standard(), model, x, y, label_loss=label_loss)


def random_mask(model: Model, x: Tensor, y: Tensor, *, label_loss: LabelLoss = PLAIN) -> Tensor:
    """CE(f(x), y) of a network with masks (Luo et al. 2020, arXiv:2007.14249): `standard`'s."""
    return loss_of(RandomMaskTraining(), model, x, y, label_loss=label_loss)


def pgd_at(
    model: Model, x: Tensor, y: Tensor, x_adv: Tensor, *, label_loss: LabelLoss = PLAIN
) -> Tensor:
    """CE(f(x'), y) (Madry et al. 2018, arXiv:1706.06083, Eq. 2.1)."""
    return loss_of(PgdAt(GIVEN), model, x, y, x_adv, label_loss=label_loss)


# These differ from it in how x_adv is made.
fast_at = n_fgsm = free_at = fat = pgd_at


def trades(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    beta: float = 6.0,
    double_clean_forward: bool = False,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """CE(f(x), y) + beta KL(f(x) || f(x')) (Zhang et al. 2019, arXiv:1901.08573, Eq. 5).

    Args:
        beta: 6 in the paper's CIFAR-10 model.
        double_clean_forward: a third pass, of x, as in the authors' code: the same loss, another
            update of BatchNorm's statistics.
    """
    defense = Trades(GIVEN, beta, double_clean_forward)
    return loss_of(defense, model, x, y, x_adv, label_loss=label_loss)


def mart(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    beta: float = 5.0,
    constants: MartConstants = "code",
) -> Tensor:
    """BCE(f(x'), y) + beta KL(f(x) || f(x')) (1 - p_y), MART (Wang et al. 2020, ICLR).

    Args:
        beta: 5 for the ResNet-18, 6 for the WRN-34-10 in the authors' code.
        constants: `"code"` has the authors' small constants, `"exact"` is the paper's formula.
    """
    return loss_of(Mart(GIVEN, beta, constants), model, x, y, x_adv)


def alp(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    mode: Literal["adv", "mixed", "separate"] = "mixed",
    weight: float = 0.5,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """Adversarial logit pairing (Kannan et al. 2018, arXiv:1803.06373); broken since, see `Alp`.

    Args:
        mode: `"mixed"` is Kannan et al.'s, CE of both halves in one pass; `"adv"`, with weight 1,
            the form that Cui et al. 2021 compare with; `"separate"` that of Pang et al. 2020.
        weight: of MSE(f(x), f(x')); 0.5 in Kannan et al.'s code.
    """
    return loss_of(Alp(GIVEN, mode, weight), model, x, y, x_adv, label_loss=label_loss)
