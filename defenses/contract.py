"""What every defense is: hyperparameters, crafting, and an objective for one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.label_losses import LabelLoss

ROBUST = "robust"  # the network that is delivered


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Args:
        x: augmented images (B, C, H, W), float32 in [0, 1].
        y: labels (B,), int64.
        ids: places in the training set (B,), int64: with the seed they fix crafting's draws. Those
            of extra images come after all others.
        epoch: from 1.
        seed: differs from epoch to epoch.
        class_counts: training images of each class (K,), int64, without extra images.
        label_loss: the recipe's loss on labels.
        outliers: augmented outliers (M, C, H, W) like `x`, where the defense asks for them.
        carried: what `Defense.carry` gave after the step before; empty in the first step of a run.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    epoch: int
    seed: int
    class_counts: Tensor
    label_loss: LabelLoss
    outliers: Tensor | None = None
    carried: Mapping[str, Tensor] = field(default_factory=dict)

    def label_losses(self, logits: Tensor) -> Tensor:
        """The recipe's loss on labels: logits (B, K) to (B,); cross-entropy unless it says more."""
        return self.label_loss.per_example(logits, self.y, self.class_counts)

    def accuracy(self, logits: Tensor) -> Tensor:
        """Share of `logits` (B, K) whose largest is the label's: 0-dim, without a graph."""
        return (logits.detach().argmax(dim=1) == self.y).float().mean()


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
class JointNetwork:
    """A second network that is trained with the delivered one, from its own initialisation.

    Args:
        architecture: registered name.
    """

    architecture: str


@dataclass(frozen=True)
class FrozenNetwork:
    """A network that is trained already: it stays in eval mode, without gradients.

    Args:
        source: a checkpoint folder, or the name of a recipe, which is then trained first, in a
            folder of the role's name inside the run.
    """

    source: str


@dataclass(frozen=True)
class Defense(ABC):
    """A method: its frozen hyperparameters are its fields, its loss is `objective`.

    A step is `craft`, then `objective` on what was crafted. They are apart so that adversarial
    weight perturbation can evaluate the objective twice on the same crafted images.
    """

    required_label_loss: ClassVar[str | None] = None
    """The only `label_loss.name` with which the method is itself; None where any will do."""

    @property
    def needs_every_class(self) -> bool:
        """Whether the method divides by a class's number of images: the loop then checks them."""
        return False

    @property
    def replays(self) -> int:
        """Steps on each batch, one after the other; the learning rate moves on with each."""
        return 1

    @property
    def extra_networks(self) -> Mapping[str, JointNetwork | FrozenNetwork]:
        """Networks beside the delivered one, by role; the loop builds, trains and stores them."""
        return {}

    @property
    def outlier_source(self) -> Outliers | None:
        """Where `Batch.outliers` come from; None for a method that has none."""
        return None

    def craft(self, networks: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Tensor]:
        """Images to train on and what was learnt in making them, by name; all without a graph.

        A tensor that requires a gradient gets that of the objective, which `carry` may read.

        Args:
            networks: as in `objective`; modes, parameters and gradients are left as they were.
            batch: images, labels and what fixes the draws.
        """
        del networks, batch
        return {}

    @abstractmethod
    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """The loss of one batch; trained networks come in train mode and must be left so.

        Args:
            networks: `"robust"`, and one per role in `extra_networks`.
            batch: images and labels.
            crafted: what `craft` returned.
        """

    def carry(self, batch: Batch, crafted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the next step finds in `Batch.carried`; stored with the state of the run.

        Args:
            batch: of the step that has just been made.
            crafted: what `craft` returned, with the gradients of the step in `.grad`.
        """
        del batch, crafted
        return {}


def check_not_negative(**values: float) -> None:
    """Raise InputError for a weight or size below 0, named as its recipe key."""
    for name, value in values.items():
        if not value >= 0:
            raise InputError(f"defense.{name}={value} must be a number of at least 0")


def weighted_mean(weights: Tensor, losses: Tensor) -> Tensor:
    """(1/B) sum_i w_i l_i: the divisor is the batch, never the sum of the weights."""
    return torch.mean(weights * losses)


@dataclass(frozen=True)
class Outliers:
    """Unlabelled images that belong to no class, a batch of them beside each batch of images.

    Args:
        source: a name of `rbl list outliers`, `dataset:NAME`, or `folder:PATH`.
        count: images in the store; 0 takes all that the source has, or as many as there are
            training images where they are made.
        batch_size: outliers per batch.
        seed: of synthetic sources, and of which images of another are taken in which order.
    """

    source: str
    count: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        for name, lowest in (("batch_size", 1), ("count", 0), ("seed", 0)):
            if (value := getattr(self, name)) < lowest:
                raise InputError(f"outliers.{name}={value} must be at least {lowest}")
