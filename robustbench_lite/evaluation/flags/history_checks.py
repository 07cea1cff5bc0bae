"""Whether a network's answers depend on what it was asked before."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.random_numbers import seeded, uniform
from robustbench_lite.evaluation.flags.fresh_networks import FreshNetworks
from robustbench_lite.evaluation.flags.logit_gaps import logit_gaps
from robustbench_lite.evaluation.flags.thresholds import Check

ASKED = 64  # first images that are asked again
_SAME = 1e-3  # relative, as of batch_dependent
_REPEATED = 1e-4  # relative, as of randomised


def history_check(
    model: nn.Module,
    fresh: FreshNetworks,
    x: Tensor,
    *,
    threat: ThreatModel,
    seed: int,
    batch_size: int,
) -> Check:
    """Ask a network that has been asked much, and fresh copies of it, the same images.

    The images as they are, and two neighbours of each inside the ball; each of the three is asked
    of a copy that has seen nothing else. The used network is asked in reversed order and in batches
    of half the size. Where that changes an answer it is asked once more in the copy's own batches
    and with the same draws, so that what depends on the batch, or on chance, is left to the checks
    of that.

    Args:
        model: the network, frozen by the caller; it has seen the images, and attacks on them.
        fresh: of the same network before its first pass.
        x: images (N, C, H, W) in [0, 1]; the first 64 are asked.
        threat: norm and radius.
        seed: of the neighbours, and of a randomised network's draws.
        batch_size: rows per forward pass.

    Returns:
        Share of the images on which an answer differs by more than 1e-3 of the image's largest
        logit. No points where there is no copy, or where the network's draws cannot be repeated.

    Cost:
        6 forwards per image asked, half of them on copies; 12 where answers differ.
    """
    x = x[:ASKED]
    changed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        for images in (x, *neighbours(x, threat, seed=seed)):
            copied = fresh.one()
            if copied is None:
                return Check(0.0, 0)
            copied.eval()
            expected = _answers(copied, images, batch_size, seed)
            found = _answers(model, images.flip(0), max(1, batch_size // 2), seed).flip(0)
            differs = logit_gaps(expected, found) > _SAME
            if bool(differs.any()):
                again = [_answers(model, images, batch_size, seed) for _ in range(2)]
                if bool((logit_gaps(*again) > _REPEATED).any()):
                    return Check(0.0, 0)
                differs = logit_gaps(expected, again[0]) > _SAME
            changed |= differs
    return Check(changed.double().mean().item(), len(x))


def neighbours(x: Tensor, threat: ThreatModel, *, seed: int) -> tuple[Tensor, Tensor]:
    """For each image a random corner of the ball, and a point halfway to another; in [0, 1]."""
    d, eps = x[0].numel(), float(threat.eps)
    size = {"Linf": eps, "L2": eps / d**0.5, "L1": eps / d}[threat.norm]
    ids = torch.arange(len(x), device=x.device)
    corner, other = (
        (uniform(x.shape, ids=ids, seed=seed, stream="flags/history", restart=0, step=k) - 0.5)
        .sign()
        .mul(size)
        for k in range(2)
    )
    return (x + corner).clamp(0.0, 1.0), (x + 0.5 * other).clamp(0.0, 1.0)


def with_verdicts(check: Check, changed: Collection[int] | None, n: int) -> Check:
    """The check when the verdicts of the parts are known.

    Args:
        check: of `history_check`.
        changed: ids of examples that the network and a fresh copy judged differently in any part;
            None where no copy was asked.
        n: number of examples.

    Returns:
        The larger share; no points where `check` has none, for then verdicts differ by chance.
    """
    if check.points == 0 or changed is None:
        return check
    verdicts = Check(len(changed) / n, n)
    return verdicts if verdicts.value > check.value else check


def _answers(model: nn.Module, images: Tensor, batch_size: int, seed: int) -> Tensor:
    with seeded(seed):
        return torch.cat([model(part).double() for part in torch.split(images, batch_size)])
