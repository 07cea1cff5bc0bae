"""Class weights of imbalanced training sets, and from which epoch they count."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError

Weighting = Literal["none", "effective_number", "inverse_frequency"]


def class_weights(counts: Tensor, kind: Weighting, *, beta: float) -> Tensor:
    """Weight of each class, scaled to mean 1 over the classes.

    `"effective_number"`: w_c = 1 / E_c, E_c = (1 - beta^n_c) / (1 - beta) (Cui et al. 2019,
    arXiv:1901.05555; as LDAM-DRW's code scales them). beta = 0 gives ones.
    `"inverse_frequency"`: w_c = 1 / n_c, the limit beta -> 1. `"none"`: ones.

    Args:
        counts: n_c, (K,), int64, all above 0 unless `kind` is `"none"`.
        kind: which of the three.
        beta: in [0, 1), read by the effective number alone.

    Returns:
        (K,), float64, all above 0, with sum K.
    """
    n = counts.double()
    if kind == "none":
        return torch.ones_like(n)
    inverse = 1.0 / n if kind == "inverse_frequency" else (1.0 - beta) / (1.0 - beta**n)
    return inverse / inverse.mean()


def check_no_class_is_empty(counts: Tensor) -> None:
    """Raise InputError, naming the first class of `counts` (K,) without images, if there is one."""
    if empty := (counts < 1).nonzero().flatten().tolist():
        raise InputError(
            f"class {empty[0]} has no training images: class weights and margins need at least "
            "one of each class"
        )


def check_weighting(*, beta: float, begin_epoch: int) -> None:
    """Raise InputError for constants that make no weights."""
    if not 0.0 <= beta < 1.0:
        raise InputError(
            f"defense.beta={beta} must be in [0, 1); its limit 1 is weights = inverse_frequency"
        )
    if begin_epoch < 1:
        raise InputError(f"defense.begin_epoch={begin_epoch} must be at least 1, the first epoch")
