"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_lite.attacks.contract import Attack, Cost, RunTerms
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.attacks.threat_model import Norm


@dataclass(frozen=True)
class Fgsm(Attack):
    """One step of length `eps` on cross-entropy from x (Goodfellow et al. 2015, arXiv:1412.6572).

    Sec. 4; in L2 the step goes along the normalised gradient (FGM). A failed example yields its
    stepped image.
    """

    norms = ("Linf", "L2")
    searches_elsewhere = True

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        return pgd(
            terms.searched(model),
            x,
            y,
            norm=terms.norm,
            eps=terms.eps,
            alpha=terms.eps,
            steps=1,
            restarts=1,
            loss="ce",
            start="none",
            keep="last",
            ids=terms.ids,
            seed=terms.seed,
        )

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        return Cost(1, 1)
