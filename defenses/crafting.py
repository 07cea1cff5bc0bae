"""Crafting of training examples: the inner maximisation that most defenses share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor, nn

from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.first_order.pgd import Keep, Start, pgd
from robustbench_lite.attacks.model_state import BnMode
from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import Batch


@dataclass(frozen=True)
class Crafting:
    """PGD that crafts training examples; it returns its last iterate unless told to keep another.

    Args:
        norm: `"Linf"` or `"L2"`.
        eps: radius in [0, 1] units.
        alpha: step size in the same units.
        steps: gradient steps.
        start: `"uniform"`, `"gaussian"` (0.001 N(0, 1)) or `"none"`.
        bn_mode: BatchNorm while crafting: `"eval"` (TRADES, Pang et al. 2021) or `"train"`
            (Madry et al. 2018, Rice et al. 2020).
    """

    norm: Norm
    eps: Fraction
    alpha: Fraction
    steps: int
    start: Start
    bn_mode: BnMode

    def __post_init__(self) -> None:
        ThreatModel(self.norm, self.eps)  # raises on a radius in 0-255 units
        if self.steps < 0 or self.alpha < 0:
            raise InputError(
                f"crafting.steps={self.steps} and alpha={self.alpha} must be at least 0"
            )

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        loss: str,
        kappa: float | None = None,
        stream: str = "crafting",
        keep: Keep = "last",
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """x_adv (B, C, H, W), detached.

        Args:
            model: the network attacked.
            batch: images, labels, and ids and seed that fix the start.
            loss: what is ascended, a name of `attacks.losses.LOSSES`.
            kappa: confidence of the margin loss.
            stream: name of the random stream, so that two attacks of one step start apart.
            keep: which iterate comes back, as of `pgd`.
            on_step: called with (k, logits (B, K) at iterate k) before step k = 0 .. steps - 1.
        """
        return pgd(
            model,
            batch.x,
            batch.y,
            norm=self.norm,
            eps=float(self.eps),
            alpha=float(self.alpha),
            steps=self.steps,
            restarts=1,
            loss=loss,
            start=self.start,
            keep=keep,
            ids=batch.ids,
            seed=batch.seed,
            kappa=kappa,
            mode=self.bn_mode,
            stream=stream,
            on_step=on_step,
            # A gradient that is not finite makes the training loss so, which the loop watches.
            finite=FiniteCheck(batch.x.device),
        )
