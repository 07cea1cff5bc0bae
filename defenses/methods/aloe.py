"""Robust detection of outliers: ALOE, AOE, Outlier Exposure and ACET."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.first_order.pgd_int import Rounding, pgd_int, whole_levels
from robustbench_lite.attacks.losses import uniform_cross_entropy
from robustbench_lite.attacks.model_state import BnMode
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    Defense,
    Objective,
    Outliers,
    check_not_negative,
)
from robustbench_lite.defenses.crafting import Crafting


@dataclass(frozen=True)
class IntegerCrafting:
    """`pgd_int` from a uniform start; it returns its last iterate.

    Args:
        eps: Linf radius in [0, 1] units, a whole number of 1/255.
        alpha: step size, likewise.
        steps: gradient steps.
        rounding: `"round"`, or `"truncate"` as the authors do (see `pgd_int`).
        bn_mode: BatchNorm while crafting; `"train"` in the authors' code.
    """

    eps: Fraction
    alpha: Fraction
    steps: int
    rounding: Rounding
    bn_mode: BnMode

    def __post_init__(self) -> None:
        whole_levels("crafting.eps", float(self.eps))
        whole_levels("crafting.alpha", float(self.alpha))

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, loss: str, ids: Tensor, seed: int
    ) -> Tensor:
        """x_adv (B, C, H, W), detached; arguments as of `pgd_int`."""
        return pgd_int(
            model,
            x,
            y,
            eps=float(self.eps),
            alpha=float(self.alpha),
            steps=self.steps,
            loss=loss,
            rounding=self.rounding,
            start="uniform",
            ids=ids,
            seed=seed,
            mode=self.bn_mode,
            stream=f"crafting/{loss}",
            # A gradient that is not finite makes the training loss so, which the loop watches.
            finite=FiniteCheck(x.device),
        )


@dataclass(frozen=True)
class Aloe(Defense):
    """L = CE(f(x'), y) + weight OE(f(o')) (Chen et al. 2020, arXiv:2003.09711, and their code).

    OE(z) = -(1/K) sum_k log p_k. x' ascends CE, o' ascends OE, each crafted in a batch of its own;
    then one forward of [x'; o']. With `attack_outliers = false` this is the authors' AOE,
    CE(f(x'), y) + weight OE(f(o)); with `attack_inliers = false` only the outliers are attacked.

    The authors forward [x; o] before crafting: for their log in ALOE, for the outlier term in AOE,
    where o' is crafted nevertheless and stands beside x' in the second pass. None of that changes
    the loss of a network without BatchNorm; with it, running (AOE: batch) statistics differ.
    `clean_forward` does all of it. In AOE, where that pass has a graph, ours comes after crafting.

    Args:
        crafting: the inner attack; 1/255 in two steps of 1/255 in the authors' training.
        outliers: where o comes from; 128 beside 64 images in the authors' training.
        weight: lambda; 0.5 in the authors' code.
        attack_inliers: whether x' is crafted, else it is x.
        attack_outliers: whether the outlier term is that of o', else that of o.
        clean_forward: the authors' passes; false leaves out what only BatchNorm sees.
    """

    crafting: IntegerCrafting
    outliers: Outliers
    weight: float
    attack_inliers: bool
    attack_outliers: bool
    clean_forward: bool

    def __post_init__(self) -> None:
        check_not_negative(weight=self.weight)
        if not (self.attack_inliers or self.attack_outliers):
            raise InputError(
                "attack_inliers and attack_outliers are both false: that is the defense 'oe'"
            )

    @property
    def outlier_source(self) -> Outliers:
        return self.outliers

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        """[x; o] once for the running statistics (train mode, no graph), then x', then o'."""
        model, x, o = networks[ROBUST], batch.x, _outliers(batch)
        if self.clean_forward and self.attack_outliers:
            with torch.no_grad():
                model(torch.cat([x, o]))
        if self.attack_inliers:
            x = self.crafting(model, x, batch.y, loss="ce", ids=batch.ids, seed=batch.seed)
        if self.attack_outliers or self.clean_forward:
            ids = _outlier_ids(batch)
            o = self.crafting(model, o, _no_labels(o), loss="oe", ids=ids, seed=batch.seed)
        return {"x_adv": x, "outliers_adv": o}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """AOE with the authors' passes: train-mode forwards of [x; o], then [x'; o'], both with a
        graph; otherwise of [x'; o'] alone."""
        model, n = networks[ROBUST], len(batch.x)
        clean: Tensor | None = None
        if self.clean_forward and not self.attack_outliers:
            clean = model(torch.cat([batch.x, _outliers(batch)]))[n:]
        logits = model(torch.cat([crafted["x_adv"], crafted["outliers_adv"]]))
        return _mixed(batch, logits[:n], logits[n:] if clean is None else clean, self.weight)


@dataclass(frozen=True)
class Oe(Defense):
    """L = CE(f(x), y) + weight OE(f(o)) (Hendrycks et al. 2019, arXiv:1812.04606, Sec. 3).

    One forward of [x; o]. This is training from the start; the authors' better-known variant
    fine-tunes a finished network.

    Args:
        outliers: where o comes from.
        weight: lambda; 0.5 in the authors' code for images.
    """

    outliers: Outliers
    weight: float

    def __post_init__(self) -> None:
        check_not_negative(weight=self.weight)

    @property
    def outlier_source(self) -> Outliers:
        return self.outliers

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of [x; o]."""
        del crafted
        n = len(batch.x)
        logits = networks[ROBUST](torch.cat([batch.x, _outliers(batch)]))
        return _mixed(batch, logits[:n], logits[n:], self.weight)


@dataclass(frozen=True)
class Acet(Defense):
    """L = CE(f(x), y) + weight OE(f([o1; o2'])), o1 and o2 the halves of o (Chen et al. 2021).

    As in the baseline of ATOM's code (arXiv:2006.15207), which ascends OE where ACET's own authors
    (Hein et al. 2019, arXiv:1812.05720) ascend the largest confidence. One forward of [x; o1; o2'].
    o2' is each image's iterate of the largest OE. That code also counts o2 itself as an iterate,
    and rounds start and result to whole 1/255; ours does neither.

    Args:
        crafting: the inner attack; there 8/255 in five steps of 2/255, in eval mode.
        outliers: where o comes from.
        weight: 1 in that code.
    """

    crafting: Crafting
    outliers: Outliers
    weight: float

    def __post_init__(self) -> None:
        check_not_negative(weight=self.weight)

    @property
    def outlier_source(self) -> Outliers:
        return self.outliers

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        """The outliers (M, C, H, W), the second half of them crafted to be confident."""
        o = _outliers(batch)
        half = len(o) // 2
        # No image is of class -1, so all count as misclassified: the best is that of the loss.
        attacked = replace(
            batch, x=o[half:], y=_no_labels(o[half:]), ids=_outlier_ids(batch)[half:]
        )
        o2_adv = self.crafting(
            networks[ROBUST], attacked, loss="oe", stream="crafting/oe", keep="best_loss"
        )
        return {"outliers_adv": torch.cat([o[:half], o2_adv])}

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of x and the outliers together."""
        n = len(batch.x)
        logits = networks[ROBUST](torch.cat([batch.x, crafted["outliers_adv"]]))
        return _mixed(batch, logits[:n], logits[n:], self.weight)


def _mixed(batch: Batch, logits: Tensor, outlier_logits: Tensor, weight: float) -> Objective:
    """The label loss of inliers (B, K) plus `weight` times OE of outliers (M, K), both means."""
    inlier_loss = batch.label_losses(logits).mean()
    outlier_loss = uniform_cross_entropy(outlier_logits).mean()
    scalars = {
        "inlier_loss": inlier_loss.detach(),
        "outlier_loss": outlier_loss.detach(),
        "inlier_accuracy": batch.accuracy(logits),
    }
    return Objective(inlier_loss + weight * outlier_loss, scalars)


def _outliers(batch: Batch) -> Tensor:
    assert batch.outliers is not None, "the loop fills it for a method with an outlier_source"
    return batch.outliers


def _outlier_ids(batch: Batch) -> Tensor:
    """Ids (M,) that fix the outliers' starts: one's own for each outlier of an epoch.

    They follow the images beside them, so starts differ from step to step.
    """
    place = torch.arange(len(_outliers(batch)), device=batch.ids.device)
    n = len(batch.ids)
    rounds = -(-len(place) // n)
    return batch.ids[place % n] * rounds + place // n


def _no_labels(x: Tensor) -> Tensor:
    return torch.full((len(x),), -1, device=x.device)
