"""What methods that reweight instances share: how safe an example is, and weights from it.

Weights are data, never part of the graph. They are kept as logarithms until the last moment: a
weight that rounds to 0 is no longer comparable with its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_lite.attacks.losses import margin
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import Batch
from robustbench_lite.defenses.crafting import Crafting

GeometryWeight = Literal["tanh", "sigmoid", "discrete"]


def craft_and_count(
    crafting: Crafting,
    model: nn.Module,
    batch: Batch,
    *,
    loss: str,
    confidence: float | None = None,
    stream: str = "crafting",
) -> tuple[Tensor, Tensor]:
    """Crafted images, and the geometry value kappa of each example, from the same run.

    kappa_i is how many of the K iterates before each step (the start is one, the final iterate is
    not) are still predicted as y_i (GAIRAT, Zhang et al. 2021, arXiv:2010.01736). The paper speaks
    of the least number of steps to the boundary; the authors' code counts, as we do: the two agree
    where an example crosses once.

    Args:
        crafting: the inner attack; its `steps` is K.
        model: the network attacked.
        batch: images and labels.
        loss: what is ascended.
        confidence: of the margin loss (`kappa` in attacks, unrelated to the geometry value).
        stream: name of the random stream.

    Returns:
        x_adv (B, C, H, W) and kappa (B,), int64 in 0 .. K; both without a graph.
    """
    kappa, count = steps_resisted(batch.y)
    x_adv = crafting(model, batch, loss=loss, kappa=confidence, stream=stream, on_step=count)
    return x_adv, kappa


def steps_resisted(y: Tensor) -> tuple[Tensor, Callable[[int, Tensor], None]]:
    """kappa (B,) of labels y (B,), int64 and 0 so far, and the `on_step` of PGD that counts it."""
    kappa = torch.zeros_like(y)

    def count(step: int, logits: Tensor) -> None:
        del step
        kappa.add_(logits.argmax(dim=1) == y)

    return kappa, count


def log_geometry_weights(
    kappa: Tensor, *, steps: int, lam: float, weight: GeometryWeight
) -> Tensor:
    """log w(kappa), w in [0, 1], of GAIRAT (Zhang et al. 2021, arXiv:2010.01736).

    With s = lam + 5 (1 - 2 kappa / K): "tanh" is (1 + tanh s) / 2, which is sigmoid(2 s);
    "sigmoid" is sigmoid(s); "discrete" is (K + 1 - kappa) / (K + 1) and has no lam. For odd K the
    authors' code has 5 (h - kappa) / h, h = floor(K / 2); we follow the paper.

    Args:
        kappa: geometry values (B,) in 0 .. K, floating point: its dtype is the result's.
        steps: K, at least 1.
        lam: lambda; infinity makes every w = 1.
        weight: which function.
    """
    if weight == "discrete":
        return torch.log((steps + 1 - kappa) / (steps + 1))
    s = lam + 5.0 * (1.0 - 2.0 * kappa / steps)
    return functional.logsigmoid(2.0 * s if weight == "tanh" else s)


def probability_margins(logits: Tensor, y: Tensor) -> Tensor:
    """PM = p_y - max_{j != y} p_j (B,) in [-1, 1], without a graph; below 0 is misclassified.

    Wang et al. 2021 (arXiv:2106.07904); the authors' code stores -PM.
    """
    return -margin(functional.softmax(logits.detach(), dim=1), y)


def log_margin_weights(margins: Tensor, *, slope: float, bias: float) -> Tensor:
    """log sigmoid(-slope (PM - bias)) of margins PM (B,) (Wang et al. 2021, arXiv:2106.07904)."""
    return functional.logsigmoid(-slope * (margins - bias))


def normalised(log_weights: Tensor) -> Tensor:
    """omega_i = w_i B / sum_j w_j of log w (B,): non-negative, of sum B, even where all w are tiny.

    It couples the batch: one example's w changes every omega.
    """
    # A softmax of log w is w / sum w, without a sum that could underflow to 0.
    return len(log_weights) * functional.softmax(log_weights, dim=0)


def check_slope(slope: float) -> None:
    """Raise InputError for a slope that would give safer examples larger weights."""
    if not 0.0 <= slope < float("inf"):
        raise InputError(f"slope={slope} must be a finite number of at least 0")
