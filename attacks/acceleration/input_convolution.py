"""The convolution that reads the image, with a fast gradient to the image on a CPU."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW_CHANNELS = 4


class InputConvolution(nn.Module):
    """A convolution of few input channels: the same forward pass, another way back to its input.

    The CPU kernel of the input gradient works in blocks of 16 channels, so with 1 or 3 of them it
    computes mostly nothing, and takes longer than the rest of a small network. Here the gradient is
    one matrix product over the output channels, for all offsets of the kernel at once, and then a
    sum of shifted maps. With stride s the s x s phases of the image are maps of their own, so that
    every sum runs over contiguous rows.

    Its own weights are constants: no gradient comes back for them.

    Args:
        convolution: one that `fits`; its weights are copied.
    """

    weight: Tensor
    bias: Tensor | None
    offsets: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight, bias = convolution.weight.detach().clone(), convolution.bias
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.stride, self.padding = _pair(convolution.stride), _pair(convolution.padding)
        phases = self.stride[0] * self.stride[1] * weight.shape[1]
        # Per phase of the image the kernel has (at most) this many rows and columns.
        self.window = tuple(
            -(-kernel // stride)
            for kernel, stride in zip(weight.shape[2:], self.stride, strict=True)
        )
        self.register_buffer("offsets", self._offsets(weight))  # (window * window * phases, O)
        self.phases = phases

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module is a convolution that this can stand for."""
        return (
            type(module) is nn.Conv2d
            and module.in_channels <= FEW_CHANNELS
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and set(module.dilation) == {1}
            and module.weight.dtype in (torch.float32, torch.float64)
        )

    def forward(self, input: Tensor) -> Tensor:  # named as Conv2d names it
        """`(B, C, H, W)` -> `(B, O, h, w)`."""
        out: Tensor = _Convolve.apply(input, self)  # type: ignore[no-untyped-call]
        return out

    def convolve(self, x: Tensor) -> Tensor:
        """The forward pass alone."""
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def input_gradient(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """Gradient of the output (B, O, h, w) to that of the input (B, C, H, W), H, W of `size`."""
        batch, outs, height, width = gradient.shape
        rows, columns = self.window
        (down, across), (top, left) = self.stride, self.padding
        flat = gradient.to(self.offsets.dtype).reshape(batch, outs, -1)
        maps = (self.offsets @ flat).view(batch, rows, columns, self.phases, height, width)
        # Large enough for the last window, and for pixels that no window reaches.
        total = gradient.new_zeros(
            batch,
            self.phases,
            max(height + rows - 1, -(-(top + size[2]) // down)),
            max(width + columns - 1, -(-(left + size[3]) // across)),
        )
        for row in range(rows):
            for column in range(columns):
                total[:, :, row : row + height, column : column + width] += maps[:, row, column]
        if (down, across) != (1, 1):
            high, wide = total.shape[2:]
            total = total.view(batch, size[1], down, across, high, wide)
            total = total.permute(0, 1, 4, 2, 5, 3)
            total = total.reshape(batch, size[1], high * down, wide * across)
        return total[:, :, top : top + size[2], left : left + size[3]].contiguous()

    def _offsets(self, weight: Tensor) -> Tensor:
        """Weights (O, C, k, l) as (rows, columns, C, phase, phase) x O, flattened to a matrix."""
        outs, channels, *kernel = weight.shape
        (rows, columns), (down, across) = self.window, self.stride
        missing = (0, columns * across - kernel[1], 0, rows * down - kernel[0])
        whole = functional.pad(weight, missing).view(outs, channels, rows, down, columns, across)
        return whole.permute(2, 4, 1, 3, 5, 0).reshape(-1, outs).contiguous()


class _Context(Protocol):
    """What autograd hands from the forward pass to the backward pass."""

    convolution: InputConvolution
    size: torch.Size


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(context: _Context, x: Tensor, convolution: InputConvolution) -> Tensor:
        context.convolution, context.size = convolution, x.shape
        return convolution.convolve(x)

    @staticmethod
    def backward(context: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        return context.convolution.input_gradient(gradient, context.size), None


def _pair(value: tuple[int, ...] | str) -> tuple[int, int]:
    assert not isinstance(value, str)
    first, second = value
    return first, second
