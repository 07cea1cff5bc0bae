"""`reference:autoattack`: the authors' own AutoAttack (PyPI `pyautoattack`), our signature."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.threat_model import Norm

VERSIONS = ("standard", "plus", "rand")


def reference_autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    version: str,
    norm: Norm,
    eps: float,
    ids: Tensor,
    seed: int,
    batch_size: int,
) -> Tensor:
    """AutoAttack (Croce and Hein 2020, arXiv:2003.01690) as `pyautoattack` runs it.

    The whole protocol in one call, since its later attacks run on what its earlier ones left. The
    seed is passed on unchanged (its default, the wall clock, is never used), so the verdicts are
    those of a direct call on the same examples in the same batches.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,), int64.
        version: `"standard"` (APGD-CE, APGD-T, FAB-T, Square), `"plus"` or `"rand"`.
        norm: `"Linf"` or `"L2"`.
        eps: radius, in [0, 1] units.
        ids: example ids (B,); unused: its draws depend on the batch, not on the example.
        seed: any integer.
        batch_size: examples per batch; part of what fixes the random draws.

    Returns:
        x_adv (B, C, H, W); an example no attack broke comes back clean.

    Raises:
        InputError: for an unknown version, or fewer than 4 classes with a targeted version: the
            targeted DLR loss needs them. From 4 to 9 classes the targets are the K - 1 wrong ones.
    """
    from pyautoattack import AutoAttack  # type: ignore[import-untyped]

    with torch.no_grad(), attacked(model):
        n_classes = model(x[:1]).shape[1]
    check_parameters("reference:autoattack", {"version": version}, n_classes)
    devices = [x.device] if x.device.type == "cuda" else []
    with attacked(model), torch.random.fork_rng(devices=devices), torch.enable_grad():
        attack = AutoAttack(model, norm=norm, eps=eps, version=version, seed=seed, device=x.device)
        # Nine targets (five in L1, for APGD); a network of fewer classes has only K - 1 wrong ones.
        for targeted in (attack.apgd_targeted, attack.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, n_classes - 1)
        x_adv: Tensor = attack.run_standard_evaluation(x, y, batch_size=batch_size)[0]
    return x_adv.detach()


def check_parameters(attack: str, params: Mapping[str, object], num_classes: int) -> None:
    """Raise InputError for an unknown version, or too few classes for its targeted loss."""
    version = params["version"]
    if version not in VERSIONS:
        raise InputError(f"version={version!r} is unknown; available: {', '.join(VERSIONS)}")
    if version != "rand" and num_classes < 4:
        raise InputError(
            "reference AutoAttack needs at least 4 classes for its targeted DLR loss, "
            f"the model has {num_classes}"
        )
