"""TRADES: clean cross-entropy plus a KL term between clean and crafted outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from robustbench_lite.attacks.losses import kl_to_clean
from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective
from robustbench_lite.defenses.crafting import Crafting


def trades_terms(
    logits: Tensor, logits_adv: Tensor, target: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """CE(z, y) and KL(softmax(target) || softmax(z')), both means over the batch.

    Args:
        logits: z, of clean images (B, K).
        logits_adv: z', of crafted images (B, K).
        target: the KL's clean side (B, K): z again, not detached.
        y: labels (B,).
    """
    return functional.cross_entropy(logits, y), kl_to_clean(logits_adv, target).mean()


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

    def objective(self, networks: Mapping[str, nn.Module], batch: Batch) -> Objective:
        """Crafting in its own mode; then the train-mode forwards f(x), f(x') (and f(x) again)."""
        model = networks[ROBUST]
        x_adv = self.crafting(model, batch, loss="kl")
        logits = model(batch.x)
        logits_adv = model(x_adv)
        target = model(batch.x) if self.double_clean_forward else logits
        clean_ce, kl = trades_terms(logits, logits_adv, target, batch.y)
        scalars = {
            "clean_ce": clean_ce.detach(),
            "kl": kl.detach(),
            "adv_accuracy": (logits_adv.detach().argmax(dim=1) == batch.y).float().mean(),
        }
        return Objective(clean_ce + self.beta * kl, scalars)
