"""The attack engine under test, and crippled forms of it that must be found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.autoattack.apgd import ApgdT
from robustbench_lite.attacks.autoattack.ensemble import AutoAttack
from robustbench_lite.attacks.autoattack.fab import FabT
from robustbench_lite.attacks.contract import Attack, RunTerms
from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.selftest.case import Case
from robustbench_lite.verifier import verify

_BATCH = 256


@dataclass(frozen=True)
class OneTarget(AutoAttack):
    """AutoAttack that tries the likeliest wrong class instead of nine."""

    def stages(self, norm: Norm) -> Mapping[str, Attack]:
        return {
            name: replace(stage, targets=1) if isinstance(stage, ApgdT | FabT) else stage
            for name, stage in super().stages(norm).items()
        }


@dataclass(frozen=True)
class ApgdOnly(AutoAttack):
    """AutoAttack without FAB and Square: what follows the gradient of a loss alone."""

    def stages(self, norm: Norm) -> Mapping[str, Attack]:
        kept = ("apgd_ce", "apgd_t")
        return {name: each for name, each in super().stages(norm).items() if name in kept}


@dataclass(frozen=True)
class Unchanged(Attack):
    """No attack: the clean images."""

    uses_gradients = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        return x.clone()


CLEAN = Unchanged()
ENGINE = AutoAttack(version="standard", few_classes="margin")
ONE_TARGET = OneTarget(version="standard", few_classes="margin")
APGD_ONLY = ApgdOnly(version="standard", few_classes="margin")


def broken_by(
    attack: Attack, case: Case, *, device: torch.device, seed: int, wider: Fraction = Fraction(1)
) -> Tensor:
    """Which images of a case an attack breaks, as the verifier decides: bool (N,), on the CPU.

    Args:
        attack: of any kind.
        case: network, images and threat model.
        device: where to compute.
        seed: of the attack's draws.
        wider: factor of the radius, for attack and verifier alike; 1 but for a crippled engine.

    Raises:
        InputError: see the attack and the verifier.
    """
    model, x, y = case.model.to(device).eval(), case.x.to(device), case.y.to(device)
    threat = ThreatModel(case.threat.norm, case.threat.eps * wider)
    found = []
    searched = search_network(model, precision="float32", device=device, like=x[0]).module
    for begin in range(0, len(x), 2 * _BATCH):
        rows = slice(begin, begin + 2 * _BATCH)
        terms = RunTerms(
            norm=threat.norm,
            eps=float(threat.eps),
            ids=torch.arange(len(x), device=device)[rows],
            seed=seed,
            stream="selftest",
            batch_size=_BATCH,
            network=searched if attack.searches_elsewhere else None,
        )
        found.append(attack(model, x[rows], y[rows], terms))
    verdict = verify(model, x, torch.cat(found), y, threat=threat, batch_size=_BATCH)
    return verdict.broken.cpu()
