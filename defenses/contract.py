"""What every defense is: hyperparameters, and an objective for one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

ROBUST = "robust"  # the network that is delivered


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Args:
        x: augmented images (B, C, H, W), float32 in [0, 1].
        y: labels (B,), int64.
        ids: places in the training set (B,), int64: with the seed they fix crafting's draws.
        epoch: from 1.
        seed: differs from epoch to epoch.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    epoch: int
    seed: int


@dataclass(frozen=True)
class Objective:
    """What the training loop minimises and logs.

    Args:
        loss: 0-dim, with a graph.
        scalars: 0-dim tensors without a graph; `metrics.jsonl` gets their mean over an epoch.
    """

    loss: Tensor
    scalars: Mapping[str, Tensor]


@dataclass(frozen=True)
class Defense(ABC):
    """A method: its frozen hyperparameters are its fields, its loss is `objective`.

    A method that trains a second network beside the delivered one names it in `extra_networks`
    (role to architecture); the loop builds it, optimises it and stores it for resuming.
    """

    extra_networks: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def objective(self, networks: Mapping[str, nn.Module], batch: Batch) -> Objective:
        """The loss of one batch; all networks come in train mode and must be left so.

        Args:
            networks: `"robust"`, and one per role in `extra_networks`.
            batch: images, labels and what fixes the draws.
        """
