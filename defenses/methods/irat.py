"""IRAT (GAIRAT): adversarial training with one weight per instance, by its distance in steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    Defense,
    Objective,
    weighted_mean,
)
from robustbench_lite.defenses.crafting import Crafting
from robustbench_lite.defenses.instance_weights import (
    GeometryWeight,
    craft_and_count,
    log_geometry_weights,
    normalised,
)


@dataclass(frozen=True)
class Irat(Defense):
    """L = (1/B) sum_i omega_i CE(f(x'_i), y_i), omega_i = w(kappa_i) B / sum_j w(kappa_j).

    Geometry-aware instance-reweighted adversarial training, GAIRAT (Zhang et al. 2021,
    arXiv:2010.01736): kappa_i counts the iterates of the crafting run that are still
    classified correctly, and w falls with it. x' is of PGD on cross-entropy; only x' enters the
    update. "IRAT" is the umbrella name of the LRAT paper (arXiv:2106.15776); that GAIRAT is the
    one in its tables is likely, not verified.

    Known weakness: it trains for the attack it crafts with. Margins of well-classified examples
    stay small, and AutoAttack finds far less robustness than PGD on cross-entropy does.

    w is the paper's for every K; the authors' code differs at odd K (see `log_geometry_weights`).
    The code ties lambda's start and the reweighting's to different epochs; here there is one.

    Args:
        crafting: the inner attack; the authors start it uniformly, in eval mode, K = 10.
        weight: `"tanh"` (the authors' default), `"sigmoid"` or `"discrete"`.
        lam: lambda, -1 for CIFAR-10; infinity is plain adversarial training.
        begin_epoch: the first epoch, from 1, with weights; a plain mean before. 60 of 120 in the
            authors' code, their first drop of the learning rate.

    Raises:
        InputError: for a crafting without steps, or a lam that leaves no weight.
    """

    crafting: Crafting
    weight: GeometryWeight
    lam: float
    begin_epoch: int

    def __post_init__(self) -> None:
        if self.crafting.steps < 1:
            raise InputError(
                f"crafting.steps={self.crafting.steps}: weights need at least 1 step to count"
            )
        if not self.lam > float("-inf"):
            raise InputError(f"lam={self.lam} must be a number above -inf; inf is plain training")

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        x_adv, kappa = craft_and_count(self.crafting, networks[ROBUST], batch, loss="ce")
        return {"x_adv": x_adv, "kappa": kappa}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of x'."""
        logits_adv = networks[ROBUST](crafted["x_adv"])
        losses = batch.label_losses(logits_adv)
        kappa = crafted["kappa"].to(losses.dtype)
        adv_loss = losses.mean()
        loss = adv_loss
        if batch.epoch >= self.begin_epoch:
            log_w = log_geometry_weights(
                kappa, steps=self.crafting.steps, lam=self.lam, weight=self.weight
            )
            loss = weighted_mean(normalised(log_w), losses)
        scalars = {
            "adv_loss": adv_loss.detach(),
            "adv_accuracy": batch.accuracy(logits_adv),
            "kappa": kappa.mean(),
        }
        return Objective(loss, scalars)
