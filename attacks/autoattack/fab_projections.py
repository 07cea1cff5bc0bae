"""Smallest moves onto a hyperplane inside the pixel box: the inner problem of FAB, no sorting.

Among all delta with w.delta = rise and 0 <= t + delta <= 1, the one of the smallest norm moves
every value in the direction that helps. For Linf and L2 it is fixed by one multiplier `lam` per
row: |delta_i| = min(lam, room_i) (Linf), or min(lam |w_i|, room_i) (L2), where room_i is the way
to the wall. With r_i = room_i, q_i = |w_i| (Linf) or r_i = room_i / |w_i|, q_i = w_i^2 (L2) the
rise is sum_i q_i min(lam, r_i): concave, increasing and piecewise linear in lam.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_lite.attacks.threat_model import Norm

_NEWTON_STEPS = 20  # 2 to 4 on images, at most 18 (float32: 16) for 0.9999 of the largest rise
_NO_WEIGHT = 1e-8  # the authors' code leaves values of less weight where they are (L2, L1)


def smallest_moves(points: Tensor, w: Tensor, rise: Tensor, *, norm: Norm) -> tuple[Tensor, Tensor]:
    """Smallest change of points in the box by which w.point rises by a given amount.

    The projections of FAB (Croce and Hein 2020, arXiv:1907.02044, Sec. 2), by Newton's method on
    the multiplier instead of a sort (Linf, L2), and greedily by weight (L1).

    Args:
        points: P points for each of B rows (P, B, d), in [0, 1].
        w: normals of the hyperplanes (B, d).
        rise: wanted w.delta (P, B), of any sign.
        norm: `"Linf"`, `"L2"` or `"L1"`.

    Returns:
        delta (P, B, d) and its norm (P, B). Where the box is too small for the rise, every value
        goes to its wall. A value of weight 0 (L2, L1: at most 1e-8) stays.
    """
    if norm != "Linf":
        w = functional.hardshrink(w, _NO_WEIGHT)
    heading = torch.where(rise < 0, -1.0, 1.0)[..., None]  # (P, B, 1)
    # Two pixels along the helpful direction is beyond the wall; sign(0) = 0 stays where it is.
    gap = torch.addcmul(points, w.sign(), 2.0 * heading).clamp_(0.0, 1.0).sub_(points)
    if norm == "L1":
        return _greedy(gap, w.abs(), rise.abs())
    # Checking who is done would make the host wait for any other device.
    stop_early = points.device.type == "cpu"
    if norm == "Linf":
        lam = multiplier(gap.abs(), w.abs(), rise.abs(), stop_early=stop_early)[..., None]
        return _within(gap, lam), lam[..., 0]
    size = w.abs()
    ratio = gap.abs().div_(size.clamp_min(_NO_WEIGHT))
    lam = multiplier(ratio, w.square(), rise.abs(), stop_early=stop_early)
    delta = _within(gap, torch.mul(size, lam[..., None], out=ratio))
    return delta, torch.linalg.vector_norm(delta, dim=2)


def _within(gap: Tensor, most: Tensor) -> Tensor:
    """gap clipped to [-most, most], in place; both sides at once (`clamp`) is much slower."""
    torch.minimum(gap, most, out=gap)
    return torch.maximum(gap, -most, out=gap)


def multiplier(r: Tensor, q: Tensor, rise: Tensor, *, stop_early: bool) -> Tensor:
    """The lam with sum_i q_i min(lam, r_i) = rise, at most max_i r_i.

    Newton's method from the left. A tangent of a concave function lies above it, so no iterate
    passes the solution, and each solves exactly the linear piece it is on: once that is the
    solution's piece, nothing more reaches its wall, and lam stays as it is.

    Args:
        r: where each term saturates (P, B, d), at least 0.
        q: weights (B, d), at least 0.
        rise: (P, B), at least 0.
        stop_early: stop as soon as no row moves, instead of after a fixed number of steps.

    Returns:
        (P, B).
    """
    total = q.sum(dim=1)  # (B,)
    lam = rise / total.clamp_min(torch.finfo(q.dtype).tiny)  # (P, B)
    at_wall, saturated = torch.empty_like(r), torch.full_like(lam, -1.0)
    for _ in range(_NEWTON_STEPS):
        torch.le(r, lam[..., None], out=at_wall)
        # What is at the wall is summed, not the rest: with a small rise it is the small part.
        before, saturated = saturated, _dot(q, at_wall)
        if stop_early and torch.equal(saturated, before):
            break
        slope = total - saturated
        beyond = (rise - _dot(q, at_wall.mul_(r))) / slope
        lam = torch.where(slope > 0, torch.maximum(lam, beyond), torch.inf)
    return torch.minimum(lam, r.amax(dim=2))


def _dot(q: Tensor, values: Tensor) -> Tensor:
    """sum_i q_i values_i: (B, d) and (P, B, d) to (P, B)."""
    return torch.bmm(q[:, None], values.permute(1, 2, 0))[:, 0].T


def _greedy(gap: Tensor, weight: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
    """L1: the heaviest values go to their walls, one after the other, until the rise is reached.

    Args:
        gap: signed ways to the walls (P, B, d).
        weight: (B, d), at least 0.
        rise: (P, B), at least 0.

    Returns:
        delta (P, B, d) and its L1 norm (P, B).
    """
    weight, order = weight.sort(dim=1, descending=True)
    order = order.expand_as(gap)
    gap = gap.gather(2, order)
    gain = weight * gap.abs()  # (P, B, d)
    before = gain.cumsum(dim=2).sub_(gain)
    share = (rise[..., None] - before) / gain.clamp_min(torch.finfo(gain.dtype).tiny)
    moved = gap.mul_(share.clamp_(0.0, 1.0))
    return torch.empty_like(gap).scatter_(2, order, moved), moved.abs().sum(dim=2)
