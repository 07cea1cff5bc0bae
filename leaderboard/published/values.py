"""Numbers as printed, and the CSV that a published table's rows may stand in."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.schema import shown

FIELD = re.compile(r"\{(\w+)\}")
UNITS = {"percent": Fraction(1, 100), "fraction": Fraction(1)}
DIGITS = r"\d{1,18}"  # more are no accuracy, and thousands of them stop Python's int
NUMBER = re.compile(rf"({DIGITS})(?:\.({DIGITS}))?(?:\s*(?:±|\+-)\s*({DIGITS}(?:\.{DIGITS})?))?")


def csv_facts(file: Path) -> list[dict[str, str]]:
    """Every line of a CSV, by its field names.

    Raises:
        ResultError: when it cannot be read, or a line has another number of cells than the head.
    """
    name = f"csv file {shown(str(file))}"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.reader(lines, strict=True))
    except (OSError, ValueError, csv.Error) as error:  # ValueError: a name with a null byte
        raise ResultError(f"{name} cannot be read: {error}") from None
    fields, *facts = rows or [[]]
    for number, row in enumerate(facts, start=2):
        if len(row) != len(fields):
            raise ResultError(
                f"{name}, row {number}: {len(row)} cells; need {len(fields)}, as its head has"
            )
    return [dict(zip(fields, row, strict=True)) for row in facts]


def filled(template: str, facts: Mapping[str, str]) -> str:
    """A template with `{field}` replaced by the facts of a row; nothing else is a field.

    Raises:
        ResultError: for a field that the row does not have, or another brace.
    """
    unknown = next((one for one in FIELD.findall(template) if one not in facts), None)
    if unknown is not None or set("{}") & set(FIELD.sub("", template)):
        raise ResultError(
            f"csv.id is {shown(template)}; need text and fields of the CSV, such as {{name}}"
        )
    return FIELD.sub(lambda match: facts[match[1]], template)


def read_number(text: str, unit: Fraction) -> tuple[Fraction, Fraction, Fraction | None] | None:
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
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    whole, decimals, spread = match.groups()
    value = Fraction(f"{whole}.{decimals}" if decimals else whole) * unit
    half = unit / (2 * 10 ** len(decimals or ""))
    return value, half, None if spread is None else Fraction(spread) * unit
