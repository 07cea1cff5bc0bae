"""The one verifier: attacks propose images, this file alone decides what broke the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.losses import cross_entropy
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import plain_numerics

BALL_TOLERANCE = 1e-6  # float32 rounding of x + delta: in pixel units, for L1 relative to eps


def largest_norm(norm: str, eps: float) -> float:
    """The largest norm of a perturbation that still counts as inside the ball.

    eps + 1e-6 for Linf and L2; eps (1 + 1e-6) for L1, whose rounding grows with the sum.
    """
    return eps * (1.0 + BALL_TOLERANCE) if norm == "L1" else eps + BALL_TOLERANCE


@dataclass(frozen=True)
class Verdict:
    """What the network says of candidate images, one entry per example.

    Args:
        broken: bool (N,): allowed image and misclassified; with targets, taken for its target.
        prediction: int64 (N,), of the candidate image (of the majority with several passes).
        linf: float64 (N,), norm of the perturbation.
        l2: float64 (N,), likewise.
        l1: float64 (N,), likewise.
        loss: float64 (N,), cross-entropy of the candidate image (mean over passes).
    """

    broken: Tensor
    prediction: Tensor
    linf: Tensor
    l2: Tensor
    l1: Tensor
    loss: Tensor


def verify(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    batch_size: int,
    passes: int = 1,
    target_labels: Tensor | None = None,
) -> Verdict:
    """Judge candidates by a float32 forward pass of the plain network in eval mode.

    Broken means: every pixel finite and in [0, 1], perturbation within `largest_norm` in the threat
    model's norm (computed in float64), and a prediction (argmax) other than the label in more
    than half of the passes. With `target_labels`: a prediction equal to the target in more than
    half of the passes; an image whose label is its target is never broken.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (N, C, H, W), float32; N may be 0.
        x_adv: candidates (N, C, H, W), float32.
        y: labels (N,), int64.
        threat: norm and radius.
        batch_size: rows per forward pass; part of what fixes the bits, so it is recorded.
        passes: forward passes per image; above 1 for randomised networks.
        target_labels: of a targeted attack (N,), int64; None where any wrong class is a success.

    Returns:
        A verdict per example, on the device of `x`.

    Raises:
        InputError: when a logit is not finite: NaN is an error, never a robust example.
    """
    if x_adv.dtype != torch.float32 or x.dtype != torch.float32:
        raise TypeError(f"images must be float32, got {x.dtype} and {x_adv.dtype}")
    if not len(x):  # nothing to judge, as of an attack that breaks nothing
        none = torch.zeros(0, dtype=torch.float64, device=x.device)
        return Verdict(none.bool(), none.long(), none, none, none, none)
    linf, l2, l1 = _norms(x_adv - x.double())
    radius = {"Linf": linf, "L2": l2, "L1": l1}[threat.norm]
    allowed = (
        torch.isfinite(x_adv).flatten(1).all(dim=1)
        & (x_adv.flatten(1).amin(dim=1) >= 0.0)
        & (x_adv.flatten(1).amax(dim=1) <= 1.0)
        & (radius <= largest_norm(threat.norm, float(threat.eps)))
    )
    # The network never sees a candidate with NaN pixels: its NaN logits would not be its fault.
    finite = torch.isfinite(x_adv).flatten(1).all(dim=1)
    seen = torch.where(finite.view(-1, 1, 1, 1), x_adv, x)
    votes, loss = _votes(model, seen, y, batch_size=batch_size, passes=passes)
    hits = passes - votes.gather(1, y[:, None]).squeeze(1)
    if target_labels is not None:
        hits = votes.gather(1, target_labels[:, None]).squeeze(1) * (target_labels != y)
    return Verdict(allowed & (2 * hits > passes), votes.argmax(dim=1), linf, l2, l1, loss)


def _norms(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    flat = delta.flatten(1)
    sizes = flat.abs()
    return sizes.amax(dim=1), torch.linalg.vector_norm(flat, dim=1), sizes.sum(dim=1)


def _votes(
    model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int, passes: int
) -> tuple[Tensor, Tensor]:
    """How many passes predict each class (N, K), and the mean cross-entropy (N,)."""
    votes, losses = [], []
    with torch.no_grad(), attacked(model), plain_numerics():
        for begin in range(0, len(x), batch_size):
            images, labels = x[begin : begin + batch_size], y[begin : begin + batch_size]
            count: Tensor | None = None
            loss = torch.zeros(len(images), dtype=torch.float64, device=x.device)
            for _ in range(passes):
                logits = model(images).float()
                if not bool(torch.isfinite(logits).all()):
                    raise InputError(
                        f"the network gives NaN or infinite logits in rows {begin} to "
                        f"{begin + len(images) - 1}: no verdict is possible (NaN weights, or "
                        "inputs it was not made for?)"
                    )
                predicted = torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1])
                count = predicted if count is None else count + predicted
                loss += cross_entropy(logits.double(), labels) / passes
            assert count is not None
            votes.append(count)
            losses.append(loss)
    return torch.cat(votes), torch.cat(losses)
