"""What an attack costs: forward and backward passes, counted per image."""

from __future__ import annotations

from torch import Tensor, nn


class PassCounter(nn.Module):
    """A network that counts images: those passed forward, and those gradients came back for.

    Args:
        model: the network; its modes and parameters stay its own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.forwards = 0
        self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
