"""Fast adversarial training (FGSM-RS): one step per batch, from a random start."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.methods.pgd_at import PgdAt


@dataclass(frozen=True)
class FastAt(PgdAt):
    """L = CE(f(x'), y), x' of one step of FGSM (Wong et al. 2020, arXiv:2001.03994, Algorithm 3).

        delta ~ U(-eps, eps),  delta <- clip(delta + alpha sign grad CE(f(x + delta), y), -eps, eps)

    As in the authors' code, the start is clipped to the pixel box, and so is x + delta at the end;
    both passes, that of crafting and that of the update, are in train mode (`bn_mode = "train"`),
    so BatchNorm's statistics are updated twice per step. Their start is drawn, by a slip, from
    [-eps_c, eps_1] in units of each channel's deviation; ours is symmetric.

    Known weakness: catastrophic overfitting. From one epoch to the next the network may learn to
    mask the single step and lose all robustness to PGD; `best` is chosen by PGD for that reason.

    Args:
        crafting: one step from a uniform start; alpha is 1.25 eps (10/255 of 8/255) in the paper.

    Raises:
        InputError: for another number of steps, or another start.
    """

    def __post_init__(self) -> None:
        for name, value, needed in (
            ("steps", self.crafting.steps, 1),
            ("start", self.crafting.start, "uniform"),
        ):
            if value != needed:
                raise InputError(
                    f"defense.crafting.{name}={value!r}: fast_at is one step from a uniform start; "
                    f"set {needed!r}, or take defense.name='pgd_at'"
                )
