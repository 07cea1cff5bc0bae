"""MART: a boosted cross-entropy, and a KL term that misclassified examples dominate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_lite.attacks.losses import cross_entropy, kl_to_clean
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    Defense,
    Objective,
    check_not_negative,
)
from robustbench_lite.defenses.crafting import Crafting

MartConstants = Literal["code", "exact"]


def boosted_cross_entropy(logits: Tensor, y: Tensor, *, constants: MartConstants) -> Tensor:
    """BCE_i = -log p_y - log(1 - max_{j != y} p_j) of MART (Wang et al. 2020, ICLR), per example.

    Args:
        logits: (B, K), of the crafted images.
        y: labels (B,).
        constants: `"code"` has the authors' log(1.0001 - p_j + 1e-12) in the second term.

    Returns:
        (B,), with a graph.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    runner_up = others.argmax(dim=1, keepdim=True)  # (B, 1), the largest wrong class
    if constants == "code":
        p = functional.softmax(logits, dim=1).gather(1, runner_up).squeeze(1)
        log_rest = torch.log(1.0001 - p + 1e-12)
    else:  # log(1 - p_j) as the log-share of all others: finite where p_j rounds to 1
        rest = torch.logsumexp(logits.scatter(1, runner_up, -torch.inf), dim=1)
        log_rest = rest - torch.logsumexp(logits, dim=1)
    return cross_entropy(logits, y) - log_rest


def misclassified_kl(
    logits: Tensor, logits_adv: Tensor, y: Tensor, *, constants: MartConstants
) -> Tensor:
    """KL(p_i || p'_i) (1 - p_{i,y}) of MART (Wang et al. 2020, ICLR), per example.

    Nothing is detached: the weight and the KL's target p both carry gradient.

    Args:
        logits: (B, K), of the clean images; p is their softmax.
        logits_adv: (B, K), of the crafted images; p' is their softmax.
        y: labels (B,).
        constants: `"code"` has the authors' log(p' + 1e-12) and weight 1.0000001 - p_y.

    Returns:
        (B,), with a graph.
    """
    log_p = functional.log_softmax(logits, dim=1)
    p = log_p.exp()
    p_y = p.gather(1, y[:, None]).squeeze(1)
    if constants == "code":
        log_q = torch.log(functional.softmax(logits_adv, dim=1) + 1e-12)
        return (p * (log_p - log_q)).sum(dim=1) * (1.0000001 - p_y)
    return kl_to_clean(logits_adv, logits) * (1.0 - p_y)


@dataclass(frozen=True)
class Mart(Defense):
    """L = (1/B) sum_i [BCE_i(x'_i) + beta KL(p_i || p'_i) (1 - p_{i,y})].

    Misclassification-aware adversarial training (Wang et al. 2020, ICLR); BCE is the
    boosted cross-entropy, and takes no other label loss. x' is of PGD on cross-entropy. The update
    forwards f(x), then f(x').

    Args:
        crafting: the inner attack; the authors start it at 0.001 N(0, 1) and craft in eval mode.
        beta: weight of the KL term; 5 for the ResNet-18, 6 for the WRN-34-10 in the authors' code.
        constants: `"code"` adds the authors' small constants to three places, about 3e-4 in the
            loss; `"exact"` is the paper's formula.
    """

    required_label_loss: ClassVar[str | None] = "cross_entropy"

    crafting: Crafting
    beta: float
    constants: MartConstants

    def __post_init__(self) -> None:
        check_not_negative(beta=self.beta)

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="ce")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards f(x), f(x'), in this order."""
        model = networks[ROBUST]
        logits = model(batch.x)
        logits_adv = model(crafted["x_adv"])
        bce = boosted_cross_entropy(logits_adv, batch.y, constants=self.constants).mean()
        kl = misclassified_kl(logits, logits_adv, batch.y, constants=self.constants).mean()
        scalars = {
            "bce": bce.detach(),
            "weighted_kl": kl.detach(),
            "adv_accuracy": batch.accuracy(logits_adv),
        }
        return Objective(bce + self.beta * kl, scalars)
