"""ALP: adversarial logit pairing. Broken as a defense; kept for the tables it stands in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    Defense,
    Objective,
    check_not_negative,
)
from robustbench_lite.defenses.crafting import Crafting


@dataclass(frozen=True)
class Alp(Defense):
    """Label loss plus weight MSE(f(x), f(x')), x' by PGD on CE (Kannan et al. 2018).

    Source: arXiv:1803.06373. The MSE is over raw logits, its mean over all B K entries; nothing
    is detached. Three forms:
      "mixed"  CE(f([x; x']), [y; y]) + weight MSE: Kannan et al. One forward of 2B images, so
               both halves share BatchNorm statistics; their README has weight 0.5, and their
               code smooths labels by 0.1, which here is the recipe's label loss.
      "adv"    CE(f(x'), y) + weight MSE, forwards f(x), then f(x'): what Cui et al. 2021
               (arXiv:2011.11164) compare with on CIFAR, weight 1. They publish no code for it.
      "separate"  the same loss as "mixed", forwards f(x), then f(x'), so that each half has its
               own BatchNorm statistics: the public code of Pang et al. 2020 (arXiv:2002.08619).
    Kannan et al. attack towards the least likely class on ImageNet; ours is untargeted.

    Engstrom, Ilyas and Athalye 2018 (arXiv:1807.10272) bring the ImageNet model to 0.1 %: few
    PGD steps overestimate it. `mean_abs_logit` is logged, for pairing also squeezes logits.

    Args:
        crafting: the inner attack.
        mode: which form.
        weight: of the MSE.

    Raises:
        InputError: for an unknown mode.
    """

    crafting: Crafting
    mode: Literal["adv", "mixed", "separate"]
    weight: float

    def __post_init__(self) -> None:
        check_not_negative(weight=self.weight)
        if self.mode not in ("adv", "mixed", "separate"):
            raise InputError(f"mode={self.mode!r} is unknown; available: adv, mixed, separate")

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="ce")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards: one of [x; x'] for "mixed"; else f(x), then f(x')."""
        model, x_adv = networks[ROBUST], crafted["x_adv"]
        if self.mode == "mixed":
            logits, logits_adv = model(torch.cat([batch.x, x_adv])).chunk(2)
        else:
            logits, logits_adv = model(batch.x), model(x_adv)
        label_loss = batch.label_losses(logits_adv).mean()
        if self.mode != "adv":
            label_loss = 0.5 * (batch.label_losses(logits).mean() + label_loss)
        pairing = functional.mse_loss(logits_adv, logits)
        scalars = {
            "label_loss": label_loss.detach(),
            "pairing": pairing.detach(),
            "mean_abs_logit": logits.detach().abs().mean(),
            "adv_accuracy": batch.accuracy(logits_adv),
        }
        return Objective(label_loss + self.weight * pairing, scalars)
