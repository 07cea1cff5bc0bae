"""PGD adversarial training ("AT", "SAT"): cross-entropy on crafted images only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective
from robustbench_lite.defenses.crafting import Crafting


@dataclass(frozen=True)
class PgdAt(Defense):
    """L = CE(f(x'), y), x' by PGD on CE (Madry et al. 2018, arXiv:1706.06083, Eq. 2.1).

    Only x' enters the update, so BatchNorm statistics are updated once per step; Rice's trainer
    also forwards the clean batch for its log, which ours does not.

    Args:
        crafting: the inner attack.
    """

    crafting: Crafting

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="ce")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        return adversarial_objective(batch, networks[ROBUST](crafted["x_adv"]))


def adversarial_objective(batch: Batch, logits_adv: Tensor) -> Objective:
    """The mean label loss of f(x'), (B, K): all that the loss is of methods that only craft."""
    loss = batch.label_losses(logits_adv).mean()
    return Objective(loss, {"adv_loss": loss.detach(), "adv_accuracy": batch.accuracy(logits_adv)})
