"""The one call behind every loss: a defense's objective on what the caller has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from robustbench_lite.api.batch import CheckedNetwork, Model, check_batch, check_images
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.splits import check_labels
from robustbench_lite.defenses.class_balance import check_no_class_is_empty
from robustbench_lite.defenses.contract import ROBUST, Batch, Defense
from robustbench_lite.defenses.crafting import Crafting
from robustbench_lite.defenses.label_losses import CrossEntropy, LabelLoss

Counts = Tensor | Sequence[int]
PLAIN = CrossEntropy(0.0)
GIVEN = Crafting("Linf", Fraction(0), Fraction(0), 0, "none", "eval")  # x_adv is given


def loss_of(
    defense: Defense,
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor | None = None,
    *,
    crafted: Mapping[str, Tensor] | None = None,
    networks: Mapping[str, Model] | None = None,
    class_counts: Counts | None = None,
    outliers: Tensor | None = None,
    label_loss: LabelLoss = PLAIN,
    bare: bool = False,
) -> Tensor:
    """The objective of `defense`, a 0-dim tensor with a graph.

    Args:
        defense: its schedule begins with epoch 1, and its crafting is not used.
        model: the network that is trained.
        x: images (B, C, H, W).
        y: labels (B,).
        x_adv: crafted images, like x.
        crafted: what else the defense's `craft` gives.
        networks: those beside `model`, by role.
        class_counts: training images of each class (K,), where the defense reads them.
        outliers: images (M, C, H, W) of no class.
        label_loss: in place of cross-entropy.
        bare: the defense needs the network itself, not only its logits.
    """
    batch = batch_of(x, y, x_adv, class_counts, outliers, label_loss)
    if defense.needs_every_class or label_loss.needs_every_class:
        if class_counts is None:
            raise InputError("class_counts is missing: give the training images of each class (K,)")
        check_no_class_is_empty(batch.class_counts)
    named = {role: CheckedNetwork(each, y) for role, each in (networks or {}).items()}
    counts = None if class_counts is None else batch.class_counts
    checked = CheckedNetwork(model, y, counts)
    robust = checked.network if bare else checked
    given = {} if x_adv is None else {"x_adv": x_adv}
    return defense.objective({ROBUST: robust, **named}, batch, {**given, **(crafted or {})}).loss


def batch_of(
    x: Tensor,
    y: Tensor,
    x_adv: Tensor | None = None,
    class_counts: Counts | None = None,
    outliers: Tensor | None = None,
    label_loss: LabelLoss = PLAIN,
) -> Batch:
    """What the caller has, checked; arguments as of `loss_of`."""
    check_batch(x, y)
    if x_adv is not None:
        check_images("x_adv", x_adv, x)
        if len(x_adv) != len(x):
            raise InputError(f"x_adv holds {len(x_adv)} images, x holds {len(x)}: give one of each")
    if class_counts is None:  # only their number is then read, as far as labels go
        counts = torch.ones_like(y[:1]).expand(max(int(y.max()), 0) + 1)
    else:
        counts = torch.as_tensor(class_counts, device=y.device)
        check_labels(y, len(counts), "this batch")
    ids = torch.arange(len(y), device=y.device)
    return Batch(x, y, ids, 1, 0, counts, label_loss, outliers)
