"""MAIL: instances weighted by their probabilistic margin, in AT, TRADES and MART.

Wang et al. 2021 (arXiv:2106.07904). With PM_i = p'_{i,y} - max_{j != y} p'_{ij} of the crafted
image, from the same train-mode forward as the loss and detached,

    s_i = sigmoid(-slope (PM_i - bias)),    omega_i = s_i B / sum_j s_j    (paper)
                                            omega_i = 3 s_i                (the authors' code)

The code's form changes MAIL-AT's effective learning rate and MAIL-TRADES' effective beta;
`normalization` says which one is meant. Before `begin_epoch` (from 1) omega is 1: the authors begin
at their epoch 76 counted from 0, which is 77 here, of 120.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.losses import kl_to_clean
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    Defense,
    Objective,
    check_not_negative,
    weighted_mean,
)
from robustbench_lite.defenses.crafting import Crafting
from robustbench_lite.defenses.instance_weights import (
    check_slope,
    log_margin_weights,
    normalised,
    probability_margins,
)
from robustbench_lite.defenses.methods.mart import boosted_cross_entropy, misclassified_kl

MailNormalization = Literal["paper", "code"]


@dataclass(frozen=True)
class MailAt(Defense):
    """L = (1/B) sum_i omega_i CE(f(x'_i), y_i) (arXiv:2106.07904), x' by PGD on cross-entropy.

    Only x' is forwarded. Like GAIRAT, and less so, it tends to look better under PGD than it is.

    Args:
        crafting: the inner attack; the authors start it at 0.001 N(0, 1) and craft in eval mode.
        slope: of the sigmoid, at least 0; 10 in the authors' command.
        bias: margin at which s = 1/2; -0.5 in the authors' command.
        normalization: `"paper"` or `"code"`, as this module says.
        begin_epoch: the first epoch, from 1, with weights.
    """

    crafting: Crafting
    slope: float
    bias: float
    normalization: MailNormalization
    begin_epoch: int

    def __post_init__(self) -> None:
        check_slope(self.slope)

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="ce")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of x'."""
        logits_adv = networks[ROBUST](crafted["x_adv"])
        losses = batch.label_losses(logits_adv)
        weights = _weights(self, batch, logits_adv)
        scalars = {
            "adv_loss": losses.detach().mean(),
            "adv_accuracy": batch.accuracy(logits_adv),
            "mean_weight": weights.mean(),
        }
        return Objective(weighted_mean(weights, losses), scalars)


@dataclass(frozen=True)
class MailTrades(Defense):
    """L = (1/B) sum_i [CE(f(x_i), y_i) + beta omega_i KL(p_i || p'_i)] (arXiv:2106.07904).

    x' is of PGD on the KL term. The update forwards f(x), then f(x').

    Args:
        crafting: the inner attack; the authors start it at 0.001 N(0, 1) and craft in eval mode.
        slope: of the sigmoid, at least 0; 2 in the authors' command.
        bias: margin at which s = 1/2; 0 in the authors' command.
        beta: weight of the KL term; 5 in the authors' code.
        normalization: `"paper"` or `"code"`, as this module says.
        begin_epoch: the first epoch, from 1, with weights; TRADES of the same beta before.
    """

    crafting: Crafting
    slope: float
    bias: float
    beta: float
    normalization: MailNormalization
    begin_epoch: int

    def __post_init__(self) -> None:
        check_slope(self.slope)
        check_not_negative(beta=self.beta)

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="kl")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards f(x), f(x'), in this order; only omega is detached."""
        model = networks[ROBUST]
        logits = model(batch.x)
        logits_adv = model(crafted["x_adv"])
        clean_loss = batch.label_losses(logits).mean()
        kl = kl_to_clean(logits_adv, logits)
        weights = _weights(self, batch, logits_adv)
        scalars = {
            "clean_loss": clean_loss.detach(),
            "kl": kl.detach().mean(),
            "adv_accuracy": batch.accuracy(logits_adv),
            "mean_weight": weights.mean(),
        }
        return Objective(clean_loss + self.beta * weighted_mean(weights, kl), scalars)


@dataclass(frozen=True)
class MailMart(Defense):
    """L = (1/B) sum_i [omega_i BCE_i(x'_i) + beta KL(p_i || p'_i) (1 - p_{i,y})].

    MART (see `Mart`) with weights on the boosted cross-entropy alone (arXiv:2106.07904). BCE and KL
    have the small constants of MART's code, as MAIL's code has. The update forwards f(x), then
    f(x').

    Args:
        crafting: the inner attack; the authors start it at 0.001 N(0, 1) and craft in eval mode.
        slope: of the sigmoid, at least 0; 1 by default in the authors' script.
        bias: margin at which s = 1/2; -1.5 by default in the authors' script.
        beta: weight of the KL term; 5 in the authors' code.
        normalization: `"paper"` or `"code"`, as this module says.
        begin_epoch: the first epoch, from 1, with weights; MART of the same beta before.
    """

    required_label_loss: ClassVar[str | None] = "cross_entropy"

    crafting: Crafting
    slope: float
    bias: float
    beta: float
    normalization: MailNormalization
    begin_epoch: int

    def __post_init__(self) -> None:
        check_slope(self.slope)
        check_not_negative(beta=self.beta)

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="ce")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards f(x), f(x'), in this order; only omega is detached."""
        model = networks[ROBUST]
        logits = model(batch.x)
        logits_adv = model(crafted["x_adv"])
        bce = boosted_cross_entropy(logits_adv, batch.y, constants="code")
        kl = misclassified_kl(logits, logits_adv, batch.y, constants="code").mean()
        weights = _weights(self, batch, logits_adv)
        scalars = {
            "bce": bce.detach().mean(),
            "weighted_kl": kl.detach(),
            "adv_accuracy": batch.accuracy(logits_adv),
            "mean_weight": weights.mean(),
        }
        return Objective(weighted_mean(weights, bce) + self.beta * kl, scalars)


def _weights(defense: MailAt | MailTrades | MailMart, batch: Batch, logits_adv: Tensor) -> Tensor:
    """omega (B,), without a graph; 1 before `begin_epoch`."""
    margins = probability_margins(logits_adv, batch.y)
    if batch.epoch < defense.begin_epoch:
        return torch.ones_like(margins)
    log_s = log_margin_weights(margins, slope=defense.slope, bias=defense.bias)
    return normalised(log_s) if defense.normalization == "paper" else 3.0 * log_s.exp()
