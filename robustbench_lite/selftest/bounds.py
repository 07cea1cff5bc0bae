"""What no attack can do: sound lower bounds on margins of small ReLU networks.

Interval bound propagation (Gowal et al. 2018, arXiv:1810.12715) and a linear relaxation solved
backwards (Fast-Lin, Weng et al. 2018, arXiv:1804.09699; CROWN, Zhang et al. 2018,
arXiv:1811.00866). Written from the papers, in float64, without any code of the attacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.threat_model import Norm

_DUAL = {"Linf": 1.0, "L2": 2.0, "L1": torch.inf}  # order of the dual norm


@dataclass(frozen=True)
class Affine:
    """One affine layer: weight (out, in) and bias (out,), float64; ReLU stands between two."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Region:
    """What an attacker may reach: the ball about `x` (B, D) of radius `eps`, cut by [0, 1]."""

    x: Tensor
    norm: Norm
    eps: float

    def least(self, weight: Tensor) -> Tensor:
        """A lower bound of weight . x' over the region; exact for Linf. (B, m, D) to (B, m).

        Both the ball and the box about it hold the region, so the larger of their minima is one.
        """
        low, high = (self.x - self.eps).clamp_min(0.0), (self.x + self.eps).clamp_max(1.0)
        positive, negative = weight.clamp_min(0.0), weight.clamp_max(0.0)
        box = (positive @ low[:, :, None] + negative @ high[:, :, None])[:, :, 0]
        if self.norm == "Linf":
            return box
        order = _DUAL[self.norm]
        ball = (weight @ self.x[:, :, None])[:, :, 0]
        ball = ball - self.eps * torch.linalg.vector_norm(weight, ord=order, dim=2)
        return torch.maximum(box, ball)


def affine_layers(network: nn.Sequential, shape: Sequence[int]) -> list[Affine]:
    """The affine layers of a network of Flatten, Linear, Conv2d and ReLU, as dense matrices.

    Args:
        network: affine layers with a ReLU between each two.
        shape: of one image, (C, H, W).

    Raises:
        TypeError: for another module, or where ReLU and affine layers do not take turns.
    """
    layers: list[Affine] = []
    expects_relu = False
    for module in network:
        if isinstance(module, nn.Flatten):
            continue
        if isinstance(module, nn.ReLU) and expects_relu:
            expects_relu = False
        elif isinstance(module, nn.Linear | nn.Conv2d) and not expects_relu:
            size = int(torch.Size(shape).numel())
            entries = torch.eye(size, dtype=torch.float64)
            layer, shape = _dense(module, entries, shape)
            layers.append(layer)
            expects_relu = True
        else:
            raise TypeError(f"bounds do not know {module} at this place")
    return layers


def _dense(
    module: nn.Linear | nn.Conv2d, entries: Tensor, shape: Sequence[int]
) -> tuple[Affine, Sequence[int]]:
    """A layer as a matrix, and the shape of what it gives: it is asked for every unit vector."""
    weight = module.weight.detach().double().cpu()
    bias = torch.zeros(len(weight)).double()
    if module.bias is not None:
        bias = module.bias.detach().double().cpu()
    if isinstance(module, nn.Linear):
        return Affine(weight, bias), (len(weight),)
    maps = nn.functional.conv2d(
        entries.view(-1, *shape),
        weight,
        None,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )
    each = bias[:, None].expand(-1, maps.shape[2] * maps.shape[3]).flatten()
    return Affine(maps.flatten(1).T.contiguous(), each), maps.shape[1:]


def interval_bounds(layers: Sequence[Affine], region: Region) -> list[tuple[Tensor, Tensor]]:
    """Bounds (B, n) below and above of what each affine layer gives, layer by layer."""
    bounds = [_of_first_layer(layers[0], region)]
    for layer in layers[1:]:
        low, high = (each.clamp_min(0.0) for each in bounds[-1])
        positive, negative = layer.weight.clamp_min(0.0).T, layer.weight.clamp_max(0.0).T
        bounds.append(
            (
                low @ positive + high @ negative + layer.bias,
                high @ positive + low @ negative + layer.bias,
            )
        )
    return bounds


def _of_first_layer(layer: Affine, region: Region) -> tuple[Tensor, Tensor]:
    weight = layer.weight.expand(len(region.x), -1, -1)
    return region.least(weight) + layer.bias, -region.least(-weight) + layer.bias


def interval_margins(layers: Sequence[Affine], region: Region, y: Tensor) -> Tensor:
    """Lower bounds (B, K) of z_y - z_j by intervals; infinity at j = y.

    The last layer is merged with the difference, as Gowal et al. do (Sec. 3).
    """
    before = interval_bounds(layers[:-1], region) if len(layers) > 1 else []
    weight, bias = _differences(layers[-1], y)
    if not before:
        least = region.least(weight)
    else:
        low, high = (each.clamp_min(0.0)[:, :, None] for each in before[-1])
        least = (weight.clamp_min(0.0) @ low + weight.clamp_max(0.0) @ high)[:, :, 0]
    return (least + bias).scatter(1, y[:, None], torch.inf)


def _differences(layer: Affine, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (B, K, n) and bias (B, K) of z_y - z_j."""
    return layer.weight[y][:, None] - layer.weight, layer.bias[y][:, None] - layer.bias


def relaxed_bounds(layers: Sequence[Affine], region: Region) -> list[tuple[Tensor, Tensor]]:
    """As `interval_bounds`, by the linear relaxation, and never wider than the intervals' step."""
    bounds = [_of_first_layer(layers[0], region)]
    for depth in range(1, len(layers)):
        layer = layers[depth]
        weight = layer.weight.expand(len(region.x), -1, -1)
        bias = layer.bias.expand(len(region.x), -1)
        low = _least(layers[:depth], bounds, region, weight, bias)
        high = -_least(layers[:depth], bounds, region, -weight, -bias)
        bounds.append((low, high))
    return bounds


def relaxed_margins(layers: Sequence[Affine], region: Region, y: Tensor) -> Tensor:
    """Lower bounds (B, K) of z_y - z_j by the linear relaxation; infinity at j = y."""
    bounds = relaxed_bounds(layers[:-1], region) if len(layers) > 1 else []
    weight, bias = _differences(layers[-1], y)
    least = _least(layers[:-1], bounds, region, weight, bias)
    return least.scatter(1, y[:, None], torch.inf)


def _least(
    layers: Sequence[Affine],
    bounds: Sequence[tuple[Tensor, Tensor]],
    region: Region,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """Lower bound of weight . relu(last layer) + bias: the better one of two lower slopes.

    Slope 0 everywhere is never worse than intervals are; CROWN's choice (1 where the interval is
    mostly positive) is mostly better.
    """
    if not layers:
        return region.least(weight) + bias
    zero, adaptive = (
        _backwards(layers, bounds, region, weight, bias, adaptive=each) for each in (False, True)
    )
    return torch.maximum(zero, adaptive)


def _backwards(
    layers: Sequence[Affine],
    bounds: Sequence[tuple[Tensor, Tensor]],
    region: Region,
    weight: Tensor,
    bias: Tensor,
    *,
    adaptive: bool,
) -> Tensor:
    """Replace each ReLU by a line (Zhang et al. 2018, Eq. 5 to 7), from the last to the first.

    A ReLU on [l, u] with l < 0 < u lies below u (z - l) / (u - l) and above a z, a in {0, 1}.
    A negative weight takes the upper line, a positive one the lower.
    """
    for layer, (low, high) in zip(reversed(layers), reversed(bounds), strict=True):
        above = high.clamp_min(0.0) / (high.clamp_min(0.0) - low.clamp_max(0.0)).clamp_min(1e-300)
        below = (high > -low).double() if adaptive else torch.zeros_like(high)
        below = torch.where(low >= 0.0, 1.0, torch.where(high <= 0.0, 0.0, below))
        positive, negative = weight.clamp_min(0.0), weight.clamp_max(0.0)
        offset = (-above * low.clamp_max(0.0))[:, :, None]
        bias = bias + (negative @ offset)[:, :, 0]
        weight = positive * below[:, None] + negative * above[:, None]
        bias = bias + weight @ layer.bias
        weight = weight @ layer.weight
    return region.least(weight) + bias
