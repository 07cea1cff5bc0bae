"""The keys of a published table's file, and how its texts are read as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

UNITS = {"percent": Fraction(1, 100), "fraction": Fraction(1)}
DIGITS = r"\d{1,18}"  # more are no accuracy, and thousands of them stop Python's int
NUMBER = re.compile(rf"({DIGITS})(?:\.({DIGITS}))?(?:\s*(?:±|\+-)\s*({DIGITS}(?:\.{DIGITS})?))?")

# What a cell takes from the nearest that says it: the cell itself, its row, column, the table.
TERMS = {
    "dataset": "",
    "split": "test",
    "part": "",
    "n": 0,
    "model": "",
    "norm": "",
    "eps_printed": "",
    "eps": "",
    "protocol": "",
    "attack": "",
    "provenance": "",
    "basis": "",
    "unit": "percent",
}
COLUMN = {"key": "", "metric": "", "title": "", "quantity": "accuracy", "union": False}
ROW = {"id": "", "printed": "", "method": "", "recipe": "", "stand_in": "", "selection": ""}
ROW_MORE = {**ROW, "weights": "", "note": ""}
SOURCE = {"title": "", "paper": "", "where": "", "repository": "", "note": ""}
LISTS = ("columns", "rows", "changes", "relations", "trends")


def read_number(text: object, unit: Fraction) -> tuple[Fraction, Fraction, Fraction | None] | None:
    """Value, half a unit of the last digit, and spread, of a number as printed.

    Args:
        text: such as `"53.10"` or `"51.96 ± 0.21"`.
        unit: what 1 of it is worth, as a fraction of everything.

    Returns:
        Fractions of 1; None for what is no such number. The spread is None when none is printed.

    Example:
        >>> read_number("58", UNITS["percent"])
        (Fraction(29, 50), Fraction(1, 200), None)
    """
    match = NUMBER.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    whole, decimals, spread = match.groups()
    value = Fraction(f"{whole}.{decimals}" if decimals else whole) * unit
    half = unit / (2 * 10 ** len(decimals or ""))
    return value, half, None if spread is None else Fraction(spread) * unit


def nearest(key: str, levels: Sequence[Mapping[str, Any]]) -> Any:
    """The value of the first level that has the key, else its default."""
    return next((level[key] for level in levels if key in level), TERMS[key])


def radius_meant(levels: Sequence[Mapping[str, Any]]) -> str:
    """As printed, unless `eps` says otherwise at the same level or at a nearer one."""
    for level in levels:
        for key in ("eps", "eps_printed"):
            if key in level:
                return str(level[key])
    return ""
