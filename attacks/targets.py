"""Targeted attacks: the class that each image should be taken for, and whether it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.contract import Attack, RunTerms, Target, TargetableAttack
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import random_words

_STREAM = "target"  # one for all attacks: those of a protocol share the random class of an example


def choose_targets(
    kind: Target,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor,
    seed: int,
    batch_size: int,
) -> Tensor:
    """A wrong class for each image, which a targeted attack makes the network predict.

    `"least_likely"` is the class of the smallest clean logit, the label left out (the least-likely
    class method of Kurakin et al. 2017, arXiv:1607.02533, Sec. 2.3, and torchattacks' mode of that
    name). `"random"` draws one of the K - 1 wrong classes, each as likely as the others: the
    "average case" of Carlini and Wagner 2017, arXiv:1608.04644. `"next"` is the class
    after the label, and 0 after the last. Their best and worst case, the easiest and the hardest
    class of each image, need an attack on each of the K - 1 classes: give those as labels.

    Args:
        kind: one of the three.
        model: maps (B, C, H, W) in [0, 1] to logits (B, K); asked for K alone but for
            `"least_likely"`.
        x: clean images (N, C, H, W), N at least 1.
        y: labels (N,), int64.
        ids: example ids (N,), int64: with the seed they fix the random class.
        seed: any integer.
        batch_size: rows per forward pass.

    Returns:
        Classes (N,), int64, none of them the label.

    Raises:
        InputError: for a network of one class.

    Cost:
        One forward per image for `"least_likely"`, else one in all.
    """
    asked = x if kind == "least_likely" else x[:1]
    with torch.no_grad(), attacked(model):
        logits = torch.cat([model(part).float() for part in torch.split(asked, batch_size)])
    classes = logits.shape[1]
    if classes < 2:
        raise InputError(f"target={kind!r} needs at least 2 classes, the network has {classes}")
    if kind == "least_likely":
        return logits.scatter(1, y[:, None], torch.inf).argmin(dim=1)
    if kind == "next":
        return (y + 1) % classes
    words = random_words(1, ids=ids, seed=seed, stream=_STREAM, restart=0, step=0)[:, 0]
    drawn = (words * (classes - 1)) >> 32  # in 0 .. K - 2
    return drawn + (drawn >= y).long()


def target_labels_of(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms
) -> Tensor | None:
    """The classes (B,) that an attack aims at: those of the terms, else chosen by its `target`;
    None for an untargeted attack, or where there is no image.

    Args:
        attack: any.
        model: the plain network.
        x: clean images (B, C, H, W).
        y: labels (B,), int64.
        terms: of the run.

    Raises:
        InputError: when the terms name classes and the attack cannot aim.
    """
    if terms.target_labels is not None:
        if not isinstance(attack, TargetableAttack):
            raise InputError(
                f"{type(attack).__name__} has no targeted mode: leave the target labels out, or "
                "take pgd, apgd_t, square, cw_l2 or fab_t"
            )
        return terms.target_labels
    kind = attack.target if isinstance(attack, TargetableAttack) else None
    if kind is None or not len(x):
        return None
    return choose_targets(
        kind, model, x, y, ids=terms.ids, seed=terms.seed, batch_size=terms.batch_size
    )


def succeeded(prediction: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Whether predictions (B,) are what an attack wants, bool (B,).

    Without targets, any class but the label. With targets (B,), that class; an image whose label
    is its target is left out: it never succeeds.
    """
    return prediction != y if target is None else (prediction == target) & (target != y)
