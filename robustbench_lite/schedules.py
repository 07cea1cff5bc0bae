"""Learning rate as a pure function of time, in epochs: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from robustbench_lite.attacks.registry import Entry, Registry
from robustbench_lite.errors import InputError


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
class Cosine(Schedule):
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983, Eq. 5)."""

    def factor(self, t: float, epochs: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * min(t / epochs, 1.0)))


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
        "step": Entry("robustbench_lite.schedules:Step", "times gamma at milestones"),
        "cosine": Entry("robustbench_lite.schedules:Cosine", "half a cosine to 0"),
        "one_cycle": Entry("robustbench_lite.schedules:OneCycle", "linear up, linear down"),
    },
)
