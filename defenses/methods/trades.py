"""TRADES: clean cross-entropy plus a KL term between clean and crafted outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_lite.attacks.losses import kl_to_clean
from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective, check_not_negative
from robustbench_lite.defenses.crafting import Crafting


@dataclass(frozen=True)
class Trades(Defense):
    """L = CE(f(x), y) + beta KL(p || p') (Zhang et al. 2019, arXiv:1901.08573, Eq. 5).

    x' maximises the KL term; labels play no part in it. The update forwards f(x), then f(x').

    Args:
        crafting: the inner attack; the authors start it at 0.001 N(0, 1) and craft in eval mode.
        beta: weight of the KL term; 6 in the paper's CIFAR-10 model.
        double_clean_forward: forward f(x) once more for the KL's clean side, as the authors' code
            does: the same loss, another BatchNorm update (clean, adversarial, clean).
    """

    crafting: Crafting
    beta: float
    double_clean_forward: bool

    def __post_init__(self) -> None:
        check_not_negative(beta=self.beta)

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="kl")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards f(x), f(x') (and f(x) again), in this order."""
        model = networks[ROBUST]
        logits = model(batch.x)
        logits_adv = model(crafted["x_adv"])
        target = model(batch.x) if self.double_clean_forward else logits
        clean_loss = batch.label_losses(logits).mean()
        kl = kl_to_clean(logits_adv, target).mean()  # the clean side is not detached
        scalars = {
            "clean_loss": clean_loss.detach(),
            "kl": kl.detach(),
            "adv_accuracy": batch.accuracy(logits_adv),
        }
        return Objective(clean_loss + self.beta * kl, scalars)
