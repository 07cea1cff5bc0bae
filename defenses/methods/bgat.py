"""BGAT: natural networks, trained already and frozen, guide the robust one by their logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

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
from robustbench_lite.defenses.methods.lbgat import clean_logits, guidance


@dataclass(frozen=True)
class Bgat(Defense):
    """L = MSE(f_R(x'), f_N(x)), f_N constant (Cui et al. 2021, arXiv:2011.11164, "BGAT").

    With `pairing`, as in `LbgatAlp` and `LbgatTrades`:
      "alp"     L + alpha MSE(f_R(x'), f_R(x))
      "trades"  L + alpha KL(softmax f_R(x) || softmax f_R(x')), and x' maximises that KL, at
                alpha = 0 too; otherwise x' is by PGD on CE(f_R(x'), y).

    No term of the loss has labels. There is no public code; the paper says that f_N is trained
    beforehand and may be an ensemble. Ours is in eval mode, and of several it takes mean logits.
    f_R's BatchNorm statistics are updated once per step; with a pairing twice, by x', then by x.

    Args:
        crafting: the inner attack, on f_R alone.
        teachers: checkpoint folders, or recipes that are then trained first; at least one.
        pairing: what is added.
        alpha: its weight; 0 without a pairing.

    Raises:
        InputError: without teachers, for an unknown pairing, for an alpha of no pairing.
    """

    required_label_loss: ClassVar[str | None] = "cross_entropy"

    crafting: Crafting
    teachers: tuple[str, ...]
    pairing: Literal["none", "alp", "trades"]
    alpha: float

    def __post_init__(self) -> None:
        check_not_negative(alpha=self.alpha)
        if not self.teachers:
            raise InputError("teachers=[] is empty: BGAT needs at least one trained network")
        if self.pairing not in ("none", "alp", "trades"):
            raise InputError(f"pairing={self.pairing!r} is unknown; available: none, alp, trades")
        if self.pairing == "none" and self.alpha != 0.0:
            raise InputError(f"alpha={self.alpha} weighs nothing with pairing='none': set it to 0")

    @property
    def extra_networks(self) -> Mapping[str, FrozenNetwork]:
        return {f"teacher_{i}": FrozenNetwork(source) for i, source in enumerate(self.teachers)}

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        loss = "kl" if self.pairing == "trades" else "ce"
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss=loss)}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Forwards f_R(x'), f_R(x) if there is a pairing, both in train mode; f_N(x) in eval."""
        logits_adv = networks[ROBUST](crafted["x_adv"])
        if self.pairing == "none":
            return self._guided(networks, batch, logits_adv)
        logits = clean_logits(networks[ROBUST], batch.x, weight=self.alpha)
        guided = self._guided(networks, batch, logits_adv)
        if self.pairing == "alp":
            name, pairing = "pairing", functional.mse_loss(logits_adv, logits)
        else:
            name, pairing = "kl", kl_to_clean(logits_adv, logits).mean()
        return Objective(
            guided.loss + self.alpha * pairing, {**guided.scalars, name: pairing.detach()}
        )

    def _guided(
        self, networks: Mapping[str, nn.Module], batch: Batch, logits_adv: Tensor
    ) -> Objective:
        """L_BGAT: the MSE of f_R(x') (B, K) to the teachers' logits on clean images."""
        teachers = {role: networks[role] for role in self.extra_networks}
        mse = guidance(logits_adv, mean_logits(teachers, batch.x))
        return Objective(
            mse, {"guidance": mse.detach(), "adv_accuracy": batch.accuracy(logits_adv)}
        )


def mean_logits(teachers: Mapping[str, nn.Module], x: Tensor) -> Tensor:
    """Mean over networks of their logits on x: (B, K), without a graph.

    Raises:
        InputError: for a network, or a part of one, in train mode (names its role).
    """
    for role, teacher in teachers.items():
        if any(module.training for module in teacher.modules()):
            raise InputError(f"network {role!r} is in train mode: a teacher guides in eval mode")
    with torch.no_grad():
        return torch.stack([teacher(x) for teacher in teachers.values()]).mean(dim=0)
