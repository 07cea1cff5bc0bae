"""BPDA: attacks through a preprocessing that has no useful gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import InputError


def identity(x: Tensor) -> Tensor:
    """The approximation of a preprocessing that changes images little: x itself."""
    return x


class Bpda(nn.Module):
    """Backward Pass Differentiable Approximation (Athalye et al. 2018, arXiv:1802.00420, Sec. 4.1).

    Quantisation, JPEG or a thermometer code have a gradient of zero or none, so that gradient
    attacks stand still in front of them. Here the forward pass is the preprocessing itself, bit for
    bit, and the backward pass is that of a differentiable function close to it. With `identity`
    that is the straight-through form of Sec. 4.1.1. Only the input gradients of the network change,
    so `nn.Sequential(Bpda(preprocess, approximation), network)` takes the place of the defended
    network in any attack and for the verifier.

    Where no gradient to `x` is asked for, this is `preprocess`, and `approximation` is not called.
    Modules among the two are submodules: they follow `eval()`, `to()` and `state_dict()`.

    Args:
        preprocess: (B, ...) to (B, ...), of floating point; any code, such as one that leaves
            torch. It may be randomised; examples must not see each other.
        approximation: differentiable, from the same images to the same shape. There is no default:
            how close it is decides how strong the attacks are.

    Raises:
        InputError: in the forward pass, when `preprocess` gives no floating-point tensor, or
            `approximation` another shape or nothing that depends on `x`.

    Cost:
        `preprocess` once a pass; `approximation` once a pass with gradients, and its backward.

    Example:
        model = nn.Sequential(Bpda(lambda x: (4.0 * x).round() / 4.0, identity), network)
    """

    def __init__(
        self, preprocess: Callable[[Tensor], Tensor], approximation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.preprocess, self.approximation = preprocess, approximation
        self._by_approximation = False

    def forward(self, x: Tensor) -> Tensor:
        """What `preprocess` gives for `x`, with the gradient of `approximation`."""
        if self._by_approximation:
            return self.approximation(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self._value(x)
        soft = self.approximation(x)
        if not (isinstance(soft, Tensor) and soft.requires_grad):
            raise InputError(
                "approximation gives nothing that depends on its input: it must be a "
                "differentiable function of the images, without detach() or torch.no_grad()"
            )
        out: Tensor = _Replaced.apply(soft, x, self)  # type: ignore[no-untyped-call]
        return out

    def _value(self, x: Tensor) -> Tensor:
        value = self.preprocess(x.detach())  # code that leaves torch takes no tensor with a graph
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"preprocess gives {kind}: it must give a floating-point tensor")
        return value


@contextmanager
def through_approximations(model: nn.Module) -> Iterator[int]:
    """Every `Bpda` of a network gives its approximation's values inside the block, in all passes.

    The network is then the function whose gradients it gives. The block is told how many `Bpda`
    layers there are.
    """
    layers = [module for module in model.modules() if isinstance(module, Bpda)]
    try:
        for layer in layers:
            layer._by_approximation = True
        yield len(layers)
    finally:
        for layer in layers:
            layer._by_approximation = False


class _Replaced(torch.autograd.Function):
    """Forward what the preprocessing gives, backward that of the approximation."""

    @staticmethod
    def forward(context: object, soft: Tensor, x: Tensor, bpda: Bpda) -> Tensor:
        value = bpda._value(x)
        if value.shape != soft.shape:
            raise InputError(
                f"approximation gives shape {tuple(soft.shape)}, preprocess {tuple(value.shape)}: "
                "they must be the same, since the gradient of one is used for the other"
            )
        return value

    @staticmethod
    def backward(context: object, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None
