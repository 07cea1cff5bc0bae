"""One watched pass: what happens to the input before the first layer, and in batch norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LAYERS = {"conv1d", "conv2d", "conv3d", "linear", "matmul", "__matmul__", "mm", "bmm", "addmm"}
_SAME = 1e-3  # relative: two maps this close are one, rounding is 1e-6
_CENTRED, _SPREAD = 1.0, 2.0  # beyond these the mean and the spread are no normalised input's

State = tuple[Tensor, Tensor]
"""Per channel (C,): scale a and shift b of an image a x + b."""


class Trace(TorchFunctionMode):
    """Watches the torch functions of one forward pass.

    It sees what any code calls, in modules or outside; not what happens inside TorchScript.

    Args:
        probe: images (B, C, H, W), all different, that are passed forward inside the block.
    """

    def __init__(self, probe: Tensor) -> None:
        super().__init__()
        self.batch_statistics = 0
        self.states: list[State] = []
        self._probe = probe.detach().double()
        self._preprocessing = True

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "batch_norm" and _uses_batch(args, given):
            self.batch_statistics += 1
        self._preprocessing = self._preprocessing and name not in _LAYERS
        out = func(*args, **given)
        if self._preprocessing and isinstance(out, Tensor) and out.shape == self._probe.shape:
            self._note(out.detach())
        return out

    def _note(self, out: Tensor) -> None:
        """Remember the map from the probe to `out`, if it is a new one of scale and shift."""
        state = _scale_and_shift(self._probe, out.double())
        last = self.states[-1] if self.states else (torch.ones_like(state[0]), 0.0 * state[1])
        new = any(not _close(now, before) for now, before in zip(state, last, strict=True))
        if new and _close(_apply(state, self._probe), out.double()):
            self.states.append(state)


def _uses_batch(args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """`training` of a batch norm; the sixth of `torch.batch_norm` and of the functional one."""
    return bool(given["training"] if "training" in given else args[5] if len(args) > 5 else False)


def _scale_and_shift(x: Tensor, z: Tensor) -> State:
    """Least squares fit of z = a x + b, per channel: (B, C, H, W) twice to (C,) twice."""
    x_mean, z_mean = (t.mean(dim=(0, 2, 3), keepdim=True) for t in (x, z))
    covariance = ((x - x_mean) * (z - z_mean)).mean(dim=(0, 2, 3))
    scale = covariance / (x - x_mean).square().mean(dim=(0, 2, 3))
    return scale, z_mean.flatten() - scale * x_mean.flatten()


def _apply(state: State, x: Tensor) -> Tensor:
    scale, shift = (value.view(1, -1, 1, 1) for value in state)
    return scale * x + shift


def _close(a: Tensor, b: Tensor | float) -> bool:
    size = max(1.0, float(torch.as_tensor(b).abs().max()))
    return bool(((a - b).abs() <= _SAME * size).all())


def normalisations(states: list[State], x: Tensor) -> int:
    """How often images are normalised before the first layer, by the maps a trace saw.

    A normalisation is a scale and a shift, in either order. More than one counts only when the
    images then arrive at the first layer with a mean beyond 1 or a spread beyond 2: some networks
    map [0, 1] to [-1, 1] and standardise that, which is right.

    Args:
        states: of a `Trace`.
        x: images (B, C, H, W) in [0, 1].
    """
    if not states:
        return 0
    before: State = (torch.ones_like(states[0][0]), torch.zeros_like(states[0][1]))
    steps = 0
    for scale, shift in states:
        scaled = scale / before[0]
        steps += int(not _close(scaled, 1.0))
        steps += int(not _close(shift, scaled * before[1]))
        before = scale, shift
    mean = before[0] * x.double().mean(dim=(0, 2, 3)) + before[1]
    spread = before[0].abs() * x.double().std(dim=(0, 2, 3), unbiased=False)
    off = bool(mean.abs().mean() > _CENTRED) or bool(spread.mean() > _SPREAD)
    return steps // 2 if off else min(steps // 2, 1)
