"""Losses that make a network unsure of outliers."""

from __future__ import annotations

from torch import Tensor

from robustbench_lite.api.batch import Model, check_batch, check_images
from robustbench_lite.api.losses.given import PLAIN, loss_of
from robustbench_lite.defenses.contract import Outliers
from robustbench_lite.defenses.label_losses import LabelLoss
from robustbench_lite.defenses.methods.aloe import Oe


def oe(
    model: Model,
    x: Tensor,
    y: Tensor,
    outliers: Tensor,
    *,
    weight: float = 0.5,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """CE(f(x), y) + weight OE(f(outliers)), Outlier Exposure; one pass of both together.

    Source: Hendrycks et al. 2019, arXiv:1812.04606, Sec. 3.

    Args:
        outliers: unlabelled images (M, C, H, W) of no class, as they are.
        weight: 0.5 in the authors' code for images.
    """
    check_batch(x, y)
    check_images("outliers", outliers, x)
    defense = Oe(Outliers("given", len(outliers), 1, 0), weight)
    return loss_of(defense, model, x, y, outliers=outliers, label_loss=label_loss)


def acet(
    model: Model,
    x: Tensor,
    y: Tensor,
    outliers_adv: Tensor,
    *,
    weight: float = 1.0,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """`oe` whose outliers were, half of them, crafted to be confident (Chen et al. 2021).

    As in the baseline of ATOM's code (arXiv:2006.15207), weight 1 there; crafted by
    `craft(model, o, y, loss="oe", keep="best_loss")`.
    """
    return oe(model, x, y, outliers_adv, weight=weight, label_loss=label_loss)


def aloe(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    outliers_adv: Tensor,
    *,
    weight: float = 0.5,
    label_loss: LabelLoss = PLAIN,
) -> Tensor:
    """CE(f(x'), y) + weight OE(f(o')), ALOE (Chen et al. 2020, arXiv:2003.09711).

    Args:
        outliers_adv: o', crafted by `craft(model, o, y, loss="oe")`; AOE gives o itself.
        weight: 0.5 in the authors' code.
    """
    check_batch(x, y)
    check_images("x_adv", x_adv, x)
    return oe(model, x_adv, y, outliers_adv, weight=weight, label_loss=label_loss)
