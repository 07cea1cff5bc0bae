"""Friendly adversarial training: PGD that stops soon after an example is misclassified."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.gradients import loss_and_gradient
from robustbench_lite.attacks.losses import cross_entropy
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.projections import per_example, project, steepest_ascent
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import normal
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    Defense,
    Objective,
    check_not_negative,
)
from robustbench_lite.defenses.crafting import Crafting
from robustbench_lite.defenses.methods.pgd_at import adversarial_objective


@dataclass(frozen=True)
class Fat(Defense):
    """L = CE(f(x'), y), x' of early-stopped PGD (Zhang et al. 2020, arXiv:2002.11242, Algorithm 1).

    Before each of the K steps every example's prediction is looked at. While it is right the
    example goes on; a misclassified one goes on tau times more, then stays where it is. tau = K is
    PGD adversarial training. As in the authors' code, misclassified iterates are counted whether or
    not they follow each other, and each step adds `noise` N(0, 1) before it is projected.

    The authors leave stopped examples out of later passes; ours stay in the batch, so that nothing
    waits for the device: the same images for the cost of full PGD. `steps` in `metrics.jsonl` is
    the mean number of steps that an example took.

    Args:
        crafting: the inner attack at full length; the authors start it uniformly, in eval mode.
        noise: of each step; 0.001 in the authors' code for FAT.
        tau: one for each stretch of epochs; (0, 1, 2) in the authors' code.
        tau_begin: first epoch of each stretch, from 1, rising; (1, 51, 91) of 120 there.

    Raises:
        InputError: for stretches that do not begin with epoch 1, do not rise, or have no tau each.
    """

    crafting: Crafting
    noise: float
    tau: tuple[int, ...]
    tau_begin: tuple[int, ...]

    def __post_init__(self) -> None:
        check_not_negative(noise=self.noise)
        begin = self.tau_begin
        rising = begin[:1] == (1,) and all(a < b for a, b in itertools.pairwise(begin))
        if not rising or len(begin) != len(self.tau) or min(self.tau) < 0:
            raise InputError(
                f"defense.tau_begin={list(begin)}, tau={list(self.tau)}: tau_begin starts with 1 "
                "and rises, and there is one tau of at least 0 for each"
            )

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        tau = self.tau[sum(batch.epoch >= begin for begin in self.tau_begin) - 1]
        x_adv, steps = self._stopped_early(networks[ROBUST], batch, tau)
        return {"x_adv": x_adv, "steps": steps}

    def _stopped_early(self, model: nn.Module, batch: Batch, tau: int) -> tuple[Tensor, Tensor]:
        """x' (B, C, H, W) and how many steps each example took (B,)."""
        attack = self.crafting
        draw = partial(
            normal, batch.x.shape, ids=batch.ids, seed=batch.seed, stream="fat", restart=0
        )
        x_adv = dataclasses.replace(attack, steps=0)(model, batch, loss="ce")
        left = torch.full_like(batch.y, tau)  # misclassified iterates that may still go on
        going = torch.ones_like(batch.y, dtype=torch.bool)
        steps = torch.zeros_like(batch.y)
        with attacked(model, mode=attack.bn_mode):
            for step in range(attack.steps):
                logits, _, gradient = loss_and_gradient(
                    model, x_adv, lambda logits: cross_entropy(logits, batch.y)
                )
                wrong = logits.argmax(dim=1) != batch.y
                going = going & ~(wrong & (left == 0))
                left = left - (wrong & going).long()
                move = float(attack.alpha) * steepest_ascent(gradient, norm=attack.norm)
                if self.noise:
                    move = move + self.noise * draw(step=step).to(move.dtype)
                moved = project(x_adv + move, batch.x, norm=attack.norm, eps=float(attack.eps))
                x_adv = torch.where(per_example(going, moved), moved, x_adv)
                steps = steps + going.long()
        return x_adv, steps

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of x'."""
        found = adversarial_objective(batch, networks[ROBUST](crafted["x_adv"]))
        steps = crafted["steps"].to(found.loss.dtype).mean()
        return Objective(found.loss, {**found.scalars, "steps": steps})
