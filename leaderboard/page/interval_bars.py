"""Where the bars of one table lie: a shared axis over the intervals, in units of an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

WIDTH = 180.0
INSET = 10.0  # room for the labels at both ends
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
MOST_TICKS = 5


@dataclass(frozen=True)
class Bar:
    """One interval, from left to right, and its point, along the axis."""

    left: str
    right: str
    point: str


@dataclass(frozen=True)
class Axis:
    """A stretch of [0, 1] with ticks at round fractions, both ends included.

    Args:
        low: left end, a fraction.
        high: right end, a fraction, larger than `low`.
        step: distance between ticks.
    """

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, intervals: Iterable[tuple[float, float]]) -> Axis:
        """The finest axis of few ticks that covers all intervals (at least one)."""
        pairs = list(intervals)
        lowest, highest = min(low for low, _ in pairs), max(high for _, high in pairs)
        for step in STEPS:
            first, last = math.floor(lowest / step + 1e-9), math.ceil(highest / step - 1e-9)
            if last - first < MOST_TICKS:
                return cls(first * step, max(last, first + 1) * step, step)
        raise AssertionError("the coarsest step covers [0, 1]")

    @property
    def ticks(self) -> list[tuple[str, str]]:
        """Position and label, in percent, of every tick."""
        n_steps = round((self.high - self.low) / self.step)
        values = [self.low + i * self.step for i in range(n_steps + 1)]
        return [(f"{self._at(value):.2f}", f"{100 * value:.0f}") for value in values]

    def bar(self, value: float, interval: tuple[float, float]) -> Bar:
        """The positions of a robust accuracy and its interval."""
        left, right, point = (f"{self._at(at):.2f}" for at in (*interval, value))
        return Bar(left, right, point)

    def _at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return INSET + share * (WIDTH - 2 * INSET)
