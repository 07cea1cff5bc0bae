"""Free adversarial training: each backward pass moves the weights and the perturbation at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective
from robustbench_lite.defenses.methods.pgd_at import adversarial_objective


@dataclass(frozen=True)
class FreeAt(Defense):
    """L = CE(f(clip(x + delta, 0, 1)), y), with a delta that is carried from step to step.

    Shafahi et al. 2019, arXiv:1904.12843, Algorithm 1: every batch is replayed m times. One forward
    and backward pass of a replay gives the gradient of the weights, which take a step, and that of
    delta, which becomes

        delta <- clip(delta + eps sign(grad_delta L), -eps, eps).

    delta starts at 0 and has a row for each place in the batch: it goes on from replay to replay
    and from batch to batch, whatever images come. It is stored with the state of the run.
    BatchNorm's statistics are updated once per replay. An epoch is one pass over the batches, thus
    m updates of each: the authors divide their number of epochs by m. The step of delta is eps, as
    in their code, which clips the image, not delta, to the pixel box; Wong et al. clip delta.

    Args:
        eps: radius, in [0, 1] units; Linf only.
        m: replays of each batch; 8 in the authors' CIFAR-10 model.

    Raises:
        InputError: for a radius in 0-255 units, or fewer replays than one.
    """

    eps: Fraction
    m: int

    def __post_init__(self) -> None:
        ThreatModel("Linf", self.eps)
        if self.m < 1:
            raise InputError(f"defense.m={self.m} must be at least 1")

    @property
    def replays(self) -> int:
        return self.m

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        """delta (B, C, H, W), which takes a gradient; no pass of the network."""
        del networks
        delta = torch.zeros_like(batch.x)
        if "delta" in batch.carried:
            delta.copy_(batch.carried["delta"][: len(batch.x)])
        return {"delta": delta.requires_grad_(True)}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of clip(x + delta)."""
        x_adv = (batch.x + crafted["delta"]).clamp(0.0, 1.0)
        return adversarial_objective(batch, networks[ROBUST](x_adv))

    def carry(self, batch: Batch, crafted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """delta after its step; rows that a shorter last batch did not use stay."""
        delta, eps = crafted["delta"], float(self.eps)
        assert delta.grad is not None
        moved = (delta.detach() + eps * delta.grad.sign()).clamp(-eps, eps)
        before = batch.carried.get("delta", moved)
        return {"delta": torch.cat([moved, before[len(moved) :]])}
