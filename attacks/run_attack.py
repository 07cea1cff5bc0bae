"""Run one attack of a protocol, batch by batch where it does not do that by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.attacks.targets import choose_targets, target_labels_of
from robustbench_lite.attacks.threat_model import ThreatModel


def run_attack(
    spec: AttackSpec,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    ids: Tensor,
    seed: int,
    batch_size: int,
    passes: int = 1,
    network: nn.Module | None = None,
    on_stage: Callable[[str, Tensor], None] | None = None,
    target_labels: Tensor | None = None,
) -> Tensor:
    """Adversarial candidates for every row of `x`, in batches.

    Args:
        spec: the attack and its parameters.
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (N, C, H, W) in [0, 1].
        y: labels (N,), int64.
        threat: norm and radius.
        ids, seed, batch_size, passes, on_stage, target_labels: see `RunTerms`.
        network: see `RunTerms`; attacks that cannot search on another network do not get it.

    Returns:
        Candidates (N, C, H, W). Nothing is claimed of them; the verifier decides.

    Raises:
        InputError: for an unknown attack, or one that its parameters or the norm do not fit.
    """
    attack = spec.contract
    spec.check(threat)
    terms = RunTerms(
        norm=threat.norm,
        eps=float(threat.eps),
        ids=ids,
        seed=seed,
        stream=spec.name,
        batch_size=batch_size,
        passes=passes,
        network=network if attack.searches_elsewhere else None,
        on_stage=on_stage,
        target_labels=target_labels,
    )
    terms = replace(terms, target_labels=target_labels_of(attack, model, x, y, terms))
    if attack.batches_itself:
        return attack(model, x, y, terms)
    out = x.clone()
    for begin in range(0, len(x), batch_size):
        rows = slice(begin, begin + batch_size)
        aims = None if terms.target_labels is None else terms.target_labels[rows]
        mine = replace(terms, ids=ids[rows], target_labels=aims)
        out[rows] = attack(model, x[rows], y[rows], mine)
    return out


def targets_of_spec(
    spec: AttackSpec,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor,
    seed: int,
    batch_size: int,
) -> Tensor | None:
    """The classes (N,) that an attack of a protocol aims at, which the verifier has to know.

    Args:
        spec: the attack and its parameters.
        model, x, y, ids, seed, batch_size: see `targets.choose_targets`.

    Returns:
        None for an untargeted attack, or where there is no image.
    """
    kind = spec.target
    if kind is None or not len(x):
        return None
    return choose_targets(kind, model, x, y, ids=ids, seed=seed, batch_size=batch_size)
