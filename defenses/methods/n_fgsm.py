"""N-FGSM: one step from noise that is larger than the radius, without a projection after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor, nn

from robustbench_lite.attacks.gradients import loss_and_gradient
from robustbench_lite.attacks.losses import cross_entropy
from robustbench_lite.attacks.model_state import BnMode, attacked
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective
from robustbench_lite.defenses.crafting import Crafting
from robustbench_lite.defenses.methods.pgd_at import adversarial_objective


@dataclass(frozen=True)
class NFgsm(Defense):
    """L = CE(f(x'), y), x' of one step from large noise (de Jorge et al. 2022, arXiv:2202.01181).

        eta ~ U(-k eps, k eps),   x' = x + eta + alpha sign grad CE(f(x + eta), y)

    x + eta and x' are clipped to the pixel box, as in the authors' code, and never to the ball: x'
    is up to k eps + alpha away from x. That is the method; the projection of `fast_at` is what it
    leaves out. Linf only.

    Args:
        eps: radius of the threat, in [0, 1] units.
        alpha: step size in the same units; eps in the authors' code.
        noise: k, at least 0; 2 in the authors' code.
        bn_mode: BatchNorm while crafting; `"train"` in the authors' code.

    Raises:
        InputError: for noise or a step below 0, or noise of more than the whole pixel range.
    """

    eps: Fraction
    alpha: Fraction
    noise: Fraction
    bn_mode: BnMode

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("noise", self.noise)):
            if value < 0:
                raise InputError(f"defense.{name}={value} must be a number of at least 0")
        _ = self._start  # checks the radii

    @property
    def _start(self) -> Crafting:
        """What draws x + eta."""
        return Crafting("Linf", self.noise * self.eps, Fraction(0), 0, "uniform", self.bn_mode)

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        model = networks[ROBUST]
        noisy = self._start(model, batch, loss="ce")
        with attacked(model, mode=self.bn_mode):
            *_, gradient = loss_and_gradient(
                model, noisy, lambda logits: cross_entropy(logits, batch.y)
            )
        return {"x_adv": (noisy + float(self.alpha) * gradient.sign()).clamp(0.0, 1.0)}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of x'."""
        return adversarial_objective(batch, networks[ROBUST](crafted["x_adv"]))
