"""bfloat16 passes for training; weights, losses and every verdict stay float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InBfloat16(nn.Module):
    """A network whose passes run under bfloat16 autocast, and whose outputs are float32.

    BatchNorm, and whatever else autocast keeps in float32, stays so; gradients arrive in float32 at
    the float32 weights, so no loss scaling is needed.

    Args:
        network: shared, not copied; its weights train as they would without the wrapper.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Logits: `(B, C, H, W)` -> `(B, K)`, float32."""
        return self._passed(self.network, x)

    def features(self, x: Tensor) -> Tensor:
        """The head's input: `(B, C, H, W)` -> `(B, d)`, float32."""
        return self._passed(self.network.features, x)

    @property
    def head(self) -> nn.Module:
        """The last layer, in float32."""
        head = self.network.head
        assert isinstance(head, nn.Module)
        return head

    def _passed(self, function: object, x: Tensor) -> Tensor:
        assert callable(function)
        with torch.autocast(x.device.type, torch.bfloat16):
            out: Tensor = function(x)
        return out.float()
