"""A network that counts the images that go through it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class PassCounter(nn.Module):
    """A network that counts images: those passed forward, and those gradients came back for.

    Args:
        model: the network; its modes and parameters stay its own.
        on_pass: called with each pass: its images, twice for a backward pass.
    """

    def __init__(self, model: nn.Module, on_pass: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self.model, self.on_pass = model, on_pass
        self.training = model.training
        self.forwards = 0
        self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if self.on_pass is not None:
            self.on_pass(len(x))
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
        if self.on_pass is not None:
            self.on_pass(2 * len(gradient))
