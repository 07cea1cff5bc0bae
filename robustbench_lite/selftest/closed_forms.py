"""Exact radii in closed form: how far an image is from the nearest other class.

Everything is float64, and nothing here uses an attack or a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.attacks.threat_model import Norm

_HALVINGS = 60  # of an interval that begins at most 64 long: below the rounding of float64


def linear_radii(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, *, norm: Norm) -> Tensor:
    """Distance to the decision boundary of a linear network, inside the box [0, 1].

    The label y loses to class j where (w_j - w_y) x + b_j - b_y reaches 0, so the radius is
    min_j of the distance to a half-space. Without the box that distance is (z_y - z_j) over the
    dual norm of w_j - w_y. With the box a pixel can move towards j by `room` at most:
    1 - x where w_j - w_y is positive, x where it is negative.

    Args:
        weight: (K, D).
        bias: (K,).
        x: images (B, D) in [0, 1].
        y: labels (B,), int64.
        norm: `"Linf"`, `"L2"` or `"L1"`.

    Returns:
        float64 (B,): 0 where the image is misclassified, infinity where the box holds no other
        class.
    """
    weight, bias, x = weight.double(), bias.double(), x.double()
    logits = x @ weight.T + bias  # (B, K)
    radii = torch.full_like(x[:, 0], torch.inf)
    for other in range(len(bias)):
        direction = weight[other] - weight[y]  # (B, D)
        gap = logits.gather(1, y[:, None])[:, 0] - logits[:, other]
        radius = halfspace_distance(direction, gap, x, norm=norm)
        radii = torch.where(y == other, radii, torch.minimum(radii, radius))
    return radii


def halfspace_distance(direction: Tensor, gap: Tensor, x: Tensor, *, norm: Norm) -> Tensor:
    """Smallest norm of a delta with direction . delta >= gap and x + delta in [0, 1].

    The best delta of each norm is known: for Linf every pixel moves by the radius or by its room;
    for L1 whole pixels move by their room, the steepest first; for L2 each moves by
    min(t |direction|, room) for one number t (Karush, Kuhn and Tucker). The gain grows with the
    radius, with the number of pixels, with t, so one search along it finds the point.

    Args:
        direction: (B, D).
        gap: (B,); at most 0 where nothing has to move.
        x: (B, D) in [0, 1].
        norm: of the distance.

    Returns:
        float64 (B,): infinity where no point of the box will do.
    """
    slope = direction.abs()
    room = torch.where(direction > 0.0, 1.0 - x, x)
    if norm == "L1":
        distance = _sparse_distance(slope, room, gap)
    else:
        distance = _spread_distance(slope, room, gap, norm)
    reachable = (slope * room).sum(dim=1) >= gap
    distance = torch.where(reachable, distance, torch.inf)
    return torch.where(gap <= 0.0, 0.0, distance)


def _spread_distance(slope: Tensor, room: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """Linf and L2: bisection on the radius, or on t, until the gain is the gap."""

    def moves(t: Tensor) -> Tensor:
        return torch.minimum(t if norm == "Linf" else t * slope, room)

    low, high = torch.zeros_like(gap)[:, None], torch.ones_like(gap)[:, None]
    if norm == "L2":  # from here on the flattest pixel that counts has moved by all of its room
        flattest = torch.where(slope > 0.0, slope, torch.inf).amin(dim=1, keepdim=True)
        high = 1.0 / flattest
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        enough = ((slope * moves(middle)).sum(dim=1, keepdim=True)) >= gap[:, None]
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high[:, 0] if norm == "Linf" else moves(high).norm(dim=1)


def _sparse_distance(slope: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """L1: the steepest pixels move by all of their room, and the last by what is still missing."""
    slope, order = slope.sort(dim=1, descending=True)
    room = room.gather(1, order)
    gained = (slope * room).cumsum(dim=1)
    before = torch.cat([torch.zeros_like(gap)[:, None], gained[:, :-1]], dim=1)
    missing = (gap[:, None] - before).clamp_min(0.0)
    last = missing / slope.clamp_min(1e-300)
    return torch.minimum(last, room).sum(dim=1)


def box_radii(x: Tensor, center: Tensor, *, half: float, slack: float, norm: Norm) -> Tensor:
    """Distance to {x : sum_i max(|x_i - center_i| - half, 0) <= slack}, a box with rounded edges.

    With v_i = max(|x_i - center_i| - half, 0) the point must bring sum_i v_i down to `slack`. L1:
    sum v - slack. Linf: the e with sum_i max(v_i - e, 0) = slack. L2: the distance of v to the
    L1 ball of radius `slack`, whose projection is max(v - e, 0) with the same e (Duchi et al. 2008,
    "Efficient projections onto the l1-ball", Sec. 3). Moving towards the centre never leaves the
    box [0, 1].

    Args:
        x: images (B, D).
        center: (D,), in [0, 1].
        half: half the side of the box.
        slack: above 0.
        norm: of the distance.

    Returns:
        float64 (B,): 0 inside the region.
    """
    v = ((x.double() - center.double()).abs() - half).clamp_min(0.0)
    excess = (v.sum(dim=1) - slack).clamp_min(0.0)
    if norm == "L1":
        return excess
    falling = v.sort(dim=1, descending=True).values
    counts = torch.arange(1, v.shape[1] + 1, dtype=torch.float64)
    levels = (falling.cumsum(dim=1) - slack) / counts  # e, if the first k of them stay above it
    level = levels.amax(dim=1).clamp_min(0.0)  # the right k is the one with the largest e
    moved = torch.minimum(v, level[:, None])
    return level if norm == "Linf" else moved.norm(dim=1)


def staircase_gain(weight: Tensor, x: Tensor, *, eps: float, levels: int) -> Tensor:
    """Largest weight . (q(x + delta) - q(x)) with |delta| <= eps, q rounding to steps.

    q rounds to multiples of 1 / levels and is monotone, so each pixel is best at one end of its
    interval.

    Args:
        weight: (D,).
        x: images (B, D) in [0, 1].
        eps: Linf radius.
        levels: steps of q between 0 and 1.

    Returns:
        float64 (B,), at least 0.
    """
    weight, x = weight.double(), x.double()
    best = (x + eps * weight.sign()).clamp(0.0, 1.0)
    moved = (best * levels).round() - (x * levels).round()
    return (moved @ weight) / levels
