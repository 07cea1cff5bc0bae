"""Losses with a second network: teachers, a network trained beside, a helper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from robustbench_lite.api.batch import CheckedNetwork, Model, check_batch, check_images
from robustbench_lite.api.losses.given import GIVEN, PLAIN, loss_of
from robustbench_lite.defenses.label_losses import LabelLoss
from robustbench_lite.defenses.methods.bgat import Bgat
from robustbench_lite.defenses.methods.hat import Hat, helper_labels
from robustbench_lite.defenses.methods.lbgat import NATURAL, Lbgat, LbgatAlp, LbgatTrades


def bgat(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    teachers: Sequence[Model],
    pairing: Literal["none", "alp", "trades"] = "none",
    alpha: float = 0.0,
) -> Tensor:
    """MSE(f(x'), mean of the teachers' f_N(x)) + alpha pairing, BGAT (Cui et al. 2021).

    Source: arXiv:2011.11164. No term has labels.

    Args:
        teachers: trained networks, in eval mode; they get no gradient.
        pairing: `"alp"` or `"trades"` add alpha times that term.
        alpha: 0 without a pairing, the paper's plain form.
    """
    names = tuple(f"teacher_{i}" for i in range(len(teachers)))
    networks = dict(zip(names, teachers, strict=True))
    return loss_of(Bgat(GIVEN, names, pairing, alpha), model, x, y, x_adv, networks=networks)


def lbgat(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    natural: Model,
    gamma: float = 1.0,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """MSE(f(x'), f_N(x)) + gamma CE(f_N(x), y), LBGAT (Cui et al. 2021, arXiv:2011.11164).

    Args:
        natural: f_N, trained by the same loss: give its parameters to the optimizer too.
        gamma: 1 in the authors' code.
    """
    networks, defense = {NATURAL: natural}, Lbgat(GIVEN, "", gamma)
    return loss_of(defense, model, x, y, x_adv, networks=networks, label_loss=label_loss)


def lbgat_alp(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    natural: Model,
    gamma: float = 1.0,
    alpha: float = 1.0,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """`lbgat` + alpha MSE(f(x'), f(x)); alpha is 1 in the manuscript of Cui et al. 2021."""
    networks, defense = {NATURAL: natural}, LbgatAlp(GIVEN, "", gamma, alpha)
    return loss_of(defense, model, x, y, x_adv, networks=networks, label_loss=label_loss)


def lbgat_trades(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    natural: Model,
    alpha: float,
    gamma: float = 1.0,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """`lbgat` + alpha KL(f(x) || f(x')), x_adv made by `craft(..., loss="kl")`, also at alpha = 0.

    Args:
        natural: as in `lbgat`.
        alpha: the paper (Cui et al. 2021) has 0 and 6, so there is no default.
        gamma: 1 in the authors' code.
    """
    networks, defense = {NATURAL: natural}, LbgatTrades(GIVEN, "", gamma, alpha, True)
    return loss_of(defense, model, x, y, x_adv, networks=networks, label_loss=label_loss)


def hat(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    helper: Model,
    robust_loss: Literal["kl", "ce"] = "kl",
    beta: float = 2.5,
    gamma: float = 0.5,
    h: float = 2.0,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """CE(f(x), y) + beta R + gamma CE(f(x + h (x' - x)), argmax g(x')), HAT.

    Rade and Moosavi-Dezfooli, ICLR 2022; beta, gamma and h of the authors' command for CIFAR-10.

    Args:
        helper: g, a network of standard training, in eval mode.
        robust_loss: R: `"kl"` is KL(f(x) || f(x')), `"ce"` is CE(f(x'), y).
        beta: weight of R.
        gamma: weight of the helper term.
        h: how far the helper example lies along x' - x.
    """
    check_batch(x, y)
    check_images("x_adv", x_adv, x)
    crafted = {"y_helper": helper_labels(CheckedNetwork(helper, y), x_adv)}
    defense = Hat(GIVEN, robust_loss, "", beta, gamma, h)
    return loss_of(defense, model, x, y, x_adv, crafted=crafted, label_loss=label_loss)
