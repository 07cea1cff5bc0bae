"""The checks that attack the network themselves: short runs of PGD on a few examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.autoattack.apgd import ApgdCe
from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.core.random_numbers import normal
from robustbench_lite.evaluation.flags.thresholds import Check

_STEPS = 10
_HUGE_STEPS = 20
_DRAWS = 8  # noise images of the smoothed copy


@dataclass(frozen=True)
class Attacked:
    """Correct examples, and what it takes to attack them and to judge the candidates.

    Args:
        model: the network, frozen by the caller (`attacked`).
        x: images (B, C, H, W) in [0, 1] that it has right; may be none.
        y: labels (B,), int64.
        ids: example ids (B,), int64.
        seed: of the random starts and of the noise.
        batch_size: rows per forward pass.
        passes: forward passes of the verifier; above 1 more than half of them must be wrong.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    seed: int
    batch_size: int
    passes: int

    def broken_on(
        self, network: _Scaled | _Smoothed, *, norm: Norm, eps: float, steps: int
    ) -> Tensor:
        """Attack `network`; which of the candidates break the plain one, bool (B,).

        PGD on cross-entropy, always from the same random starts; for L1, which PGD has no step
        for, APGD-CE.
        """
        broken = torch.zeros_like(self.y, dtype=torch.bool)
        everything = torch.arange(len(self.x), device=self.x.device)
        for rows in torch.split(everything, max(1, self.batch_size // network.copies)):
            x, y, ids = self.x[rows], self.y[rows], self.ids[rows]
            attack = self._apgd if norm == "L1" else self._pgd
            x_adv = attack(network, x, y, ids, norm=norm, eps=eps, steps=steps)
            broken[rows] = self._judge(x_adv, y)
        return broken

    def _pgd(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        *,
        norm: Norm,
        eps: float,
        steps: int,
    ) -> Tensor:
        return pgd(
            network,
            x,
            y,
            norm=norm,
            eps=eps,
            alpha=eps / 4,
            steps=steps,
            restarts=1,
            loss="ce",
            start="uniform",
            keep="best_loss",
            ids=ids,
            seed=self.seed,
            stream="flags",
            # Nobody looks: far from the data a network may have no finite loss, which is no error
            # of the row; `_judge` does not count such an image.
            finite=FiniteCheck(x.device),
        )

    def _apgd(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        *,
        norm: Norm,
        eps: float,
        steps: int,
    ) -> Tensor:
        attack = ApgdCe(steps=steps, restarts=1, rho=0.75, eot=1, staged_eps=False)
        terms = RunTerms(
            norm=norm,
            eps=eps,
            ids=ids,
            seed=self.seed,
            stream="flags",
            batch_size=len(x),
            passes=self.passes,
            network=network,
        )
        return attack(self.model, x, y, terms)

    def _judge(self, x_adv: Tensor, y: Tensor) -> Tensor:
        """Whether more than half of the passes are wrong, with finite logits: bool (B,)."""
        wrong = torch.zeros_like(y)
        with torch.no_grad():
            for _ in range(self.passes):
                logits = self.model(x_adv)
                wrong += (logits.argmax(dim=1) != y) & torch.isfinite(logits).all(dim=1)
        return 2 * wrong > self.passes


def loss_scale(examples: Attacked, margins: Tensor, threat: ThreatModel) -> Check:
    """By how much PGD on cross-entropy gains when the logits are made smaller.

    The loss of softmax outputs depends on the logits' size where the prediction does not: large
    ones make gradients vanish in float32 (Carlini and Wagner 2016, arXiv:1607.04311; Croce and Hein
    2020, arXiv:2003.01690, Sec. 4). Tried are a tenth, and the size at which the median margin is
    1. Larger logits are no sign of masking: on a network that is never sure they turn
    cross-entropy into a margin loss, which is stronger. `broken_by_copies` tries them.

    Args:
        examples: what is attacked.
        margins: of their clean logits (B,).
        threat: norm and radius.

    Returns:
        Share of examples that the better of the two breaks, less the share broken as it is; below
        0 when smaller logits only harm.

    Cost:
        36 forwards and 30 backwards per example.
    """
    if len(margins) == 0:
        return Check(0.0, 0)
    eps, unit = float(threat.eps), 1.0 / margins.abs().median().clamp_min(1.0).item()
    plain, *smaller = (
        examples.broken_on(
            _Scaled(examples.model, scale), norm=threat.norm, eps=eps, steps=_STEPS
        ).sum()
        for scale in (1.0, 0.1, unit)
    )
    gain = torch.stack(smaller).max() - plain
    return Check(gain.item() / len(margins), len(margins))


def huge_eps(examples: Attacked, threat: ThreatModel) -> Check:
    """What PGD leaves of correct examples at half the diameter of the images.

    There every image reaches the grey one (0.5 everywhere), so at most one class can be robust:
    Athalye et al. 2018, arXiv:1802.00420, Sec. 3.1 (unbounded attacks must reach 100 %).

    Args:
        examples: what is attacked.
        threat: 0.5 in Linf for Linf; for L2 and L1 sqrt(d) / 2 in L2.

    Returns:
        Share of the examples left.

    Cost:
        22 forwards and 20 backwards per example.
    """
    n = len(examples.x)
    if n == 0:
        return Check(0.0, 0)
    norm: Norm = "Linf" if threat.norm == "Linf" else "L2"
    eps = 0.5 if norm == "Linf" else 0.5 * examples.x[0].numel() ** 0.5
    plain = _Scaled(examples.model, 1.0)
    broken = examples.broken_on(plain, norm=norm, eps=eps, steps=_HUGE_STEPS)
    return Check(1.0 - broken.double().mean().item(), n)


def broken_by_copies(examples: Attacked, threat: ThreatModel) -> Tensor:
    """Transfer from two altered copies of the network, by PGD on cross-entropy.

    One has its logits averaged over Gaussian noise on the image: that removes what makes gradients
    useless close by and leaves the direction in which the network does change, so such copies
    transfer better than the network itself (Wu et al. 2018, arXiv:1802.09707). It does not help
    where gradients are exactly zero. The other has its logits times 10 (the logit scaling of Hitaj
    et al. 2021, arXiv:2103.01914, which broke instance-reweighted training).

    Args:
        examples: what is attacked.
        threat: norm and radius; the noise is as large per pixel as a perturbation that spends the
            radius evenly.

    Returns:
        Which examples a candidate of either breaks on the network itself, bool (B,).

    Cost:
        101 forwards and 90 backwards per example.
    """
    x, eps = examples.x, float(threat.eps)
    if len(x) == 0:
        return torch.zeros_like(examples.y, dtype=torch.bool)
    d = x[0].numel()
    size = {"Linf": eps, "L2": eps / d**0.5, "L1": eps / d}[threat.norm]
    ids = torch.arange(_DRAWS, device=x.device)
    shape = torch.Size((_DRAWS, *x.shape[1:]))
    noise = size * normal(
        shape, ids=ids, seed=examples.seed, stream="flags/noise", restart=0, step=0
    )
    model = examples.model
    by_smoothed, by_rescaled = (
        examples.broken_on(copy, norm=threat.norm, eps=eps, steps=_STEPS)
        for copy in (_Smoothed(model, noise), _Scaled(model, 10.0))
    )
    return by_smoothed | by_rescaled


class _Scaled(nn.Module):
    """The network with its logits times a constant, and NaN gradients of the input taken as 0."""

    copies = 1  # images that one image is passed as

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        x = x.view_as(x)
        if x.requires_grad:
            x.register_hook(_finite)  # type: ignore[no-untyped-call]
        logits: Tensor = self.model(x).float() * self.scale
        return logits


def _finite(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


class _Smoothed(nn.Module):
    """A copy whose logits are averaged over fixed noise images (copies, C, H, W)."""

    def __init__(self, model: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.model, self.noise, self.copies = _Scaled(model, 1.0), noise, len(noise)

    def forward(self, x: Tensor) -> Tensor:
        # Inside [0, 1], where the network is defined.
        images = (x[:, None] + self.noise).clamp(0.0, 1.0).flatten(0, 1)
        logits: Tensor = self.model(images)
        return logits.view(len(x), self.copies, -1).mean(dim=1)
