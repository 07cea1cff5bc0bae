"""Standard training: cross-entropy on clean images. The undefended baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective


@dataclass(frozen=True)
class Standard(Defense):
    """Empirical risk minimisation: L = CE(f(x), y)."""

    def objective(self, networks: Mapping[str, nn.Module], batch: Batch) -> Objective:
        loss = functional.cross_entropy(networks[ROBUST](batch.x), batch.y)
        return Objective(loss, {"clean_ce": loss.detach()})
