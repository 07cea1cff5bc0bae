"""`AutoAttack` as PyPI's `pyautoattack` has it: `run_standard_evaluation` always returns a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from robustbench_lite.api.attack_objects import Eps
from robustbench_lite.api.autoattack import AutoAttack as _AutoAttack
from robustbench_lite.api.network import Network
from robustbench_lite.attacks.threat_model import Norm


class AutoAttack(_AutoAttack):
    """As `rbl.AutoAttack`, by the signature of `pyautoattack` 0.2; it writes nothing to stdout."""

    def __init__(
        self,
        model: Network,
        *,
        attacks: Sequence[str] | None = None,
        device: str | torch.device | None = None,
        eps: Eps = 0.3,
        norm: Norm = "Linf",
        seed: int | None = None,
        version: Literal["standard", "plus", "rand", "custom"] = "standard",
    ) -> None:
        super().__init__(
            model,
            norm=norm,
            eps=eps,
            seed=seed,
            verbose=False,
            version=version,
            device=device,
            attacks=attacks,
        )

    def run_standard_evaluation(  # type: ignore[override]
        self,
        x_orig: object,
        y_orig: object,
        /,
        *,
        batch_size: int = 250,
        state_path: Path | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Adversarial images (N, C, H, W) and the network's predictions (N,)."""
        found = super().run_standard_evaluation(
            x_orig, y_orig, batch_size=batch_size, state_path=state_path
        )
        assert isinstance(found, tuple)
        return found
