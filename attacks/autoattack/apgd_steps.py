"""How Auto-PGD moves and when it lowers its step: one rule for Linf and L2, another for L1."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from robustbench_lite.attacks.autoattack.active_set import Rows
from robustbench_lite.attacks.projections import (
    kth_largest,
    l1_norm,
    l1_projection,
    l2_norm,
    linf_norm,
    per_example,
    steepest_ascent,
)
from robustbench_lite.attacks.threat_model import Norm

_INSIDE = 1.0 - 1e-6  # rounding of x + delta to float32 must not leave the ball of L2 or L1
_FIRST_DENSITY = 0.2  # share of entries that an L1 step moves until it first adapts
_DENSER = 1.5  # an L1 step moves the entries of the best point divided by this
_LONGEST_SHRINK = 10.0  # an L1 step is eps at most and eps divided by this at least


class Rule(Protocol):
    """One norm's part of the search. Evaluations of a run are counted from 0, its start.

    `opens` and `counts` (evaluations,) say, per evaluation, whether a stage begins there (the best
    point so far is forgotten) and whether a misclassified point is a success.
    """

    opens: Tensor
    counts: Tensor

    def start(self, x: Tensor, noise: Tensor) -> Tensor:
        """Where a run starts (B, C, H, W), from noise: uniform in [-1, 1) for Linf, else normal."""

    def fields(self, state: Rows) -> Rows:
        """The rule's own part of a fresh state, which has `x`, `x_adv` and `best_loss`."""

    def move(self, state: Rows, evaluation: Tensor) -> Tensor:
        """The point to evaluate next (B, C, H, W), in memory of its own; `evaluation` (B,)."""

    def adapt(self, state: Rows, loss: Tensor, live: Tensor, evaluation: Tensor) -> Tensor:
        """Update step sizes of live rows after their loss (B,); which go back to the best point."""


class BallRule:
    """Linf and L2 (Croce and Hein 2020, arXiv:2003.01690, Sec. 3 and Alg. 1).

    Args:
        norm: `"Linf"` or `"L2"`.
        eps: radius.
        steps: of a run.
        rho: share of a window's steps that must raise the loss, else the step is halved.
        like: a tensor of the device and type of the images.
    """

    def __init__(self, norm: Norm, eps: float, *, steps: int, rho: float, like: Tensor) -> None:
        self._linf = norm == "Linf"
        self._radius = eps if self._linf else eps * _INSIDE
        self._limits = like.new_tensor([-1.0, *_limits(steps, rho)])
        self._pull = like.new_tensor([0.0, 1.0] + [0.75] * (steps - 1))  # no momentum at first
        self.opens = torch.zeros(steps + 1, dtype=torch.bool, device=like.device)
        self.counts = ~self.opens

    def start(self, x: Tensor, noise: Tensor) -> Tensor:
        """A point at distance eps of x, brought into the box."""
        size = linf_norm(noise) if self._linf else l2_norm(noise)
        delta = self._radius * (noise / per_example(size + 1e-12, noise))
        return (x + delta).clamp(0.0, 1.0)

    def fields(self, state: Rows) -> Rows:
        """Step 2 eps, the point before, and the counts of the current window."""
        x, loss = state["x"], state["best_loss"]
        size = torch.full_like(x.flatten(1)[:, 0], 2.0 * self._radius)
        rows = {
            "step": size,
            "previous": state["x_adv"].clone(),
            # The authors compare the first step's loss with an empty row of their table: with 0.
            "previous_loss": torch.zeros_like(loss),
            "increases": torch.zeros_like(state["y"]),
            "reduced": torch.ones_like(state["y"], dtype=torch.bool),
            "checked_loss": loss.clone(),
        }
        if self._linf:
            rows["low"] = (x - self._radius).clamp_(0.0, 1.0)
            rows["high"] = (x + self._radius).clamp_(0.0, 1.0)
        return rows

    def move(self, state: Rows, evaluation: Tensor) -> Tensor:
        """A step along the gradient with momentum 0.75 (Alg. 1, lines 7 and 8)."""
        x_adv, previous = state["x_adv"], state["previous"]
        pull = per_example(self._pull[evaluation], x_adv)
        if self._linf:
            moved = state["gradient"].sign()
        else:
            moved = steepest_ascent(state["gradient"], norm="L2")
        moved.mul_(per_example(state["step"], x_adv)).add_(x_adv)
        self._bring_inside(moved, state)
        moved.sub_(x_adv).mul_(pull).add_(x_adv)
        momentum = previous.neg_().add_(x_adv).mul_(1.0 - pull)  # in the memory of `previous`
        moved.add_(momentum)
        self._bring_inside(moved, state)
        state["previous"] = x_adv
        return moved

    def _bring_inside(self, points: Tensor, state: Rows) -> None:
        """Project in place: Linf exactly; L2 onto the ball, then onto the box."""
        if self._linf:
            points.clamp_(state["low"], state["high"])
            return
        delta = points.sub_(state["x"])
        factor = (self._radius / l2_norm(delta).clamp_min(1e-30)).clamp_max(1.0)
        delta.mul_(per_example(factor, delta)).add_(state["x"]).clamp_(0.0, 1.0)

    def adapt(self, state: Rows, loss: Tensor, live: Tensor, evaluation: Tensor) -> Tensor:
        """Halve the step after a window without progress, and return to the best point."""
        limit, best = self._limits[evaluation], state["best_loss"]
        check = (limit >= 0.0) & live
        increases = state["increases"] + (live & (loss > state["previous_loss"]))
        stuck = ~state["reduced"] & (state["checked_loss"] >= best)
        halve = check & ((increases <= limit) | stuck)
        state["step"] = torch.where(halve, 0.5 * state["step"], state["step"])
        state["increases"] = increases.masked_fill(check, 0)
        state["previous_loss"] = torch.where(live, loss, state["previous_loss"])
        state["reduced"] = torch.where(check, halve, state["reduced"])
        state["checked_loss"] = torch.where(check, best, state["checked_loss"])
        return halve


def _limits(steps: int, rho: float) -> list[float]:
    """Per step, the increases of the loss at which the window that ends there is a failure.

    -1 where no window ends. Windows are 22 % of the steps long, each 3 % shorter than the one
    before, down to 6 % (Croce and Hein 2020, Sec. 3), in whole steps and at least one.
    """
    window, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    limits, at = [-1.0] * steps, -1
    while (at := at + window) < steps:
        limits[at] = rho * window
        window = max(window - shrink, least)
    return limits


class SparseRule:
    """L1 (Croce and Hein 2021, arXiv:2103.01208, l1-APGD): only the largest entries move.

    How many do follows the best point's sparsity, checked every 4 % of a stage's steps; where
    that fell, the step is eps again and the row goes back to the best point, else it is shorter.

    Args:
        eps: radius.
        steps: of a run.
        staged: whether the run first has 30 % of its steps at 3 eps and 30 % at 2 eps, each stage
            from the best point of the one before; only points of the last stage can succeed.
        like: a tensor of the device and type of the images.
    """

    def __init__(self, eps: float, *, steps: int, staged: bool, like: Tensor) -> None:
        parts = stages(steps) if staged else [(1.0, steps)]
        self._staged = staged
        radii, opens, adapts, counts = [], [], [], []
        for number, (scale, length) in enumerate(parts):
            period = max(int(0.04 * length), 1)
            radii += [scale * eps * _INSIDE] * (length + 1)
            opens += [True] + [False] * length
            adapts += [False] + [step % period == 0 for step in range(1, length + 1)]
            counts += [number == len(parts) - 1] * (length + 1)
        self._radii = like.new_tensor(radii)
        self._adapts = torch.tensor(adapts, device=like.device)
        self.opens = torch.tensor(opens, device=like.device)
        self.counts = torch.tensor(counts, device=like.device)

    def start(self, x: Tensor, noise: Tensor) -> Tensor:
        """x plus noise, projected onto the L1 ball and the box at once."""
        return x + l1_projection(x, noise, self._radii[:1])

    def fields(self, state: Rows) -> Rows:
        """The step, the share of entries that move, and how many the start moved."""
        x = state["x"]
        entries = torch.full_like(x.flatten(1)[:, 0], x[0].numel())
        moved = _moved_entries(state["x_adv"], x)
        return {
            "step": torch.ones_like(entries) * self._radii[0],
            "density": moved / x[0].numel() / _DENSER
            if self._staged
            else torch.full_like(entries, _FIRST_DENSITY),
            "moved": moved if self._staged else entries,
        }

    def move(self, state: Rows, evaluation: Tensor) -> Tensor:
        """A step on the entries of largest gradient, projected onto the ball and the box."""
        x, x_adv = state["x"], state["x_adv"]
        size = state["gradient"].abs()
        n = size[0].numel()
        rank = ((1.0 - state["density"]) * n).clamp(0, n - 1).long()  # from the smallest, 0 first
        threshold = kth_largest(size.flatten(1), n - rank)
        chosen = torch.ge(size, per_example(threshold, size), out=size)  # 0 or 1, as floats
        moved = state["gradient"].sign().mul_(chosen)
        moved.mul_(per_example(state["step"] / (l1_norm(moved) + 1e-10), moved)).add_(x_adv)
        if self._staged:  # a stage begins at the best point of the one before
            opens = self.opens[evaluation].to(x.dtype)
            moved.lerp_(state["best"], per_example(opens, moved))
        return l1_projection(x, moved.sub_(x), self._radii[evaluation]).add_(x)

    def adapt(self, state: Rows, loss: Tensor, live: Tensor, evaluation: Tensor) -> Tensor:
        """Set density and step from the sparsity of the best point; which rows return to it."""
        radius = self._radii[evaluation]
        opens, adapts = self.opens[evaluation] & live, self._adapts[evaluation] & live
        moved = _moved_entries(state["best"], state["x"])
        sparser = adapts & (moved / state["moved"] < 0.95)
        shorter = torch.clamp(state["step"] / _DENSER, radius / _LONGEST_SHRINK, radius)
        step = torch.where(adapts, shorter, state["step"])
        state["step"] = torch.where(sparser | opens, radius, step)
        density = moved / state["x"][0].numel() / _DENSER
        state["density"] = torch.where(adapts | opens, density, state["density"])
        state["moved"] = torch.where(adapts | opens, moved, state["moved"])
        return sparser


def stages(steps: int) -> list[tuple[float, int]]:
    """The stages of a staged L1 run: (radius in units of eps, steps); they add up to `steps`."""
    early = math.ceil(0.3 * steps)
    return [(3.0, early), (2.0, early), (1.0, steps - 2 * early)]


def _moved_entries(point: Tensor, x: Tensor) -> Tensor:
    """How many entries of each example differ from `x`: (B,), of the type of `x`."""
    return torch.ne(point, x, out=torch.empty_like(x)).flatten(1).sum(dim=1)
