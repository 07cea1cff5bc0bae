"""Scores of outlier detectors, higher for inliers, in float64: MSP and ODIN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.losses import cross_entropy
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.core.errors import InputError


def msp(model: nn.Module, x: Tensor) -> Tensor:
    """max_k softmax(f(x))_k (Hendrycks and Gimpel 2017, arXiv:1610.02136).

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K); evaluated in eval mode.
        x: images (B, C, H, W) in [0, 1].

    Returns:
        float64 (B,), in [1/K, 1]. In float32 many scores of a confident network would be 1.

    Raises:
        InputError: when a logit is not finite.

    Cost:
        One forward.
    """
    with torch.no_grad(), attacked(model):
        return _largest_probability(model(x), temperature=1.0)


def odin(model: nn.Module, x: Tensor, *, temperature: float, eta: float) -> Tensor:
    """max_k softmax(f(x~) / T)_k (Liang et al. 2018, arXiv:1706.02690, Eqs. 1 and 2).

    x~ = x - eta sign(gradient in x of CE(f(x) / T, argmax f(x))), with sign(0) = 1 and x~ not
    clipped, as in the code of ALOE. The step is in pixels; ODIN's own code takes it in normalised
    values and divides by their std, which is the same.

    Args:
        model: as of `msp`.
        x: images (B, C, H, W) in [0, 1].
        temperature: T, above 0; 1000 in the paper.
        eta: step in [0, 1] units; 0.0014 for CIFAR.

    Returns:
        float64 (B,), in [1/K, 1].

    Raises:
        InputError: when a logit is not finite.

    Cost:
        Two forwards, one backward.
    """
    with attacked(model):
        images = x.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            logits = model(images)
            loss = cross_entropy(logits / temperature, logits.argmax(dim=1)).sum()
            (gradient,) = torch.autograd.grad(loss, images)
        with torch.no_grad():
            stepped = x - eta * torch.where(gradient < 0, -1.0, 1.0).to(x.dtype)
            return _largest_probability(model(stepped), temperature=temperature)


def _largest_probability(logits: Tensor, *, temperature: float) -> Tensor:
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the network gives NaN or infinite logits: it has no score")
    return torch.softmax(logits.double() / temperature, dim=1).amax(dim=1)
