"""Whether gradients say how the network changes: held against differences of its outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.first_order.bpda import through_approximations
from robustbench_lite.attacks.losses import targeted_margin
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.random_numbers import random_words, seeded, uniform
from robustbench_lite.evaluation.flags.attack_checks import Attacked
from robustbench_lite.evaluation.flags.logit_gaps import logit_gaps
from robustbench_lite.evaluation.flags.thresholds import Check

_DIRECTIONS = 16
_CORNERS = 8
# Of a pixel, tried in this order. Rounding spoils the small ones (outputs in half precision, a
# large constant in the logits, 8-bit inputs), curvature and kinks the large ones.
_STEPS = (1e-3, 1e-2, 1e-4, 3e-2)
_AGREES = 0.95  # a median above it needs no other step
_STREAM = "flags/agreement"
_MOVED = 1e-4  # of the logits' size: the threshold of `randomised`


def gradient_disagrees(examples: Attacked, threat: ThreatModel, *, randomised: bool) -> Check:
    """How far autograd's gradient is from central differences of the network's outputs.

    At a random point c of the ball, with t the runner-up there, m(x) = z_t(x) - z_y(x) and g its
    gradient at c by autograd: over 16 random sign directions v, the correlation of <g, v> with
    (m(c + h v) - m(c - h v)) / 2h. Both have mean 0 over all v, so none is subtracted. The
    runner-up stays fixed, which leaves no kink where classes change places; c is pulled inside the
    box by h, so that c + h v and c - h v are images. Steps h are tried until one agrees: a gradient
    that predicts the network's changes at one of these sizes is one to follow.

    A network with `Bpda` layers that disagrees as it is, is asked again with the approximations in
    the place of what they stand for: a declared step is no flaw, anything else that disagrees is.
    Every pass draws the same: of a randomised network both sides see the same function.

    Args:
        examples: what is looked at.
        threat: norm and radius; c is as far away per pixel as a perturbation that spends the radius
            evenly, at most.
        randomised: whether two passes of one image may differ.

    Returns:
        1 less the median correlation over the examples whose gradient is neither zero nor NaN, at
        the best step; 0 points where there is none, or two passes of one image differ even so.

    Cost:
        33 forwards and 1 backward per example and step tried, of an honest network mostly one; all
        four twice at most. Of a randomised network 2 forwards more.
    """
    if len(examples.x) == 0:
        return Check(0.0, 0)
    devices = [examples.x.device] if examples.x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if randomised and not _repeats(examples):
            return Check(0.0, 0)
        found = _best_step(examples, threat)
        if 1.0 - found.value < _AGREES:
            with through_approximations(examples.model) as layers:
                if layers:
                    found = _best_step(examples, threat)
    return found


def _repeats(examples: Attacked) -> bool:
    """Whether two passes with the same draws give the same logits."""
    with torch.no_grad():
        for x in torch.split(examples.x, examples.batch_size):
            first, again = (_logits(examples, x) for _ in range(2))
            if bool((logit_gaps(first, again) > _MOVED).any()):
                return False
    return True


def _best_step(examples: Attacked, threat: ThreatModel) -> Check:
    best = Check(0.0, 0)
    for step in _STEPS:
        everything = torch.arange(len(examples.x), device=examples.x.device)
        parts = torch.split(everything, examples.batch_size)
        correlations = torch.cat([_correlations(examples, rows, threat, step) for rows in parts])
        defined = correlations[torch.isfinite(correlations)]
        if len(defined) == 0:
            continue
        found = Check(1.0 - defined.quantile(0.5).item(), len(defined))
        if best.points == 0 or found.value < best.value:
            best = found
        if 1.0 - best.value >= _AGREES:
            break
    return best


def _correlations(examples: Attacked, rows: Tensor, threat: ThreatModel, step: float) -> Tensor:
    """Of each example, float64 (B,); NaN without a gradient, or where the logits are not finite."""
    x, y, ids = examples.x[rows], examples.y[rows], examples.ids[rows]
    draws = uniform(x.shape, ids=ids, seed=examples.seed, stream=_STREAM, restart=0, step=0)
    noise = 2.0 * draws - 1.0
    centre = (x + _per_pixel(threat, x) * noise).clamp(step, 1.0 - step).requires_grad_(True)
    with torch.enable_grad():
        logits = _logits(examples, centre)
        others = logits.detach().scatter(1, y[:, None], -torch.inf)
        target = others.argmax(dim=1)
        total = targeted_margin(logits, y, target).sum()
        (gradient,) = torch.autograd.grad(total, centre)
    predicted, measured = [], []
    with torch.no_grad():
        for k in range(_DIRECTIONS):
            sign = _signs(x, ids, examples.seed, step=k)
            above, below = centre + step * sign, centre - step * sign
            # The distance as rounded, not as meant.
            predicted.append((gradient * (above - below)).double().flatten(1).sum(dim=1))
            ends = (targeted_margin(_logits(examples, end), y, target) for end in (above, below))
            upper, lower = (end.double() for end in ends)
            measured.append(upper - lower)
    a, b = torch.stack(predicted), torch.stack(measured)  # (16, B)
    # A function that does not change although it has a gradient (a step) agrees in nothing: 0.
    correlation = (_unit(a) * _unit(b)).sum(dim=0)
    gone = gradient.flatten(1).abs().amax(dim=1) <= 1e-12
    return correlation.masked_fill(gone, torch.nan)


def _unit(values: Tensor) -> Tensor:
    """Columns (K, B) of length 1; those of zeros stay."""
    scaled = values / values.abs().amax(dim=0).clamp_min(1e-300)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=0)
    return scaled / length.clamp_min(1e-300)


def _signs(x: Tensor, ids: Tensor, seed: int, *, step: int) -> Tensor:
    """Random +1 and -1, of the shape of `x` (B, C, H, W)."""
    words = random_words(
        x.shape[1:].numel(), ids=ids, seed=seed, stream=_STREAM, restart=1, step=step
    )
    return (2 * (words & 1) - 1).view(x.shape).to(x.dtype)


def _per_pixel(threat: ThreatModel, x: Tensor) -> float:
    """The radius in each pixel when all pixels have the same share of it."""
    d, eps = math.prod(x.shape[1:]), float(threat.eps)
    return {"Linf": eps, "L2": eps / math.sqrt(d), "L1": eps / d}[threat.norm]


def _logits(examples: Attacked, x: Tensor) -> Tensor:
    with seeded(examples.seed):
        logits: Tensor = examples.model(x)
    return logits.float()


def moves(model: nn.Module, x: Tensor, ids: Tensor, threat: ThreatModel, *, seed: int) -> Tensor:
    """Whether a network's logits change at one of 8 random corners of the ball, bool (B,).

    Args:
        model: the network.
        x: images (B, C, H, W) in [0, 1].
        ids: example ids (B,), int64.
        threat: norm and radius; a corner moves every pixel alike, up or down, and is clipped to
            the box.
        seed: of the corners.

    Cost:
        9 forwards per example.
    """
    size = _per_pixel(threat, x)
    changed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with torch.no_grad():
        logits = model(x).float()
        for step in range(_CORNERS):
            corner = (x + size * _signs(x, ids, seed, step=step)).clamp(0.0, 1.0)
            changed |= logit_gaps(logits, model(corner).float()) > _MOVED
    return changed
