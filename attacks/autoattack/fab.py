"""FAB, the Fast Adaptive Boundary attack: smallest perturbations, by projecting on boundaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from robustbench_lite.attacks.autoattack.active_set import Rows, attack_active_set
from robustbench_lite.attacks.autoattack.fab_projections import smallest_moves
from robustbench_lite.attacks.contract import (
    Attack,
    Cost,
    Count,
    RunTerms,
    Share,
    TargetableAttack,
    check_one_target,
)
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.gradients import loss_and_gradient
from robustbench_lite.attacks.losses import lead_of
from robustbench_lite.attacks.projections import l1_norm, l2_norm, linf_norm, per_example
from robustbench_lite.attacks.targets import succeeded, target_labels_of
from robustbench_lite.attacks.threat_model import Norm
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import normal, uniform

_NORM_OF: dict[Norm, Callable[[Tensor], Tensor]] = {"Linf": linf_norm, "L2": l2_norm, "L1": l1_norm}
_DUAL_OF: dict[Norm, Callable[[Tensor], Tensor]] = {"Linf": l1_norm, "L2": l2_norm, "L1": linf_norm}
_TINY = 1e-12  # added to the dual norm of a gradient, as in the authors' code
_SHORTEST = 1e-8  # moves count as at least this long in the mix, as in the authors' code
_MOST_RUNS = 2**12  # what the random counter can tell apart


@dataclass(frozen=True)
class Fab(Attack):
    """FAB (Croce and Hein 2020, arXiv:1907.02044, Algorithm 1), untargeted.

    Each step linearises all K - 1 logit differences, projects the iterate and the clean image onto
    the nearest class boundary inside the box, and goes to a mix of both. A misclassified iterate
    is a candidate, and is then drawn towards the clean image. The candidate of the smallest norm
    counts; the example is broken when that norm is at most `eps`. Rules as AutoAttack's code sets
    them: no final search along the line to the clean image, random starts at `eps` / 2. The
    authors look at the norm after the last step, here the example leaves at the first candidate
    inside the ball: the verdict is the same.

    A call returns images inside ball and box; an example that is not broken comes back clean.

    Args:
        steps: steps per run; 100 in AutoAttack.
        restarts: runs per example (per target), at least 1: the first from the clean image, the
            others from random points at distance `eps` / 2.
        alpha_max: largest share of the clean image's projection in the mix; 0.1 in AutoAttack.
        eta: overshoot of the projections, at least 1; 1.05 in AutoAttack.
        beta: how far from the clean image a misclassified iterate stays; 0.9 in AutoAttack.
    """

    searches_elsewhere = True
    batches_itself = True

    steps: Count
    restarts: Count
    alpha_max: Share
    eta: Annotated[float, Meta(ge=1.0)]
    beta: Share

    @property
    def n_targets(self) -> int:
        """Wrong classes to try; 0 in the untargeted attack."""
        return 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runs > _MOST_RUNS:
            raise InputError(f"{self.runs} runs (targets times restarts): at most {_MOST_RUNS}")

    @property
    def runs(self) -> int:
        """Runs per example, where there are enough classes."""
        return (self.n_targets or 1) * self.restarts

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        search = FabSearch(terms.searched(model), x, self, terms)
        return attack_active_set(
            search,
            model,
            x,
            y,
            ids=terms.ids,
            capacity=terms.batch_size,
            passes=terms.passes,
            network=terms.network,
            target=target_labels_of(self, model, x, y, terms),
        )

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        step = Cost(2, num_classes - 1)
        return step * (self.steps * self.restarts) + Cost(passes, 0)


@dataclass(frozen=True)
class FabT(Fab, TargetableAttack):
    """Targeted FAB (FAB-T; Croce and Hein 2020, arXiv:2003.01690, Sec. 5).

    As `Fab`, but a run looks at the boundary to one class only, so that a step costs one backward
    however many classes there are. A candidate counts whatever class it is taken for. With a
    `target` t only candidates that are taken for t count, and the boundary is that of t to the
    strongest other class: z_t - max_{j != t} z_j is linearised.

    Args:
        targets: classes, the likeliest wrong ones on the clean image first; at most K - 1 are used.
            9 in AutoAttack; 1 with a `target`.
    """

    targets: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_target(self.target, self.targets)

    @property
    def n_targets(self) -> int:
        return self.targets

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        runs = min(self.targets, num_classes - 1) * self.restarts
        return Cost(2, 1) * (self.steps * runs) + Cost(passes, 0) + self.cost_of_choice


class FabSearch:
    """FAB as a step machine; the candidate is the smallest misclassified point so far.

    A claiming row stands still, its `left` too: rejected, it goes on from where it claimed.

    Args:
        network: the one to search on.
        x: any images of the device to come.
        rules: the attack's parameters.
        terms: norm, radius, seed and stream.
    """

    def __init__(self, network: nn.Module, x: Tensor, rules: Fab, terms: RunTerms) -> None:
        self.runs = rules.runs
        self.finite = FiniteCheck(x.device)
        self._network, self._rules, self._terms = network, rules, terms
        self._length = _NORM_OF[terms.norm]
        self._advances = 0

    def begin(self, rows: Rows) -> Rows:
        """See `Search.begin`. Runs go target by target, each with all of its restarts."""
        x, y = rows["x"], rows["y"]
        state = {
            **rows,
            "x_adv": x.clone(),
            "at": self._start(rows),
            "best": torch.full_like(x[:, 0, 0, 0], torch.inf),
            "candidate": torch.zeros_like(y, dtype=torch.bool),
            "left": torch.full_like(y, self._rules.steps),
        }
        if "goal" in rows:
            self.runs = self._rules.restarts
        elif self._rules.n_targets:
            classes = rows["logits"].shape[1]
            self.runs = min(self._rules.n_targets, classes - 1) * self._rules.restarts
            ranked = rows["logits"].scatter(1, y[:, None], torch.inf).argsort(dim=1)
            rank = classes - 2 - rows["run"] // self._rules.restarts  # the label is last
            state["target"] = ranked.gather(1, rank[:, None])[:, 0]
        return state

    def advance(self, state: Rows, steps: int) -> None:
        """See `Search.advance`; 2 forwards and 1 backward (untargeted: K - 1) per step."""
        x, y = state["x"], state["y"]
        seen = []
        for _ in range(steps):
            lead, gradient = self._linearise(state)
            at = self._step(state["at"], x, lead, gradient)
            logits = self._network(at)
            going = ~state["candidate"]
            wrong = succeeded(logits.argmax(dim=1), y, state.get("goal"))
            size = self._length(at - x)
            better = going & wrong & (size < state["best"])
            # A weight of exactly 0 or 1 picks one end, faster than `where` does.
            state["x_adv"] = torch.lerp(state["x_adv"], at, per_example(better.to(at), at))
            state["best"] = torch.where(better, size, state["best"])
            kept = torch.where(wrong, self._rules.beta, 1.0).to(at)
            state["at"] = torch.lerp(x, at, per_example(kept, at))
            state["candidate"] = state["best"] <= self._terms.eps
            state["left"] = state["left"] - going.long()
            watched = lead + gradient.flatten(1).sum(dim=1) + logits.sum(dim=1, dtype=lead.dtype)
            seen.append(watched)
        self.finite.note(self._advances, torch.stack(seen))
        self._advances += 1

    def reject(self, state: Rows, rows: Tensor) -> None:
        """See `Search.reject`. A rejected row goes on from where its claim would have led."""
        state["candidate"][rows] = False
        state["best"][rows] = torch.inf
        state["at"][rows] = torch.lerp(state["x"][rows], state["x_adv"][rows], self._rules.beta)

    def _start(self, rows: Rows) -> Tensor:
        """The clean image, or from the second restart on a random point eps / 2 from it."""
        x = rows["x"]
        if self._rules.restarts == 1:
            return x.clone()
        draw = uniform if self._terms.norm == "Linf" else normal
        noise = draw(
            x.shape,
            ids=rows["ids"],
            seed=self._terms.seed,
            stream=self._terms.stream,
            restart=rows["run"],
            step=0,
        ).to(x)
        if self._terms.norm == "Linf":
            noise = 2.0 * noise - 1.0
        drawn = (rows["run"] % self._rules.restarts > 0).to(x)
        factor = 0.5 * self._terms.eps * drawn / self._length(noise)
        return (x + noise * per_example(factor, x)).clamp_(0.0, 1.0)

    def _linearise(self, state: Rows) -> tuple[Tensor, Tensor]:
        """Lead (B,) of another class over the label, z_k - z_y, and its gradient (B, C, H, W)."""
        if (goal := state.get("goal")) is not None:
            at = state["at"]
            _, value, gradient = loss_and_gradient(self._network, at, lambda z: lead_of(z, goal))
            return value, gradient
        own = state["y"][:, None]
        if not self._rules.n_targets:
            return nearest_boundary(self._network, state["at"], state["y"], norm=self._terms.norm)
        other = state["target"][:, None]

        def lead(logits: Tensor) -> Tensor:
            return (logits.gather(1, other) - logits.gather(1, own))[:, 0]

        _, value, gradient = loss_and_gradient(self._network, state["at"], lead)
        return value, gradient

    def _step(self, at: Tensor, x: Tensor, lead: Tensor, gradient: Tensor) -> Tensor:
        """Mix of the projections of the iterate and of the clean image, both overshot by eta."""
        points = torch.stack([at.flatten(1), x.flatten(1)])  # (2, B, d)
        w = gradient.flatten(1)
        lead_of_clean = lead + ((points[1] - points[0]) * w).sum(dim=1)
        leads = torch.stack([lead, lead_of_clean])  # (2, B), of the linearised network
        moves, lengths = smallest_moves(points, w, -leads, norm=self._terms.norm)
        lengths = lengths.clamp_min(_SHORTEST)
        alpha = (lengths[0] / lengths.sum(dim=0)).clamp_max(self._rules.alpha_max)[:, None]
        ends = points.add_(moves, alpha=self._rules.eta)
        return torch.lerp(ends[0], ends[1], alpha.to(x.dtype)).clamp_(0.0, 1.0).view_as(at)


def nearest_boundary(
    network: nn.Module, x: Tensor, y: Tensor, *, norm: Norm
) -> tuple[Tensor, Tensor]:
    """The class whose boundary, linearised, is nearest (Croce and Hein 2020, arXiv:1907.02044).

    Args:
        network: maps (B, C, H, W) to logits (B, K), frozen by the caller.
        x: images (B, C, H, W).
        y: labels (B,), int64.
        norm: in which distances are taken.

    Returns:
        Its lead z_k - z_y (B,) and the gradient of that (B, C, H, W).

    Cost:
        One forward and K - 1 backwards.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = network(x)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        classes = torch.arange(logits.shape[1] - 1, device=x.device)
        others = classes + (classes >= y[:, None]).long()  # (B, K - 1), in order
        leads = logits.gather(1, others) - logits.gather(1, y[:, None])
        totals = leads.sum(dim=0).unbind()
    best = torch.full_like(leads[:, 0], torch.inf)
    lead, gradient = torch.zeros_like(best), torch.zeros_like(x)
    for k, total in enumerate(totals):
        (each,) = torch.autograd.grad(total, x, retain_graph=k + 1 < len(totals))
        value = leads[:, k].detach()
        distance = value.abs() / (_TINY + _DUAL_OF[norm](each))
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        lead = torch.where(nearer, value, lead)
        gradient = torch.lerp(gradient, each, per_example(nearer.to(x), x))
    return lead, gradient.detach()
