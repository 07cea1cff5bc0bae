"""Candidates as an image file would hold them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_lite.attacks.projections import l1_norm, l2_norm, per_example
from robustbench_lite.attacks.threat_model import ThreatModel


def round_to_8bit(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Candidates as an 8-bit image file would hold them, without leaving the ball.

    Linf: the nearest levels at most floor(255 eps) away from the clean ones. L2 and L1: the
    nearest levels, and where those are outside the ball, each pixel rounded towards the clean one.

    Args:
        x_adv: candidates (N, C, H, W), float32.
        x: clean images of 8-bit pixels, k / 255, likewise.
        threat: norm and radius.

    Returns:
        float32 (N, C, H, W), the float32 nearest to k / 255 everywhere.
    """
    levels = (255.0 * x.double()).round()
    delta = 255.0 * x_adv.double() - levels
    if threat.norm == "Linf":
        radius = math.floor(255 * threat.eps)
        delta = delta.round().clamp(-radius, radius)
    else:
        size = l2_norm(delta.round()) if threat.norm == "L2" else l1_norm(delta.round())
        outside = size > 255.0 * float(threat.eps)
        delta = torch.where(per_example(outside, delta), delta.trunc(), delta.round())
    rounded = (levels + delta).clamp(0.0, 255.0).float()
    return rounded / torch.full((), 255.0, device=x.device)  # as `Split.pixels` divides
