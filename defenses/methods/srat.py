"""Adversarial training on imbalanced data: reweighting, SRAT, and the baselines beside it.

Wang et al. 2021, "Imbalanced Adversarial Training with Reweighting" (arXiv:2107.13639). Neither the
authors' code nor the constants of their runs are public; the parts follow the code they build on:
LDAM-DRW for weights and deferral, SupCon for the separation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.class_balance import Weighting, check_weighting, class_weights
from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective
from robustbench_lite.defenses.crafting import Crafting


@dataclass(frozen=True)
class ClassBalanced(Defense):
    """L = (1/D) sum_i w_{y_i} l(f(x'_i), y_i), l the recipe's label loss, x' by PGD on plain CE.

    D is the sum of the weights in the batch, or B (`divisor`). Weights and l stay out of the
    attack, which ascends CE of the unscaled logits. With unit weights and CE this is PGD
    adversarial training, step for step.

    Args:
        crafting: the inner attack.
        weights: `"effective_number"`, `"inverse_frequency"` or `"none"`; mean 1 over the classes.
        beta: of the effective number; 0.9999 in LDAM-DRW's code.
        begin_epoch: first epoch with weights, counted from 1; they are exactly 1 before. 1 is from
            the start. A deferral to "epoch 160" counted from 0, as in LDAM-DRW, is 161.
        divisor: `"weights"` is D = sum_i w_{y_i}, as LDAM-DRW's code divides CE and LDAM: the
            scale of the weights does not matter. `"batch"` is D = B, as Cui et al.'s code divides
            every loss: with a step of 100 the loss is then about 22 times smaller.
    """

    crafting: Crafting
    weights: Weighting
    beta: float
    begin_epoch: int
    divisor: Literal["weights", "batch"]

    def __post_init__(self) -> None:
        check_weighting(beta=self.beta, begin_epoch=self.begin_epoch)

    @property
    def needs_every_class(self) -> bool:
        return self.weights != "none"

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="ce")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of x'."""
        return self.reweighted(batch, networks[ROBUST](crafted["x_adv"]))

    def reweighted(self, batch: Batch, logits_adv: Tensor) -> Objective:
        """The reweighted label loss of f(x'), (B, K)."""
        weights = class_weights(batch.class_counts, self.weights, beta=self.beta)  # (K,)
        if batch.epoch < self.begin_epoch:
            weights = torch.ones_like(weights)
        losses = batch.label_losses(logits_adv)  # (B,)
        weights = weights[batch.y].to(losses.dtype)  # (B,)
        divisor = weights.sum() if self.divisor == "weights" else len(weights)
        loss = (weights * losses).sum() / divisor
        scalars = {
            "adv_loss": loss.detach(),
            "adv_accuracy": batch.accuracy(logits_adv),
            "mean_weight": weights.mean(),
        }
        return Objective(loss, scalars)


@dataclass(frozen=True)
class CbReweight(ClassBalanced):
    """CE reweighted: "CB-Reweight" with `begin_epoch` = 1, "DRCB-CE" with a later one."""

    required_label_loss: ClassVar[str | None] = "cross_entropy"


@dataclass(frozen=True)
class FocalAt(ClassBalanced):
    """Focal loss: "Focal" with `weights` = "none", else "CB-Focal" and, deferred, "DRCB-Focal"."""

    required_label_loss: ClassVar[str | None] = "focal"


@dataclass(frozen=True)
class LdamDrw(ClassBalanced):
    """LDAM with deferred weights: "DRCB-LDAM"; "LDAM" with `weights` = "none"."""

    required_label_loss: ClassVar[str | None] = "ldam"


@dataclass(frozen=True)
class Srat(ClassBalanced):
    """L = (1/D) sum_i w_{y_i} l(f(x'_i), y_i) + lambda (1/B) sum_i L_sep(i); see `separations`.

    One forward of x' gives the logits and the features z' that L_sep pulls together by class. The
    separation acts from the first epoch, also while the weights are still 1.
    lambda = 0 is `ClassBalanced`: L_sep is not computed then. It takes a network whose logits are
    `head(features(x))`.

    Args:
        crafting: as in `ClassBalanced`.
        weights: as in `ClassBalanced`.
        beta: as in `ClassBalanced`.
        begin_epoch: as in `ClassBalanced`.
        divisor: as in `ClassBalanced`; with `"weights"` the two terms keep their ratio when the
            weights begin.
        separation: lambda, at least 0. The published value is not known.
        temperature: tau, above 0. The published value is not known.
        positives_only_mean: average L_sep over the images that have another of their class in the
            batch, instead of over all B.
    """

    separation: float
    temperature: float
    positives_only_mean: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.separation < math.inf:
            raise InputError(f"defense.separation={self.separation} must be a number of at least 0")
        if not 0.0 < self.temperature < math.inf:
            raise InputError(f"defense.temperature={self.temperature} must be a number above 0")

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of x'; its scalars tell for how many images L_sep pulls at all.

        At a ratio of 100 most rare images are alone of their class in a batch: those are only
        pushed away, as negatives of others.
        """
        if self.separation == 0.0:
            return super().objective(networks, batch, crafted)
        features, logits_adv = _features_and_logits(networks[ROBUST], crafted["x_adv"])
        reweighted = self.reweighted(batch, logits_adv)
        losses, has_positive = separations(features, batch.y, temperature=self.temperature)
        divisor = has_positive.sum().clamp_min(1) if self.positives_only_mean else len(losses)
        separation = losses.sum() / divisor
        scalars = {
            "separation": separation.detach(),
            "anchors_with_positive": has_positive.to(losses.dtype).mean(),
        }
        return Objective(
            reweighted.loss + self.separation * separation, {**reweighted.scalars, **scalars}
        )


def separations(features: Tensor, y: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """L_sep(i) = -1/|P(i)| sum_{p in P(i)} log(exp(s_ip) / sum_{a != i} exp(s_ia)), s = z z^T/tau.

    The supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362, Eq. 2, "out") with one
    view per image: z are the features scaled to unit norm, P(i) the other images of i's class.
    The authors' code multiplies by tau / 0.07, ours does not.

    Args:
        features: (B, d), B at least 2; not normalised.
        y: (B,), int64.
        temperature: tau.

    Returns:
        L_sep (B,) with a graph, 0 where P(i) is empty; and whether P(i) has members (B,).
    """
    z = functional.normalize(features, dim=1)
    similarities = z @ z.T / temperature  # (B, B)
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    others = torch.logsumexp(similarities.masked_fill(itself, -torch.inf), dim=1)  # (B,)
    positives = (y[:, None] == y) & ~itself  # (B, B)
    number = positives.sum(dim=1)  # |P(i)|
    sums = (positives * (others[:, None] - similarities)).sum(dim=1)  # (B,)
    return sums / number.clamp_min(1), number > 0


def _features_and_logits(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, d) and (B, K) of one forward pass."""
    features, head = getattr(model, "features", None), getattr(model, "head", None)
    if not (callable(features) and callable(head)):
        raise InputError(
            f"separation needs a network whose logits are head(features(x)), and "
            f"{type(model).__name__} does not have both: choose a built-in one, or separation = 0"
        )
    z = features(x)
    return z, head(z)
