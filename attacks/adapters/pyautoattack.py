"""`reference:autoattack`: the authors' own AutoAttack (PyPI `pyautoattack`), our signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.autoattack.ensemble import Version, cost_of_stages
from robustbench_lite.attacks.contract import Attack, Cost, RunTerms
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.core.errors import InputError


@dataclass(frozen=True)
class ReferenceAutoAttack(Attack):
    """AutoAttack (Croce and Hein 2020, arXiv:2003.01690) as `pyautoattack` runs it.

    The whole protocol in one call, since its later attacks run on what its earlier ones left; it
    does not say which of them broke an example, so it has no `stages`. The seed is passed on
    unchanged (its default, the wall clock, is never used), so the verdicts are those of a direct
    call on the same examples in the same batches: its draws depend on the batch, not on the ids.

    A call returns the clean image of an example that no attack broke. From 4 to 9 classes the
    targets are the K - 1 wrong ones.

    Args:
        version: `"standard"` (APGD-CE, APGD-T, FAB-T, Square), `"plus"` or `"rand"`.
    """

    batches_itself = True
    package = "pyautoattack"

    version: Version

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        from pyautoattack import AutoAttack  # type: ignore[import-untyped]

        with torch.no_grad(), attacked(model):
            n_classes = model(x[:1]).shape[1]
        self._check_classes(n_classes)
        devices = [x.device] if x.device.type == "cuda" else []
        with attacked(model), torch.random.fork_rng(devices=devices), torch.enable_grad():
            attack = AutoAttack(
                model,
                norm=terms.norm,
                eps=terms.eps,
                version=self.version,
                seed=terms.seed,
                device=x.device,
            )
            # Nine targets (five in L1, for APGD); of fewer classes there are K - 1 wrong ones.
            for targeted in (attack.apgd_targeted, attack.fab):
                targeted.n_target_classes = min(targeted.n_target_classes, n_classes - 1)
            x_adv: Tensor = attack.run_standard_evaluation(x, y, batch_size=terms.batch_size)[0]
        return x_adv.detach()

    def check(self, threat: ThreatModel, num_classes: int | None = None) -> None:
        super().check(threat)
        if num_classes is not None:
            self._check_classes(num_classes)

    def _check_classes(self, num_classes: int) -> None:
        if self.version != "rand" and num_classes < 4:
            raise InputError(
                "reference AutoAttack needs at least 4 classes for its targeted DLR loss, "
                f"the model has {num_classes}"
            )

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        return cost_of_stages(self.version, norm, num_classes, passes)

    def by_authors(self) -> tuple[str, Mapping[str, object]]:
        return "reference:autoattack", {"version": self.version}
