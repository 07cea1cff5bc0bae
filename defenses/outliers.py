"""What a method that trains with outliers asks of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_lite.attacks.errors import InputError


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
