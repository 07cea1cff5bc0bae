"""HAT: helper examples, twice as far as the crafted ones and labelled by a standard network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_lite.attacks.losses import kl_to_clean
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    Defense,
    FrozenNetwork,
    Objective,
    check_not_negative,
)
from robustbench_lite.defenses.crafting import Crafting

HELPER = "helper"  # the standard network; it labels, and is not delivered


@dataclass(frozen=True)
class Hat(Defense):
    """L = CE(f(x), y) + beta R(x, x') + gamma CE(f(x + h (x' - x)), argmax g(x')).

    Helper-based adversarial training (Rade and Moosavi-Dezfooli, "Reducing Excessive Margin to
    Achieve a Better Accuracy vs. Robustness Trade-off", ICLR 2022), as in the authors' code. g is
    a network of standard training, frozen. With `robust_loss`

      "kl"  R = KL(softmax f(x) || softmax f(x')), and x' maximises it, as in TRADES
      "ce"  R = CE(f(x'), y), and x' is by PGD on it

    The helper example x + h (x' - x) is not clipped: it may leave the pixel box, as in the code.
    The KL's clean side is not detached. The update forwards f(x), f(x'), then the helper example.

    Args:
        crafting: the inner attack; the authors start it at 0.001 N(0, 1) ("kl"), in eval mode.
        robust_loss: R; the authors' runs take "kl".
        helper_network: g, a checkpoint folder, or a recipe that is then trained first.
        beta: weight of R; 2.5 in the authors' command for CIFAR-10.
        gamma: weight of the helper term; 0.5 there.
        h: how far the helper example lies along x' - x; 2 there.

    Raises:
        InputError: for a weight below 0, or an unknown R.
    """

    crafting: Crafting
    robust_loss: Literal["kl", "ce"]
    helper_network: str
    beta: float
    gamma: float
    h: float

    def __post_init__(self) -> None:
        check_not_negative(beta=self.beta, gamma=self.gamma, h=self.h)
        if self.robust_loss not in ("kl", "ce"):
            raise InputError(
                f"defense.robust_loss={self.robust_loss!r} is unknown; available: kl, ce"
            )

    @property
    def extra_networks(self) -> Mapping[str, FrozenNetwork]:
        return {HELPER: FrozenNetwork(self.helper_network)}

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        """x', and the helper's label of each (B,), of an eval-mode pass."""
        x_adv = self.crafting(networks[ROBUST], batch, loss=self.robust_loss)
        return {"x_adv": x_adv, "y_helper": helper_labels(networks[HELPER], x_adv)}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards f(x), f(x'), f(x + h (x' - x)), in this order."""
        model, x_adv = networks[ROBUST], crafted["x_adv"]
        logits = model(batch.x)
        logits_adv = model(x_adv)
        logits_helper = model(batch.x + self.h * (x_adv - batch.x))
        clean_loss = batch.label_losses(logits).mean()
        if self.robust_loss == "kl":
            robust_loss = kl_to_clean(logits_adv, logits).mean()
        else:
            robust_loss = batch.label_losses(logits_adv).mean()
        helper_loss = functional.cross_entropy(logits_helper, crafted["y_helper"])
        scalars = {
            "clean_loss": clean_loss.detach(),
            "robust_loss": robust_loss.detach(),
            "helper_loss": helper_loss.detach(),
            "adv_accuracy": batch.accuracy(logits_adv),
        }
        loss = clean_loss + self.beta * robust_loss + self.gamma * helper_loss
        return Objective(loss, scalars)


def helper_labels(helper: nn.Module, x_adv: Tensor) -> Tensor:
    """argmax g(x') (B,), int64; raises InputError for a helper in train mode."""
    if any(module.training for module in helper.modules()):
        raise InputError(f"network {HELPER!r} is in train mode: it labels in eval mode")
    with torch.no_grad():
        logits: Tensor = helper(x_adv)
    return logits.argmax(dim=1)
