"""AutoAttack on our own engine: two to six attacks, each on what the earlier ones left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.autoattack.apgd import ApgdCe, ApgdDlr, ApgdT
from robustbench_lite.attacks.autoattack.fab import Fab, FabT
from robustbench_lite.attacks.autoattack.square import Square
from robustbench_lite.attacks.contract import Attack, Cost, RunTerms
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.threat_model import Norm

Version = Literal["standard", "plus", "rand"]
PASSES_PER_CHECK = 2  # times the verifier's passes, to see how often a randomised network is wrong
_SETTLED = 0.75  # share of passes that must be wrong for an example to leave: no matter of luck
# Croce and Hein 2020, Sec. 4 and 5, as their code sets them.
_APGD: dict[str, Any] = {"steps": 100, "rho": 0.75}
_FAB: dict[str, Any] = {"steps": 100, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
_SQUARE: dict[str, Any] = {"queries": 5000, "restarts": 1, "p_init": 0.8}


@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack (Croce and Hein 2020, arXiv:2003.01690) with draws that depend on the example.

    The attacks, their order and their parameters are the authors'; see `stages`. Two things
    differ: every draw is a function of (seed, example id, attack, run, step), where the authors
    draw for a batch at once, and an example leaves the moment it is broken. Neither changes what
    an example's attack is; the verdicts of an example no longer depend on its neighbours.

    Of a randomised network (`passes` above 1) one misclassified pass means little: a run goes to
    its end and gives the point of the largest mean loss, where the authors keep the last point that
    a single pass got wrong; an example leaves when three quarters of 2 x `passes` passes are wrong,
    and the candidate that is wrong most often is returned.

    A call returns images inside ball and box; an example that no attack broke comes back clean
    (with several passes as the best candidate). Each attack's random stream is the run's with the
    stage's name appended.

    Args:
        version: `"standard"` (APGD-CE, APGD-T, FAB-T, Square), `"plus"` or `"rand"`.
        few_classes: what stands for the DLR losses where there are too few classes for them (3
            for DLR, 4 for its targeted form): `"margin"`.
            Targets are the min(9, K - 1) likeliest wrong classes on the clean image (L1: 5).
    """

    searches_elsewhere = True
    batches_itself = True

    version: Version
    few_classes: Literal["margin"]

    def stages(self, norm: Norm) -> Mapping[str, Attack]:
        return stages(self.version, norm)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        return run_stages(self.stages(terms.norm), model, x, y, terms)

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        """`standard` on an example that survives, K >= 10: 7,815 forwards and 1,910 backwards."""
        total = cost_of_stages(self.version, norm, num_classes, passes)
        if passes > 1:  # how often each stage's candidate is wrong
            total += Cost(PASSES_PER_CHECK * passes * len(self.stages(norm)), 0)
        return total

    def by_authors(self) -> tuple[str, Mapping[str, object]]:
        return "reference:autoattack", {"version": self.version}


def run_stages(
    stages: Mapping[str, Attack], model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms
) -> Tensor:
    """Attacks one after the other, each on what the earlier ones left; see `AutoAttack`.

    Args:
        stages: by name, in order; the name is added to the random stream of each.
        model, x, y, terms: as of `Attack.__call__`.

    Returns:
        Candidates (N, C, H, W), inside ball and box; the clean image where none succeeded.
    """
    x_adv, standing = x.clone(), torch.ones_like(y, dtype=torch.bool)
    wrong = torch.zeros_like(y, dtype=torch.float32)  # share of passes, with several
    for name, stage in stages.items():
        rows = standing.nonzero().flatten()
        if not len(rows):
            break
        stream = f"{terms.stream}/{name}"
        part = replace(terms, ids=terms.ids[rows], stream=stream, on_stage=None)
        found = stage(model, x[rows], y[rows], part)
        if terms.passes == 1:
            # A stage returns the clean image unless the plain network confirmed its candidate.
            better = (found != x[rows]).flatten(1).any(dim=1)
            standing[rows[better]] = False
        else:
            share = _share_wrong(model, found, y[rows], terms)
            better = share > wrong[rows]
            wrong[rows[better]] = share[better]
            standing = wrong < _SETTLED
        x_adv[rows[better]] = found[better]
        if terms.on_stage is not None:
            mine = torch.zeros_like(y, dtype=torch.bool)
            mine[rows[better]] = True
            terms.on_stage(name, mine)
    return x_adv


def stages(version: Version, norm: Norm) -> dict[str, Attack]:
    """The attacks of a version, by registered name, in order.

    Args:
        version: `"standard"`, `"plus"` or `"rand"`.
        norm: L1 has its own numbers of restarts and targets, and its staged radius, in `standard`.
    """
    staged = version == "standard" and norm == "L1"
    untargeted = _APGD | {
        "restarts": 5 if version == "plus" or staged else 1,
        "eot": 20 if version == "rand" else 1,
        "staged_eps": staged,
    }
    targeted = _APGD | {"targets": 5 if staged else 9, "restarts": 1, "eot": 1}
    every: dict[str, Attack] = {
        "apgd_ce": ApgdCe(**untargeted),
        "apgd_dlr": ApgdDlr(**untargeted),
        "apgd_t": ApgdT(**targeted, staged_eps=staged),
        "fab": Fab(**_FAB, restarts=5),
        "fab_t": FabT(**_FAB, targets=9, restarts=1),
        "square": Square(**_SQUARE),
    }
    names = {
        "standard": ("apgd_ce", "apgd_t", "fab_t", "square"),
        "plus": ("apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"),
        "rand": ("apgd_ce", "apgd_dlr"),
    }
    return {name: every[name] for name in names[version]}


def cost_of_stages(version: Version, norm: Norm, num_classes: int, passes: int) -> Cost:
    """What the attacks of a version cost together on an example that none breaks."""
    costs = [stage.cost(norm, num_classes, passes) for stage in stages(version, norm).values()]
    return sum((cost for cost in costs if cost), Cost(0, 0))


def _share_wrong(model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
    """Share (B,) of wrong passes of a randomised network, over more passes than verifying takes."""
    times = PASSES_PER_CHECK * terms.passes
    with attacked(model), torch.no_grad():
        wrong = [
            torch.stack([model(images).argmax(dim=1) != labels for _ in range(times)]).sum(dim=0)
            for images, labels in zip(
                torch.split(x, terms.batch_size), torch.split(y, terms.batch_size), strict=True
            )
        ]
    return torch.cat(wrong) / times
