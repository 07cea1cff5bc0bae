"""LBGAT: a natural network, trained at the same time, guides the robust one by its logits.

Cui, Liu, Wang and Jia, "Learnable Boundary Guided Adversarial Training", ICCV 2021
(arXiv:2011.11164). f_R is the robust network, f_N the natural one; f_N only ever sees clean x.
The authors' public code has the TRADES form alone; the other two follow their 2020 manuscript.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_lite.attacks.losses import kl_to_clean
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    Defense,
    JointNetwork,
    Objective,
    check_not_negative,
)
from robustbench_lite.defenses.crafting import Crafting

NATURAL = "natural"  # the network that guides; it is trained, and not delivered


@dataclass(frozen=True)
class Lbgat(Defense):
    """L = MSE(f_R(x'), f_N(x)) + gamma CE(f_N(x), y), x' by PGD on CE(f_R(x'), y).

    f_R has no label term of its own. The MSE is over raw logits, its mean over all B K entries,
    and is detached on neither side: it pulls f_N towards f_R as well.
    f_R's BatchNorm statistics are updated once per step, and so are f_N's.

    Args:
        crafting: the inner attack, on f_R alone; the manuscript does not say how it starts.
        natural_architecture: registered name of f_N's architecture.
        gamma: weight of f_N's label loss; 1 in the code, called beta in the manuscript.
    """

    crafting: Crafting
    natural_architecture: str
    gamma: float

    def __post_init__(self) -> None:
        check_not_negative(gamma=self.gamma)

    @property
    def extra_networks(self) -> Mapping[str, JointNetwork]:
        return {NATURAL: JointNetwork(self.natural_architecture)}

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="ce")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards f_R(x'), f_N(x), in this order."""
        logits_adv = networks[ROBUST](crafted["x_adv"])
        return _guided(batch, logits_adv, networks[NATURAL](batch.x), self.gamma)


@dataclass(frozen=True)
class LbgatAlp(Lbgat):
    """L = L_LBGAT + alpha MSE(f_R(x'), f_R(x)), x' by PGD on CE: LBGAT with logit pairing.

    Both sides of the pairing carry gradient. f_R's BatchNorm statistics are updated twice per
    step, f_N's once.

    Args:
        crafting, natural_architecture, gamma: as in `Lbgat`.
        alpha: weight of the pairing; 1 in the manuscript.
    """

    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(alpha=self.alpha)

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards f_R(x'), f_R(x), f_N(x), in this order."""
        logits_adv = networks[ROBUST](crafted["x_adv"])
        logits = clean_logits(networks[ROBUST], batch.x, weight=self.alpha)
        guided = _guided(batch, logits_adv, networks[NATURAL](batch.x), self.gamma)
        pairing = functional.mse_loss(logits_adv, logits)
        return Objective(
            guided.loss + self.alpha * pairing, {**guided.scalars, "pairing": pairing.detach()}
        )


@dataclass(frozen=True)
class LbgatTrades(Lbgat):
    """L = L_LBGAT + alpha KL(softmax f_R(x) || softmax f_R(x')), x' by PGD on the same KL.

    The KL is crafted on even at alpha = 0 ("LBGAT0"), so LBGAT0 is another method than `Lbgat`.
    The manuscript writes the KL's arguments the other way round; this is the code's direction,
    which is that of TRADES. Both arguments carry gradient.
    f_R's BatchNorm statistics are updated twice per step, first by x', then by x; f_N's once.

    Args:
        crafting: as in `Lbgat`; the code starts it at 0.001 N(0, 1), in eval mode.
        natural_architecture, gamma: as in `Lbgat`.
        alpha: weight of the KL, `--beta` of the code; 0 or 6 in the paper.
        clean_forward: forward f_R(x) at alpha = 0 too, as the code does: the same gradients, but
            BatchNorm statistics that have seen clean images. Only alpha = 0 can do without.

    Raises:
        InputError: for a KL without the forward that it needs.
    """

    alpha: float
    clean_forward: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(alpha=self.alpha)
        if self.alpha != 0.0 and not self.clean_forward:
            raise InputError(
                f"clean_forward=false needs alpha=0, got alpha={self.alpha}: the KL term is of "
                "clean outputs"
            )

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        return {"x_adv": self.crafting(networks[ROBUST], batch, loss="kl")}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards f_R(x'), f_R(x), f_N(x), in this order."""
        logits_adv = networks[ROBUST](crafted["x_adv"])
        if not self.clean_forward:
            return _guided(batch, logits_adv, networks[NATURAL](batch.x), self.gamma)
        logits = clean_logits(networks[ROBUST], batch.x, weight=self.alpha)
        guided = _guided(batch, logits_adv, networks[NATURAL](batch.x), self.gamma)
        kl = kl_to_clean(logits_adv, logits).mean()
        return Objective(guided.loss + self.alpha * kl, {**guided.scalars, "kl": kl.detach()})


def guidance(logits_adv: Tensor, natural_logits: Tensor) -> Tensor:
    """MSE of logits, both (B, K), over all B K entries: 0-dim, with gradient to both sides.

    A sum over classes would multiply the guidance by K.
    """
    return functional.mse_loss(logits_adv, natural_logits)


def clean_logits(model: nn.Module, x: Tensor, *, weight: float) -> Tensor:
    """f(x) in the model's own mode; without a graph where its `weight` in the loss is 0.

    What is left then is the update of the BatchNorm statistics.
    """
    with nullcontext() if weight else torch.no_grad():
        return model(x)  # type: ignore[no-any-return]


def _guided(batch: Batch, logits_adv: Tensor, natural_logits: Tensor, gamma: float) -> Objective:
    """L_LBGAT of f_R(x') and f_N(x), both (B, K)."""
    mse = guidance(logits_adv, natural_logits)
    natural_loss = batch.label_losses(natural_logits).mean()
    scalars = {
        "guidance": mse.detach(),
        "natural_loss": natural_loss.detach(),
        "natural_accuracy": batch.accuracy(natural_logits),
        "adv_accuracy": batch.accuracy(logits_adv),
    }
    return Objective(mse + gamma * natural_loss, scalars)
