"""LRAT (reconstruction): each image and its crafted variants share weight among themselves.

Only the abstract of the paper could be read; its equations could not. What follows is our
reconstruction, built to satisfy what the abstract states. It is not the authors' method as
published, and no published number may be expected of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective
from robustbench_lite.defenses.crafting import Crafting
from robustbench_lite.defenses.instance_weights import (
    check_slope,
    craft_and_count,
    log_geometry_weights,
    log_margin_weights,
    probability_margins,
)


class _Attack(NamedTuple):
    loss: str
    confidence: float | None
    stream: str  # each attack draws its own start; pgd's is the one of plain training


_ATTACKS = {
    "pgd": _Attack("ce", None, "crafting"),
    "cw": _Attack("margin", 50.0, "crafting_cw"),
}


def pair_losses(
    variant_losses: Tensor, clean_losses: Tensor, weights: Tensor, *, pair_constant: float
) -> Tensor:
    """sum_j omega_ij l(x'_ij) + max(0, C - sum_j omega_ij) l(x_i), per example (reconstruction).

    Args:
        variant_losses: (B, m), of the crafted variants.
        clean_losses: (B,), of the images themselves.
        weights: omega (B, m).
        pair_constant: C; no pair's total weight is below it.

    Returns:
        (B,)
    """
    slack = (pair_constant - weights.sum(dim=1)).clamp_min(0.0)  # (B,)
    return (weights * variant_losses).sum(dim=1) + slack * clean_losses


@dataclass(frozen=True)
class Lrat(Defense):
    """LRAT (reconstruction): local reweighting for adversarial training.

    L = (1/B) sum_i [sum_j omega_ij l(x'_ij) + max(0, C - sum_j omega_ij) l(x_i)]

    over training attacks j, after the abstract of Gao, Liu et al. 2021 (arXiv:2106.15776); the
    paper's equations were not available. Stated there: safeness depends on the attack; weights act
    inside each pair of an instance and its variants, never between pairs; an instance that is
    immune is fit itself. Ours: the formula, the weights and every option.

    omega_ij is of variant j alone, constant in the graph, and not normalised over the batch:
    `"kappa"`: (1 + tanh(lam + 5 (1 - 2 kappa_ij / K))) / 2, GAIRAT's function (see `Irat`);
    `"hard"`: 1 where the final variant is misclassified, else 0;
    `"margin"`: sigmoid(-slope (PM_ij - bias)), MAIL's function (see `MailAt`).
    `hard` and `margin` read one more forward pass of the final variants, in eval mode: train mode
    would couple the instances through BatchNorm.

    The update forwards the variants in the order of `attacks`, then x. `mean_weight_*` of the log
    near 0 says that training has become natural training: the attack is too weak, or lam too low.

    Args:
        crafting: the inner attack's budget and steps, for every attack; in eval mode.
        attacks: `"pgd"` (cross-entropy) and `"cw"` (margin loss, confidence 50), one or both.
        weight: `"kappa"`, `"hard"` or `"margin"`.
        lam: of `kappa`; 0 gives 1/2 at kappa = K/2, inf is plain adversarial training, -inf
            natural training.
        slope: of `margin`, at least 0.
        bias: of `margin`: where omega = 1/2.
        pair_constant: C, above 0; 1 keeps the loss on the scale of plain adversarial training.
        mean_over_attacks: divide every omega by the number of attacks.
        batchnorm: `"separate"`, one forward pass (one BatchNorm update) for each set of images, or
            `"concat"`, one for all of them.
        begin_epoch: the first epoch, from 1, with weights; before it the mean over all variants,
            and x is not forwarded. 0 disables this.

    Raises:
        InputError: for values outside what is said above.
    """

    crafting: Crafting
    attacks: tuple[Literal["pgd", "cw"], ...]
    weight: Literal["kappa", "hard", "margin"]
    lam: float
    slope: float
    bias: float
    pair_constant: float
    mean_over_attacks: bool
    batchnorm: Literal["separate", "concat"]
    begin_epoch: int

    def __post_init__(self) -> None:
        if not self.attacks or len(set(self.attacks)) < len(self.attacks):
            raise InputError(
                f"attacks={list(self.attacks)} must name 'pgd', 'cw' or both, each once"
            )
        if self.crafting.bn_mode != "eval":
            raise InputError(
                f"crafting.bn_mode={self.crafting.bn_mode!r}: local weights need 'eval', since "
                "batch statistics couple the instances"
            )
        if self.weight == "kappa" and self.crafting.steps < 1:
            raise InputError(
                f"crafting.steps={self.crafting.steps}: weight 'kappa' needs at least 1 step"
            )
        if self.lam != self.lam:
            raise InputError(f"lam={self.lam} must be a number, inf or -inf")
        if not 0.0 < self.pair_constant < float("inf"):
            raise InputError(f"pair_constant={self.pair_constant} must be finite and above 0")
        check_slope(self.slope)

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        """The variants as `x_adv_pgd`, `x_adv_cw`, and their `weights` (B, m)."""
        model = networks[ROBUST]
        crafted, weights = {}, []
        for name in self.attacks:
            loss, confidence, stream = _ATTACKS[name]
            x_adv, kappa = craft_and_count(
                self.crafting, model, batch, loss=loss, confidence=confidence, stream=stream
            )
            crafted[f"x_adv_{name}"] = x_adv
            weights.append(self.weights(model, batch, x_adv, kappa))
        return crafted | {"weights": torch.stack(weights, dim=1)}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """Train-mode forwards of the image and its variants, weighted within each pair."""
        variants = [crafted[f"x_adv_{name}"] for name in self.attacks]
        weighted = batch.epoch >= self.begin_epoch
        images = [*variants, batch.x] if weighted else variants
        logits = self._forward(networks[ROBUST], images)
        losses = [batch.label_losses(rows) for rows in logits]
        variant_losses = torch.stack(losses[: len(variants)], dim=1)  # (B, m)
        weights = crafted["weights"]
        scalars = {"adv_loss": variant_losses.detach().mean()}
        for j, name in enumerate(self.attacks):
            scalars[f"adv_accuracy_{name}"] = batch.accuracy(logits[j])
            scalars[f"mean_weight_{name}"] = weights[:, j].mean()
        if not weighted:
            return Objective(variant_losses.mean(), scalars)
        scalars["clean_loss"] = losses[-1].detach().mean()
        pairs = pair_losses(variant_losses, losses[-1], weights, pair_constant=self.pair_constant)
        return Objective(pairs.mean(), scalars)

    def weights(self, model: nn.Module, batch: Batch, x_adv: Tensor, kappa: Tensor) -> Tensor:
        """omega (B,) of one attack's variants, each from its own instance alone."""
        if self.weight == "kappa":
            omega = log_geometry_weights(
                kappa.to(x_adv.dtype), steps=self.crafting.steps, lam=self.lam, weight="tanh"
            ).exp()
        else:
            with attacked(model, mode="eval"), torch.no_grad():
                logits = model(x_adv)
            if self.weight == "hard":
                omega = (logits.argmax(dim=1) != batch.y).to(x_adv.dtype)
            else:
                margins = probability_margins(logits, batch.y)
                omega = log_margin_weights(margins, slope=self.slope, bias=self.bias).exp()
        return omega / len(self.attacks) if self.mean_over_attacks else omega

    def _forward(self, model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
        """Train-mode logits of each set of images."""
        if self.batchnorm == "separate":
            return [model(x) for x in images]
        return list(model(torch.cat(list(images))).chunk(len(images)))
