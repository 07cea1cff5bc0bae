"""Standard training: cross-entropy on clean images. The undefended baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective


@dataclass(frozen=True)
class Standard(Defense):
    """Empirical risk minimisation: L = CE(f(x), y)."""

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        del crafted
        logits = networks[ROBUST](batch.x)
        loss = batch.label_losses(logits).mean()
        return Objective(loss, {"clean_loss": loss.detach()})
