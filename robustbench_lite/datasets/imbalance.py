"""Imbalanced subsets of a training set: the long-tailed and step builders of LDAM-DRW.

Cao et al. 2019 (arXiv:1906.07413), as in the authors' code. Classes keep their order: class 0
is the most frequent one and the last is the rarest. Importing this module imports no torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Imbalance(ABC):
    """Which training images are kept."""

    @abstractmethod
    def choose(self, labels: Tensor, num_classes: int) -> Tensor:
        """The rows that are kept.

        Args:
            labels: (N,), int64, of the training images.
            num_classes: K; labels are 0 .. K - 1.

        Returns:
            Rows (M,), int64, on the labels' device. Imbalanced ones are sorted by class, so the
            training loop has to shuffle.

        Raises:
            InputError: when a class cannot supply its images.
        """


@dataclass(frozen=True)
class Balanced(Imbalance):
    """All images, in their order."""

    def choose(self, labels: Tensor, num_classes: int) -> Tensor:
        import torch

        del num_classes
        return torch.arange(len(labels), device=labels.device)


@dataclass(frozen=True)
class ExponentialImbalance(Imbalance):
    """Long-tailed: class c keeps n_c = int(largest (1 / ratio)^(c / (K - 1))) images.

    Args:
        ratio: of the largest class to the smallest, at least 1; 10, 50 or 100 in the literature.
        largest: images of class 0; the code takes N / K, which shifts labels on unequal classes.
        seed: of the choice within each class; 0 in the code.
    """

    ratio: float
    largest: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.ratio, self.largest, self.seed)

    def counts(self, num_classes: int) -> list[int]:
        """n_c of each class."""
        share = 1.0 / self.ratio  # plain double arithmetic, as in the code
        places = range(num_classes)
        return [int(self.largest * share ** (c / (num_classes - 1.0))) for c in places]

    def choose(self, labels: Tensor, num_classes: int) -> Tensor:
        return _first_shuffled(labels, self.counts(num_classes), self.seed)


@dataclass(frozen=True)
class StepImbalance(Imbalance):
    """Two levels: the last K // 2 classes keep int(largest / ratio) images, the others `largest`.

    Args:
        ratio: as in `ExponentialImbalance`.
        largest: images of a frequent class.
        seed: as in `ExponentialImbalance`.
    """

    ratio: float
    largest: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.ratio, self.largest, self.seed)

    def counts(self, num_classes: int) -> list[int]:
        """n_c of each class; with an odd K the middle class is a frequent one."""
        rare = num_classes // 2
        share = 1.0 / self.ratio
        return [self.largest] * (num_classes - rare) + [int(self.largest * share)] * rare

    def choose(self, labels: Tensor, num_classes: int) -> Tensor:
        return _first_shuffled(labels, self.counts(num_classes), self.seed)


_HERE = "robustbench_lite.datasets.imbalance"
_SOURCE = "Cao et al. 2019, arXiv:1906.07413, authors' code"

IMBALANCES = Registry(
    "imbalance",
    {
        "none": Entry(f"{_HERE}:Balanced", "all training images"),
        "exp": Entry(
            f"{_HERE}:ExponentialImbalance", "class sizes fall exponentially: long tail", _SOURCE
        ),
        "step": Entry(f"{_HERE}:StepImbalance", "the last half of the classes is rare", _SOURCE),
    },
)


def _check(ratio: float, largest: int, seed: int) -> None:
    if not 1.0 <= ratio < math.inf:
        raise InputError(f"imbalance.ratio={ratio} must be a number of at least 1")
    if largest < 1:
        raise InputError(f"imbalance.largest={largest} must be at least 1")
    if not 0 <= seed < 2**32:
        raise InputError(f"imbalance.seed={seed} is not in [0, 2**32), NumPy's legacy seeds")


def _first_shuffled(labels: Tensor, counts: list[int], seed: int) -> Tensor:
    """The first n_c of each class's shuffled rows, class by class with one generator."""
    import numpy as np
    import torch

    # The code's draws: NumPy's legacy generator, which it seeds once and globally.
    generator = np.random.RandomState(seed)
    own = labels.cpu().numpy()
    kept = []
    for label, wanted in enumerate(counts):
        rows = np.flatnonzero(own == label)
        if not 1 <= wanted <= len(rows):
            raise InputError(
                f"imbalance: class {label} has {len(rows)} training images, {wanted} are wanted; "
                "each class needs at least 1 and no more than it has: lower imbalance.largest or "
                "change imbalance.ratio"
            )
        generator.shuffle(rows)
        kept.append(rows[:wanted])
    return torch.from_numpy(np.concatenate(kept)).to(labels.device)
