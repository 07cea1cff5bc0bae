"""Learning rate as a pure function of time, in epochs: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import Entry, Registry


@dataclass(frozen=True)
class Schedule(ABC):
    """Factor on the base learning rate at a time t in epochs."""

    @abstractmethod
    def factor(self, t: float, epochs: int) -> float:
        """Args: t: epochs done, fractional, in [0, epochs]; epochs: of the whole run."""


@dataclass(frozen=True)
class Step(Schedule):
    """Times `gamma` at each milestone: factor gamma ** #{m : t >= m}.

    Args:
        milestones: epochs, rising.
        gamma: factor at each.
    """

    milestones: tuple[float, ...]
    gamma: float

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones):
            raise InputError(f"schedule.milestones={list(self.milestones)} must rise")

    def factor(self, t: float, epochs: int) -> float:
        return float(self.gamma ** sum(t >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """A factor for each stretch of whole epochs, as code that sets the rate once an epoch does.

    Args:
        begin: first epoch of each stretch, from 1, rising; the first is 1.
        factors: on the base learning rate, one for each stretch.
    """

    begin: tuple[int, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.begin, self.begin[1:], strict=False))
        if not rising or self.begin[:1] != (1,) or len(self.begin) != len(self.factors):
            raise InputError(
                f"schedule.begin={list(self.begin)}, factors={list(self.factors)}: begin starts "
                "with 1 and rises, and there is one factor for each"
            )

    def factor(self, t: float, epochs: int) -> float:
        epoch = max(math.ceil(t), 1)  # a step that ends at t = 2.0 belongs to epoch 2
        return self.factors[sum(epoch >= begin for begin in self.begin) - 1]


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017, arXiv:1608.03983, Eq. 5).

    Args:
        final: factor at the end, in [0, 1].
    """

    final: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.final <= 1.0:
            raise InputError(f"schedule.final={self.final} must be in [0, 1]")

    def factor(self, t: float, epochs: int) -> float:
        half = 0.5 * (1.0 + math.cos(math.pi * min(t / epochs, 1.0)))
        return self.final + (1.0 - self.final) * half


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Linear from 0 to 1 at `peak`, linear to 0 at the end ("cyclic" in Wong et al. 2020).

    Args:
        peak: place of the maximum as a fraction of the run, in (0, 1).
    """

    peak: float

    def __post_init__(self) -> None:
        if not 0.0 < self.peak < 1.0:
            raise InputError(f"schedule.peak={self.peak} must be between 0 and 1")

    def factor(self, t: float, epochs: int) -> float:
        place = min(t / epochs, 1.0)
        return place / self.peak if place < self.peak else (1.0 - place) / (1.0 - self.peak)


SCHEDULES = Registry(
    "schedule",
    {
        "step": Entry("robustbench_lite.training.schedules:Step", "times gamma at milestones"),
        "per_epoch": Entry(
            "robustbench_lite.training.schedules:PerEpoch", "a factor for each stretch"
        ),
        "cosine": Entry("robustbench_lite.training.schedules:Cosine", "half a cosine"),
        "one_cycle": Entry(
            "robustbench_lite.training.schedules:OneCycle", "linear up, linear down"
        ),
    },
)
