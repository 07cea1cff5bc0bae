"""Auto-PGD as a step machine over rows; the norms' own rules are in `apgd_steps`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.autoattack.active_set import Rows
from robustbench_lite.attacks.autoattack.apgd_steps import Rule
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.gradients import loss_and_gradient
from robustbench_lite.attacks.projections import per_example
from robustbench_lite.attacks.targets import succeeded

Loss = Callable[[Tensor, Rows], Tensor]  # logits (B, K) and rows (with `target`) to (B,)
Draw = Callable[[Rows], Tensor]  # rows to the noise of their runs' starts (B, C, H, W)


class AutoPGD:
    """A `Search` (see active_set): Croce and Hein 2020, arXiv:2003.01690, Alg. 1.

    Claims the first misclassified point; with `keep_best_of_run`, for randomised networks, where
    one such point is luck, the point of the largest loss when its run is over. Every row has its
    own step count, schedule and run; which rows are at which step only the device knows, so nothing
    here waits for it.

    Args:
        network: searched on, frozen by the caller.
        loss: to be raised.
        rule: of the norm.
        draw: noise for the starts.
        restarts: runs, for each target if there are any.
        targets: wrong classes to aim at, the likeliest on the clean image first; 0 for none. Rows
            with a `goal` aim at that alone.
        eot: passes per gradient.
        device: of the images.
        keep_best_of_run: claim nothing before a run is over.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        *,
        rule: Rule,
        draw: Draw,
        restarts: int,
        targets: int,
        eot: int,
        device: torch.device,
        keep_best_of_run: bool = False,
    ) -> None:
        self._network, self._loss, self._rule, self._draw = network, loss, rule, draw
        self._restarts, self._targets, self._eot = restarts, targets, eot
        self._keep_best_of_run = keep_best_of_run
        self._last = len(rule.opens) - 1  # evaluations after the start
        self._evaluations = 0
        self.finite = FiniteCheck(device)

    @property
    def runs(self) -> int:
        """Targets times restarts: a row has one after the other."""
        return self._restarts * max(self._targets, 1)

    def begin(self, rows: Rows) -> Rows:
        """Draw each row's target and start, and evaluate it there."""
        if "goal" in rows:
            self._targets, rows = 1, rows | {"target": rows["goal"]}
        elif self._targets:
            self._targets = min(self._targets, rows["logits"].shape[1] - 1)
            rows = rows | {"target": self._target(rows)}
        x_adv = self._rule.start(rows["x"], self._draw(rows))
        state = rows | {"x_adv": x_adv, "best": x_adv.clone()}
        loss, gradient, wrong = self._evaluate(state)
        state["gradient"], state["best_gradient"] = gradient, gradient.clone()
        state["best_loss"] = loss
        state["candidate"] = wrong & self._rule.counts[0] & (not self._keep_best_of_run)
        state["left"] = torch.full_like(rows["y"], self._last)
        return state | self._rule.fields(state)

    def advance(self, state: Rows, steps: int) -> None:
        for _ in range(steps):
            self._step(state)

    def reject(self, state: Rows, rows: Tensor) -> None:
        state["candidate"][rows] = False
        # Without momentum: the steps a row waited for the verdict must not show in what it does.
        if "previous" in state:
            state["previous"][rows] = state["x_adv"][rows]

    def _step(self, state: Rows) -> None:
        live = ~state["candidate"]
        evaluation = self._last - state["left"] + 1
        moved = self._rule.move(state, evaluation)
        state["x_adv"] = _select(~live, state["x_adv"], moved)
        loss, gradient, wrong = self._evaluate(state)
        better = (loss > state["best_loss"]) | self._rule.opens[evaluation]
        better &= live
        state["best"] = _select(better, state["x_adv"], state["best"])
        state["best_gradient"] = _select(better, gradient, state["best_gradient"])
        state["best_loss"] = torch.where(better, loss, state["best_loss"])
        back = self._rule.adapt(state, loss, live, evaluation)
        counts = self._rule.counts[evaluation]
        if self._keep_best_of_run:
            over = live & (state["left"] == 1)
            state["x_adv"] = _select(over, state["best"], state["x_adv"])
            state["candidate"] = state["candidate"] | over
        else:
            state["candidate"] = state["candidate"] | (wrong & counts)
        back &= ~state["candidate"]  # a claimed point stays
        state["x_adv"] = _select(back, state["best"], state["x_adv"])
        state["gradient"] = _select(back, state["best_gradient"], gradient)
        state["left"] = state["left"] - live.to(torch.int64)

    def _evaluate(self, state: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (B,), gradient (B, C, H, W) and whether a success (B,) at `x_adv`."""
        logits, loss, gradient = loss_and_gradient(
            self._network,
            state["x_adv"],
            lambda z: self._loss(z, state),
            eot=self._eot,
            mean_loss=self._keep_best_of_run,
        )
        # A sum is finite only if all its terms are, and is one pass over the images.
        self.finite.note(self._evaluations, loss, gradient.flatten(1).sum(dim=1))
        self._evaluations += 1
        return loss, gradient, succeeded(logits.argmax(dim=1), state["y"], state.get("goal"))

    def _target(self, rows: Rows) -> Tensor:
        """The wrong class at which each row's run aims (B,)."""
        wrong = rows["logits"].scatter(1, rows["y"][:, None], -torch.inf)  # (B, K)
        order = wrong.argsort(dim=1, descending=True, stable=True)
        rank = rows["run"] // self._restarts
        return order.gather(1, rank[:, None]).squeeze(1)


def _select(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """`torch.where(mask, chosen, other)` of whole rows, finite entries; in the memory of `other`.

    A weight of exactly 0 or 1 gives an end of the line exactly, in a seventh of the time.
    """
    return other.lerp_(chosen, per_example(mask.to(other.dtype), other))
