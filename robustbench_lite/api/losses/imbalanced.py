"""Losses for training sets whose classes are of different size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from robustbench_lite.api.batch import Model
from robustbench_lite.api.losses.given import GIVEN, PLAIN, Counts, loss_of
from robustbench_lite.defenses.class_balance import Weighting
from robustbench_lite.defenses.label_losses import BalancedSoftmax, Focal, LabelLoss, Ldam
from robustbench_lite.defenses.methods.balanced_softmax import BalancedSoftmaxAt
from robustbench_lite.defenses.methods.srat import CbReweight, FocalAt, LdamDrw, Srat


def cb_reweight(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    class_counts: Counts,
    weights: Weighting = "effective_number",
    beta: float = 0.9999,
    divisor: Literal["weights", "batch"] = "weights",
) -> Tensor:
    """CE(f(x'), y) with class weights (Cui et al. 2019, arXiv:1901.05555), as in LDAM-DRW's code.

    Args:
        class_counts: training images of each class (K,).
        weights: `"effective_number"`, `"inverse_frequency"` or `"none"`.
        beta: of the effective number; 0.9999 in LDAM-DRW's code.
        divisor: the sum of the batch's weights, as there, or the batch's size.
    """
    defense = CbReweight(GIVEN, weights, beta, 1, divisor)
    return loss_of(defense, model, x, y, x_adv, class_counts=class_counts)


def focal(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    class_counts: Counts | None = None,
    gamma: float = 2.0,
    weights: Weighting = "none",
    beta: float = 0.9999,
    divisor: Literal["weights", "batch"] = "weights",
) -> Tensor:
    """The focal loss of f(x') (Lin et al. 2017, arXiv:1708.02002, Eq. 4; gamma 2 in their paper).

    The other arguments are as in `cb_reweight`; without class weights it needs no counts.
    """
    defense = FocalAt(GIVEN, weights, beta, 1, divisor)
    loss = Focal(gamma)
    return loss_of(defense, model, x, y, x_adv, class_counts=class_counts, label_loss=loss)


def ldam_drw(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    class_counts: Counts,
    max_margin: float = 0.5,
    scale: float = 30.0,
    weights: Weighting = "effective_number",
    beta: float = 0.9999,
    divisor: Literal["weights", "batch"] = "weights",
) -> Tensor:
    """LDAM of f(x') with class weights (Cao et al. 2019, arXiv:1906.07413; their code's constants).

    Before the deferred weights begin, give `weights="none"`; the others are as in `cb_reweight`.
    """
    defense = LdamDrw(GIVEN, weights, beta, 1, divisor)
    loss = Ldam(max_margin, scale)
    return loss_of(defense, model, x, y, x_adv, class_counts=class_counts, label_loss=loss)


def balanced_softmax(
    model: Model, x: Tensor, y: Tensor, x_adv: Tensor, *, class_counts: Counts
) -> Tensor:
    """CE(f(x') + log n, y), AT-BSL (Yue et al. 2024, arXiv:2403.10073), n the `class_counts`."""
    defense, loss = BalancedSoftmaxAt(GIVEN), BalancedSoftmax()
    return loss_of(defense, model, x, y, x_adv, class_counts=class_counts, label_loss=loss)


def srat(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    class_counts: Counts,
    separation: float = 1.0,
    temperature: float = 0.1,
    weights: Weighting = "effective_number",
    beta: float = 0.9999,
    divisor: Literal["weights", "batch"] = "weights",
    positives_only_mean: bool = False,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """`cb_reweight` + separation mean_i L_sep(i), SRAT (Wang et al. 2021, arXiv:2107.13639).

    Args:
        model: its logits must be `head(features(x))`, as of the built-in networks.
        separation: lambda, and the temperature tau: no published values are known; these are ours.
        positives_only_mean: as in the defense; the others are as in `cb_reweight`.
    """
    options = (separation, temperature, positives_only_mean)
    defense = Srat(GIVEN, weights, beta, 1, divisor, *options)
    return loss_of(
        defense, model, x, y, x_adv, class_counts=class_counts, label_loss=label_loss, bare=True
    )
