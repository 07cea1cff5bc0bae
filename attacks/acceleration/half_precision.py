"""float16 passes for searching, with gradients that neither vanish nor overflow on the way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# A factor 2**e and its inverse must both be normal float32 numbers.
_LARGEST_EXPONENT = 126


class InFloat16(nn.Module):
    """A network whose passes run under float16 autocast; images, logits and gradients are float32.

    float16 keeps 11 bits: an image in [0, 1] is rounded by at most 1/64 of 8/255 (bfloat16, with 8
    bits, by 1/8). What it lacks is range: the gradient of a confident example's
    cross-entropy is far below 6e-8. So on the way back the gradient at the logits is scaled, per
    example, by the power of two that brings its largest entry to [1/2, 1) (times 2**headroom), and
    the gradient at the image is scaled back, in float32. Whoever calls this sees neither.

    Args:
        network: any; in eval mode, examples independent of each other.
        channels_last: whether it is to see images in that memory format.
        headroom: gradients inside are larger by this power of two; above 0 only to learn whether
            they would overflow.
    """

    def __init__(self, network: nn.Module, *, channels_last: bool, headroom: int = 0) -> None:
        super().__init__()
        self.network = network
        self.training = network.training
        self.channels_last, self.headroom = channels_last, headroom

    def forward(self, x: Tensor) -> Tensor:
        """Logits: `(B, C, H, W)` -> `(B, K)`, float32."""
        scaling = _GradientScaling(self.headroom)
        inside = x.float()
        if self.channels_last:
            inside = inside.contiguous(memory_format=torch.channels_last)
        inside = inside.view_as(inside)  # a tensor of our own: the caller's gets no hook
        if inside.requires_grad:
            inside.register_hook(scaling.undo)  # type: ignore[no-untyped-call]
        with torch.autocast(x.device.type, torch.float16):
            logits: Tensor = self.network(inside)
        logits = logits.float()
        if not inside.requires_grad or not logits.requires_grad:
            return logits
        logits.register_hook(scaling.scale)  # type: ignore[no-untyped-call]
        # A hook also changes what is captured at its own tensor; the caller gets another one.
        return logits.view_as(logits)


class _GradientScaling:
    """The two ends of one backward pass: a power of two per example, and its inverse."""

    def __init__(self, headroom: int) -> None:
        self.headroom = headroom
        self.factor: Tensor | None = None

    def scale(self, gradient: Tensor) -> Tensor:
        """At the logits (B, K)."""
        exponent = torch.frexp(gradient.abs().amax(dim=1, keepdim=True)).exponent  # (B, 1)
        exponent = (self.headroom - exponent).clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        self.factor = torch.ldexp(torch.ones_like(gradient[:, :1]), exponent)
        return gradient * self.factor

    def undo(self, gradient: Tensor) -> Tensor:
        """At the image (B, C, H, W)."""
        assert self.factor is not None
        return gradient / self.factor.view(-1, *[1] * (gradient.dim() - 1))
