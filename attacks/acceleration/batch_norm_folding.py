"""Batch norm folded into the convolution before it, found by watching one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def fold_batch_norms(model: nn.Module, x: Tensor) -> int:
    """Fold each BatchNorm2d that reads what a Conv2d gives, and that nothing else reads.

    In eval mode such a pair is one convolution: W' = W gamma / sqrt(var + eps) per output channel,
    and a bias. Pairs are found in a forward pass, not in the code, so any network will do.

    Args:
        model: in eval mode; changed in place.
        x: images (B, C, H, W) on which one forward pass shows what reads what.

    Returns:
        The number of pairs.
    """
    if not any(type(module) is nn.BatchNorm2d for module in model.modules()):
        return 0  # the first watch in a process loads much of torch
    pairs = _watch(model, x).pairs()
    for convolution, norm in pairs:
        with torch.no_grad():
            replace_module(model, convolution, fuse_conv_bn_eval(convolution, norm))
        replace_module(model, norm, nn.Identity())
    return len(pairs)


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` is registered in `model`."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def has_hooks(module: nn.Module) -> bool:
    """Whether someone looks at, or changes, what goes in or out of a module."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(len(getattr(module, name, ())) > 0 for name in names)


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that read each tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        for leaf in tree_leaves((args, kwargs or {})):
            self.counts[id(leaf)] = self.counts.get(id(leaf), 0) + 1
        return func(*args, **(kwargs or {}))


class _Watch:
    """What one forward pass shows of the convolutions and batch norms of a network."""

    def __init__(self, model: nn.Module) -> None:
        self.reads = _Reads()
        self.calls: dict[nn.Module, int] = {}
        self.outputs: dict[nn.Module, Tensor] = {}  # kept alive, so that no id comes twice
        self.fed: list[tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]] = []
        self.read_by_norm: dict[nn.BatchNorm2d, int] = {}
        self.handles = []
        for module in model.modules():
            if has_hooks(module):
                continue
            if type(module) is nn.Conv2d:
                self.handles.append(module.register_forward_hook(self._after_convolution))
            if type(module) is nn.BatchNorm2d and module.running_mean is not None:
                self.handles.append(module.register_forward_pre_hook(self._before_norm))
                self.handles.append(module.register_forward_hook(self._after_norm))

    def _after_convolution(self, module: nn.Conv2d, args: object, out: Tensor) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        self.outputs[module] = out
        self.reads.counts[id(out)] = 0

    def _before_norm(self, module: nn.BatchNorm2d, args: tuple[Tensor, ...]) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        for convolution, out in self.outputs.items():
            if args and args[0] is out and self.reads.counts[id(out)] == 0:
                assert isinstance(convolution, nn.Conv2d)
                self.fed.append((convolution, module, out))

    def _after_norm(self, module: nn.BatchNorm2d, args: tuple[Tensor, ...], out: Tensor) -> None:
        if args:
            self.read_by_norm[module] = self.reads.counts.get(id(args[0]), 0)

    def pairs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Pairs called once each, in which the norm alone reads the convolution's output."""
        return [
            (convolution, norm)
            for convolution, norm, out in self.fed
            if self.calls[convolution] == self.calls[norm] == 1
            and self.reads.counts[id(out)] == self.read_by_norm[norm]
        ]


def _watch(model: nn.Module, x: Tensor) -> _Watch:
    watch = _Watch(model)
    try:
        with torch.no_grad(), watch.reads:
            model(x)
    finally:
        for handle in watch.handles:
            handle.remove()
    return watch
