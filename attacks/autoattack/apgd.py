"""Auto-PGD on cross-entropy, on the DLR loss and on its targeted form; Linf, L2 and L1."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from robustbench_lite.attacks.autoattack.active_set import Rows, attack_active_set
from robustbench_lite.attacks.autoattack.apgd_search import AutoPGD
from robustbench_lite.attacks.autoattack.apgd_steps import BallRule, Rule, SparseRule, stages
from robustbench_lite.attacks.contract import (
    Attack,
    Cost,
    Count,
    RunTerms,
    Share,
    TargetableAttack,
    check_one_target,
)
from robustbench_lite.attacks.losses import (
    cross_entropy,
    dlr,
    dlr_of_lead,
    margin,
    targeted_dlr,
    targeted_margin,
)
from robustbench_lite.attacks.targets import target_labels_of
from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import normal, uniform

_MOST_RUNS = 4096  # that the counter of the random numbers tells apart


def _noise(norm: Norm, rows: Rows, *, seed: int, stream: str) -> Tensor:
    """Noise of a run's start, like `x`: uniform in [-1, 1) for Linf, standard normal elsewhere."""
    draw = uniform if norm == "Linf" else normal
    x = rows["x"]
    noise = draw(
        x.shape, ids=rows["ids"], seed=seed, stream=stream, restart=rows["run"], step=0
    ).to(x.dtype)
    return 2.0 * noise - 1.0 if norm == "Linf" else noise


@dataclass(frozen=True)
class _Apgd(Attack):
    """What the three have in common; see `ApgdCe`."""

    searches_elsewhere = True
    batches_itself = True

    steps: Count
    restarts: Count
    rho: Share
    eot: Count
    staged_eps: bool

    @property
    def n_targets(self) -> int:
        """Wrong classes to try; 0 where the attack has no target."""
        return 0

    @abstractmethod
    def loss(self, logits: Tensor, rows: Rows) -> Tensor:
        """What is ascended: logits (B, K), and rows with their `target`, to (B,)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        runs = self.restarts * (self.n_targets or 1)
        if runs > _MOST_RUNS:
            raise InputError(
                f"{runs} runs per example: the random numbers know {_MOST_RUNS} at most"
            )
        if self.staged_eps and stages(self.steps)[-1][1] < 1:
            raise InputError(f"steps={self.steps} leaves none for the last stage of staged_eps")

    def check(self, threat: ThreatModel, num_classes: int | None = None) -> None:
        super().check(threat)
        if self.staged_eps and threat.norm != "L1":
            raise InputError(f"staged_eps={self.staged_eps!r} is for L1 alone")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        several = terms.passes > 1
        search = AutoPGD(
            terms.searched(model),
            self.loss,
            rule=self._rule(terms, like=x),
            draw=partial(_noise, terms.norm, seed=terms.seed, stream=terms.stream),
            restarts=self.restarts,
            targets=self.n_targets,
            eot=self.eot,
            device=x.device,
            keep_best_of_run=several,
        )
        return attack_active_set(
            search,
            model,
            x,
            y,
            ids=terms.ids,
            capacity=terms.batch_size,
            passes=terms.passes,
            network=terms.network,
            keep_best_of_run=several,
            target=target_labels_of(self, model, x, y, terms),
        )

    def _rule(self, terms: RunTerms, *, like: Tensor) -> Rule:
        if terms.norm == "L1":
            return SparseRule(terms.eps, steps=self.steps, staged=self.staged_eps, like=like)
        return BallRule(terms.norm, terms.eps, steps=self.steps, rho=self.rho, like=like)

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        # Every stage of L1's staged radius begins with a look at its first point.
        evaluations = self.steps + (3 if self.staged_eps else 1)
        runs = self.restarts * (min(self.n_targets, num_classes - 1) or 1)
        searched = evaluations * self.eot * runs
        candidates = passes * runs if passes > 1 else 0  # the candidate of each run
        return Cost(searched + candidates + passes, searched)


@dataclass(frozen=True)
class ApgdCe(_Apgd):
    """Auto-PGD on cross-entropy (Croce and Hein 2020, arXiv:2003.01690, Alg. 1 and Sec. 4).

    PGD with momentum that halves its own step and goes back to its best point when the loss stops
    growing. L1 after Croce and Hein 2021, arXiv:2103.01208. The rules are those of the authors'
    code, step for step, but for this: draws are per example; an example leaves at its first
    misclassified point, where theirs goes on and keeps the last; the L2 and L1 balls are a
    millionth smaller, so that rounding stays inside; an L2 gradient too small to be squared still
    gives a direction; for L1 no entry moves by rounding alone, which theirs would count as moved.

    A call returns, inside ball and box, the first misclassified point; the clean image where there
    is none, or where the clean image is already misclassified.

    Args:
        steps: gradient steps of a run; AutoAttack 100.
        restarts: runs, each from a random start; AutoAttack 1 or 5.
        rho: share of steps that must raise the loss for the step size to stay; AutoAttack 0.75.
            L1 has a rule of its own without it.
        eot: passes over which a gradient is averaged, for randomised networks; 1 elsewhere.
        staged_eps: L1 only: 30 % of the steps at 3 eps, 30 % at 2 eps, the rest at eps.
    """

    def loss(self, logits: Tensor, rows: Rows) -> Tensor:
        return cross_entropy(logits, rows["y"])


@dataclass(frozen=True)
class ApgdDlr(_Apgd):
    """Auto-PGD on the difference of logits ratio (arXiv:2003.01690, Eq. 6); see `ApgdCe`.

    Of two classes the loss is the margin, the ratio's numerator: the ratio needs three.
    """

    def loss(self, logits: Tensor, rows: Rows) -> Tensor:
        return (dlr if logits.shape[1] >= 3 else margin)(logits, rows["y"])


@dataclass(frozen=True)
class ApgdT(_Apgd, TargetableAttack):
    """Auto-PGD on the targeted DLR loss (arXiv:2003.01690, Eq. 7); see `ApgdCe`.

    The targets are the min(targets, K - 1) likeliest wrong classes on the clean image, one run
    and then its restarts each; any misclassification is a success. Below 4 classes, where the
    ratio is not defined, the loss is its numerator z_t - z_y. With a `target` only that class is a
    success, and aimed at alone, by `losses.dlr_of_lead`.

    Args:
        targets: wrong classes to try; AutoAttack 9 (L1: 5). With a `target` 1.
    """

    targets: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_target(self.target, self.targets)

    def loss(self, logits: Tensor, rows: Rows) -> Tensor:
        if "goal" in rows:
            return dlr_of_lead(logits, rows["goal"])
        loss = targeted_dlr if logits.shape[1] >= 4 else targeted_margin
        return loss(logits, rows["y"], rows["target"])

    @property
    def n_targets(self) -> int:
        return self.targets

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        return super().cost(norm, num_classes, passes) + self.cost_of_choice
