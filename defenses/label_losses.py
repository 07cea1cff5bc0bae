"""Losses on labels, per example: what the objectives put where papers write cross-entropy.

All are computed in float32 at least, whatever the precision of the forward pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_lite.core.errors import InputError

BONUS_FLOOR = 1e-5  # of 1 - p; as in the authors' code of the encouraging loss


@dataclass(frozen=True)
class LabelLoss(ABC):
    """A loss of logits and labels, with its constants as fields."""

    needs_every_class: ClassVar[bool] = False
    """Whether it divides by a class's number of images: the training loop then checks them."""

    @abstractmethod
    def per_example(self, logits: Tensor, y: Tensor, class_counts: Tensor) -> Tensor:
        """Args: logits (B, K); y (B,) int64; class_counts (K,), training images of each class.
        Returns: (B,), with a graph."""


@dataclass(frozen=True)
class CrossEntropy(LabelLoss):
    """-sum_k t_k log p_k with t = (1 - smoothing) onehot(y) + smoothing / K.

    Args:
        smoothing: label smoothing (Szegedy et al. 2016, arXiv:1512.00567, Sec. 7); 0 is plain.
    """

    smoothing: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing < 1.0:
            raise InputError(f"label_loss.smoothing={self.smoothing} must be in [0, 1)")

    def per_example(self, logits: Tensor, y: Tensor, class_counts: Tensor) -> Tensor:
        """Cross-entropy of each row (B,), with smoothed labels where asked for."""
        del class_counts
        return functional.cross_entropy(
            _full_precision(logits), y, reduction="none", label_smoothing=self.smoothing
        )


@dataclass(frozen=True)
class Encouraging(LabelLoss):
    """-log p + bonus(p), p the label's probability (Zhao et al. 2022, arXiv:2110.06537).

    bonus(p) = log(max(1 - p, 1e-5)) up to p = `log_end`, and beyond it the tangent there,
    log(1 - log_end) - (p - log_end) / (1 - log_end). The bonus is differentiated too; below the
    floor, reached with `log_end` = 1 alone, only cross-entropy's gradient is left.
    The loss is negative for well-classified examples. It keeps rewarding large logits, which
    starve attacks on cross-entropy of gradient: judge such networks by AutoAttack.

    Args:
        log_end: 1 in the authors' adversarial experiments, 0.75 their default elsewhere.
    """

    log_end: float

    def __post_init__(self) -> None:
        if not (0.0 < self.log_end <= 1.0 - BONUS_FLOOR or self.log_end == 1.0):
            raise InputError(
                f"label_loss.log_end={self.log_end} must be 1, or in (0, {1.0 - BONUS_FLOOR}]"
            )

    def per_example(self, logits: Tensor, y: Tensor, class_counts: Tensor) -> Tensor:
        """-log p + bonus(p) of each row (B,)."""
        del class_counts
        logits = _full_precision(logits)
        log_p = functional.log_softmax(logits, dim=1).gather(1, y[:, None]).squeeze(1)  # (B,)
        # 1 - p as the others' share: exact where p rounds to 1.
        others = logits.scatter(1, y[:, None], -torch.inf)
        rest = (torch.logsumexp(others, dim=1) - torch.logsumexp(logits, dim=1)).exp()  # 1 - p
        bonus = rest.clamp_min(BONUS_FLOOR).log()
        if self.log_end < 1.0:
            end = 1.0 - self.log_end
            tangent = math.log(end) - (end - rest) / end
            bonus = torch.where(rest < end, tangent, bonus)
        return bonus - log_p


@dataclass(frozen=True)
class Focal(LabelLoss):
    """(1 - p)^gamma (-log p) (Lin et al. 2017, arXiv:1708.02002, Eq. 4).

    Class weights multiply it from outside; LDAM-DRW's code puts them inside p, which ours does not.

    Args:
        gamma: at least 0, where 0 is cross-entropy; 1 in LDAM-DRW's code, 2 in RoBal's.
    """

    gamma: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < math.inf:
            raise InputError(f"label_loss.gamma={self.gamma} must be a number of at least 0")

    def per_example(self, logits: Tensor, y: Tensor, class_counts: Tensor) -> Tensor:
        """(1 - p)^gamma (-log p) of each row (B,)."""
        del class_counts
        ce = functional.cross_entropy(_full_precision(logits), y, reduction="none")
        rest = -torch.expm1(-ce)  # 1 - p
        # At exactly 0 the power's slope is infinite for gamma < 1, and the gradient would be NaN.
        return rest.clamp_min(torch.finfo(rest.dtype).tiny) ** self.gamma * ce


@dataclass(frozen=True)
class Ldam(LabelLoss):
    """Cross-entropy of s (z - m_y onehot(y)), m_c = m_max (min n / n_c)^(1/4).

    Cao et al. 2019 (arXiv:1906.07413), as in the authors' code. Their classifier has unit columns
    and unit features, so that z are cosines. Margins and scale act in the loss only, never on the
    logits attacked: a large scale saturates cross-entropy and hides gradients from PGD.

    Args:
        max_margin: m_max, the rarest class's margin; 0.5 in the authors' code.
        scale: s; 30 in the authors' code, 1 in RoBal's adversarial training (linear classifier).
    """

    needs_every_class: ClassVar[bool] = True

    max_margin: float
    scale: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_margin < math.inf:
            raise InputError(
                f"label_loss.max_margin={self.max_margin} must be a number of at least 0"
            )
        if not 0.0 < self.scale < math.inf:
            raise InputError(f"label_loss.scale={self.scale} must be a number above 0")

    def per_example(self, logits: Tensor, y: Tensor, class_counts: Tensor) -> Tensor:
        """Scaled cross-entropy with the class's margin taken off the label's logit (B,)."""
        logits = _full_precision(logits)
        counts = class_counts.to(logits.dtype)
        margins = self.max_margin * (counts.min() / counts) ** 0.25  # (K,)
        shifted = logits.scatter_add(1, y[:, None], -margins[y][:, None])
        return functional.cross_entropy(self.scale * shifted, y, reduction="none")


@dataclass(frozen=True)
class BalancedSoftmax(LabelLoss):
    """Cross-entropy of z + log n, n_c the training images of class c.

    Balanced softmax (Ren et al. 2020, arXiv:2007.10740, Eq. 4); Menon et al. 2021
    (arXiv:2007.07314) call it logit-adjusted cross-entropy with tau = 1. The shift acts in the loss
    only: the network that is delivered, and attacked, has the plain logits.
    """

    needs_every_class: ClassVar[bool] = True

    def per_example(self, logits: Tensor, y: Tensor, class_counts: Tensor) -> Tensor:
        """Cross-entropy of the shifted logits of each row (B,)."""
        logits = _full_precision(logits)
        return functional.cross_entropy(
            logits + class_counts.to(logits.dtype).log(), y, reduction="none"
        )


def _full_precision(logits: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
