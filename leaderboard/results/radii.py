"""A radius as text, such as 8/255 or 0.031, as an exact number."""

from __future__ import annotations

import re
from fractions import Fraction

MOST_CHARACTERS = 100
HUGE_EXPONENT = re.compile(r"[eE][+-]?[\d_]{3,}")  # 1e999999999 has a billion digits


def read_radius(text: str) -> Fraction | None:
    """A radius as a number; None for what is none, is negative, or has an absurd exponent."""
    if len(text) > MOST_CHARACTERS or HUGE_EXPONENT.search(text):
        return None
    try:
        radius = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
    return radius if radius >= 0 else None
