"""Values of a published table's file: each of its kind, or one line that names the place."""

from __future__ import annotations

import csv
import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.schema import shown
from robustbench_lite.leaderboard.published.records import PROVENANCES
from robustbench_lite.leaderboard.results.radii import read_radius

FIELD = re.compile(r"\{(\w+)\}")


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ResultError: when it cannot be read or is no valid TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        raise ResultError(f"{path} is no valid TOML: {error}") from None


class Values:
    """Checks of the values of one file; every refusal names the file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, data: Mapping[str, Any], known: set[str], where: str) -> None:
        """Refuse a key that nobody reads, naming the nearest known one."""
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(key, sorted(known), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise self.refuse(f"{where or 'the table'} has an unknown key {shown(key)}{hint}")

    def check_words(self, data: Mapping[str, Any], where: str) -> None:
        """The values that are not free text."""
        for key, kind in TERMS.items():
            self.typed(data, key, kind, where)
        place = f"{where}: " if where else ""
        for key, allowed in (("provenance", {"", *PROVENANCES}), ("unit", {*UNITS})):
            if key in data and data[key] not in allowed:
                words = ", ".join(sorted(allowed - {""}))
                raise self.refuse(f"{place}{key}={shown(data[key])}; allowed: {words}")
        for key in ("eps", "eps_printed"):
            if data.get(key, "") and read_radius(data[key]) is None:
                raise self.refuse(f"{place}{key}={shown(data[key])} is no radius such as 8/255")
        if not 0 <= data.get("n", 0) <= 2**53:
            raise self.refuse(f"{place}n={shown(data['n'])} is no number of images")

    def typed(self, data: Mapping[str, Any], key: str, default: object, where: str) -> Any:
        """A value of the kind of its default, which stands in where the key is absent."""
        value = data.get(key, default)
        if type(value) is not type(default):
            kind = type(default).__name__
            raise self.refuse(f"{where or 'the table'}: {key}={shown(value)} is no {kind}")
        return value

    def texts(self, data: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
        """A table of texts; empty where the key is absent."""
        found: dict[str, str] = self.typed(data, key, {}, where)
        for name in found:
            self.typed(found, name, "", f"{where}.{key}")
        return found

    def list_of(self, data: Mapping[str, Any], key: str, kind: type, where: str) -> list[Any]:
        """A list of values of one kind; empty where the key is absent."""
        value: list[Any] = self.typed(data, key, [], where)
        if not all(type(one) is kind for one in value):
            place = f"{where}: " if where else ""
            raise self.refuse(f"{place}{key} must be a list of {kind.__name__}")
        return value

    def csv_facts(self, name: str) -> list[dict[str, str]]:
        """Every line of a CSV beside the file, by its field names."""
        file = self.path.parent / name
        try:
            with file.open(encoding="utf-8", newline="") as lines:
                rows = list(csv.reader(lines, strict=True))
        except (OSError, ValueError, csv.Error) as error:  # ValueError: a name with a null byte
            raise self.refuse(f"csv file {shown(str(file))} cannot be read: {error}") from None
        fields, *facts = rows or [[]]
        for number, row in enumerate(facts, start=2):
            if len(row) != len(fields):
                raise self.refuse(
                    f"csv file {shown(str(file))}, row {number}: {len(row)} cells; need "
                    f"{len(fields)}, as its head has"
                )
        return [dict(zip(fields, row, strict=True)) for row in facts]

    def filled(self, template: str, facts: Mapping[str, str]) -> str:
        """A template with `{field}` replaced by the facts of a row; nothing else is a field."""
        unknown = next((one for one in FIELD.findall(template) if one not in facts), None)
        if unknown is not None or set("{}") & set(FIELD.sub("", template)):
            raise self.refuse(
                f"csv: id={shown(template)} must be text and fields of the CSV, such as {{name}}"
            )
        return FIELD.sub(lambda match: facts[match[1]], template)

    def refuse(self, what: str) -> ResultError:
        """The exception that names the file."""
        return ResultError(f"{self.path}: {what}")


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
