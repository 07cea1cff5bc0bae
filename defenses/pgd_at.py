"""PGD adversarial training ("AT", "SAT"): cross-entropy on crafted images only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn import functional

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

    def objective(self, networks: Mapping[str, nn.Module], batch: Batch) -> Objective:
        model = networks[ROBUST]
        x_adv = self.crafting(model, batch, loss="ce")
        logits_adv = model(x_adv)
        loss = functional.cross_entropy(logits_adv, batch.y)
        correct = (logits_adv.detach().argmax(dim=1) == batch.y).float().mean()
        return Objective(loss, {"adv_ce": loss.detach(), "adv_accuracy": correct})
