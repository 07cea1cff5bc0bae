"""AT-BSL: adversarial training with the balanced softmax loss, for imbalanced data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustbench_lite.defenses.methods.pgd_at import PgdAt


@dataclass(frozen=True)
class BalancedSoftmaxAt(PgdAt):
    """L = CE(f(x') + log n, y), n_c the training images of class c, x' by PGD on plain CE.

    AT-BSL (Yue et al., CVPR 2024, arXiv:2403.10073): balanced softmax (Ren et al. 2020,
    arXiv:2007.10740, Eq. 4) outside, as in the authors' code, and not in the attack, which ascends
    CE(f(x'), y). On balanced data this is PGD adversarial training, step for step.

    Args:
        crafting: the inner attack; the authors start it at 0.001 N(0, 1) and craft in eval mode.
    """

    required_label_loss: ClassVar[str | None] = "balanced_softmax"
