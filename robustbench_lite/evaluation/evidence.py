"""Adversarial images as evidence: small, and checked again after they were made small.

Of each broken example the perturbation is kept as int8 levels times a scale, which is a quarter of
the bytes. Rounding a perturbation can undo it (a minimal one most easily), so each is judged again
after rounding; what fails is pushed outward and rounded again, and what fails still is kept in
float16, and then in float32. No broken verdict is lost.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.projections import linf_norm, per_example, project
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.verifier import verify

_LEVELS = 127
# Outward steps tried before int8 is given up: 1 %, 2 %, ... and then as far as the ball allows.
_FACTORS = (1.0, 1.01, 1.02, 1.04, 1.08, 1.16, 1.32, 1.64, 1e9)
_KINDS = ("int8", "float16", "float32")


def compress(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    broken: Tensor,
    *,
    threat: ThreatModel,
    batch_size: int,
    passes: int = 1,
    target_labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """Evidence for the broken rows, each of which the verifier still calls broken.

    Args:
        model: the plain network.
        x: clean images (N, C, H, W).
        x_adv: candidates (N, C, H, W), as judged.
        y: labels (N,), int64.
        broken: bool (N,), the verifier's verdict on `x_adv`.
        threat: norm and radius.
        batch_size: rows per forward pass.
        passes: forward passes per verdict.
        target_labels: of a targeted attack (N,), int64.

    Returns:
        On the CPU: `int8` (A, C, H, W) levels, `int8_scale` (A,), `float16` (B, C, H, W)
        perturbations, `float32` (D, C, H, W) images, and for each the row it belongs to
        (`int8_rows`, ...). A + B + D rows are the broken ones.

    Cost:
        One forward per broken example, up to ten for those that rounding mends.
    """
    waiting = broken.nonzero().flatten()
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in _KINDS}
    scales: list[Tensor] = []

    def holds(candidates: Tensor) -> Tensor:
        """Which of the waiting rows the verifier calls broken by these images."""
        return verify(
            model,
            x[waiting],
            candidates,
            y[waiting],
            threat=threat,
            batch_size=batch_size,
            passes=passes,
            target_labels=None if target_labels is None else target_labels[waiting],
        ).broken

    for factor in _FACTORS:
        if not len(waiting):
            break
        levels, scale = _quantise(x[waiting], x_adv[waiting], factor, threat)
        good = holds(_from_levels(x[waiting], levels, scale))
        kept["int8"].append((waiting[good], levels[good]))
        scales.append(scale[good])
        waiting = waiting[~good]
    if len(waiting):
        delta = (x_adv[waiting] - x[waiting]).half()
        good = holds(_from_delta(x[waiting], delta))
        kept["float16"].append((waiting[good], delta[good]))
        waiting = waiting[~good]
    kept["float32"].append((waiting, x_adv[waiting]))
    out = {}
    for kind, pieces in kept.items():
        dtype = getattr(torch, kind)
        rows = [piece[0] for piece in pieces] or [waiting[:0]]
        values = [piece[1] for piece in pieces] or [x[:0].to(dtype)]
        out[f"{kind}_rows"] = torch.cat(rows).cpu()
        out[kind] = torch.cat(values).cpu().contiguous()
    out["int8_scale"] = torch.cat(scales or [x[:0, 0, 0, 0]]).cpu()
    return out


def decompress(evidence: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The images that `compress` kept.

    Args:
        evidence: its result, or what was read of a file that claims to be one.
        x: the clean images (N, C, H, W) of all rows.

    Returns:
        Rows (M,), ascending, and their images (M, C, H, W), float32.

    Raises:
        InputError: for evidence of another shape, or rows that are not there or there twice.
    """
    rows, images = [], []
    try:
        for kind in _KINDS:
            mine, stored = evidence[f"{kind}_rows"].long(), evidence[kind]
            if stored.dtype != getattr(torch, kind) or stored.shape != (len(stored), *x.shape[1:]):
                raise ValueError(f"{kind} has shape {tuple(stored.shape)}, type {stored.dtype}")
            if evidence[f"{kind}_rows"].dtype != torch.int64 or mine.shape != (len(stored),):
                raise ValueError(f"{kind}_rows is no list of {len(stored)} rows")
            if not bool(((mine >= 0) & (mine < len(x))).all()):
                raise ValueError(f"{kind}_rows does not fit {len(x)} examples")
            clean, stored = x[mine.to(x.device)], stored.to(x.device)
            if kind == "int8":
                scale = evidence["int8_scale"].to(x.device)
                if scale.dtype != torch.float32 or scale.shape != (len(stored),):
                    raise ValueError(f"int8_scale has shape {tuple(scale.shape)}, {scale.dtype}")
                images.append(_from_levels(clean, stored, scale))
            else:
                images.append(_from_delta(clean, stored) if kind == "float16" else stored)
            rows.append(mine)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"this is no evidence of these examples: {error}") from error
    every = torch.cat(rows)
    if len(set(every.tolist())) < len(every):
        raise InputError("this is no evidence of these examples: a row is there twice")
    order = every.argsort()
    return every[order], torch.cat(images)[order.to(x.device)]


def _quantise(
    x: Tensor, x_adv: Tensor, factor: float, threat: ThreatModel
) -> tuple[Tensor, Tensor]:
    """Levels (N, C, H, W) int8 and scale (N,), of a perturbation pushed outward, in the ball."""
    # Rounding adds up to half a level everywhere, so the others leave more room than Linf.
    room = 1.0 - 1e-6 if threat.norm == "Linf" else 0.995
    eps = float(threat.eps) * room
    if threat.norm == "L1":
        delta = x_adv - x
        size = delta.flatten(1).abs().sum(dim=1).clamp_min(1e-30)
        grown = delta * per_example(torch.clamp(eps / size, max=factor), delta)
        pushed = (x + grown).clamp(0.0, 1.0)
    else:
        pushed = project(x + (x_adv - x) * min(factor, 1e6), x, norm=threat.norm, eps=eps)
    delta = pushed - x
    scale = linf_norm(delta).clamp_min(1e-30) / _LEVELS
    # L2 and L1: towards zero, so that rounding cannot leave the ball.
    levels = delta / per_example(scale, delta)
    levels = levels.round() if threat.norm == "Linf" else levels.trunc()
    return levels.clamp(-_LEVELS, _LEVELS).to(torch.int8), scale


def _from_levels(x: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
    return (x + levels.to(x.dtype) * per_example(scale, x)).clamp(0.0, 1.0)


def _from_delta(x: Tensor, delta: Tensor) -> Tensor:
    return (x + delta.to(x.dtype)).clamp(0.0, 1.0)
