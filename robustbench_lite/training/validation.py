"""Clean and robust accuracy on held-out training examples, for choosing the checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.numerics import plain_numerics
from robustbench_lite.datasets import Split
from robustbench_lite.training.recipe import ValidationSection
from robustbench_lite.verifier import verify

_BATCH = 500


def validate(
    model: nn.Module, data: Split, section: ValidationSection, *, seed: int
) -> dict[str, float]:
    """PGD on CE from a uniform start, judged by the verifier (Rice et al. 2020, Sec. 3).

    Args:
        model: the network that would be delivered.
        data: held-out examples, on the network's device.
        section: norm, eps, alpha and steps of the attack.
        seed: the same at every epoch, so that epochs differ by their weights alone.

    Returns:
        `clean_accuracy` and `robust_accuracy`, fractions of all examples; where the section selects
        by it also `class_mean_robust_accuracy`, the mean over the classes that have examples.
    """
    threat = ThreatModel(section.norm, section.eps)
    spec = AttackSpec(
        "validation",
        f"PGD-{section.steps}",
        "pgd",
        {
            "loss": "ce",
            "steps": section.steps,
            "alpha": float(section.alpha),
            "restarts": 1,
            "start": "uniform",
            "keep": "best_loss",
        },
    )
    x, y = data.pixels(slice(None)), data.labels
    ids = torch.arange(len(x), device=x.device)
    with plain_numerics():
        x_adv = run_attack(spec, model, x, y, threat=threat, ids=ids, seed=seed, batch_size=_BATCH)
    clean = verify(model, x, x, y, threat=threat, batch_size=_BATCH)
    attacked = verify(model, x, x_adv, y, threat=threat, batch_size=_BATCH)
    robust = ~clean.broken & ~attacked.broken
    found = {
        "clean_accuracy": (~clean.broken).double().mean().item(),
        "robust_accuracy": robust.double().mean().item(),
    }
    if section.select_by == "class_mean_robust_accuracy":
        found[section.select_by] = _class_mean(robust, y)
    return found


def _class_mean(right: Tensor, y: Tensor) -> float:
    """Mean over the classes in `y` of the share of `right`, both (N,)."""
    shares = [right[y == label].double().mean() for label in torch.bincount(y).nonzero().flatten()]
    return torch.stack(shares).mean().item()
