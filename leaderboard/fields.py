"""Typed reading of one JSON object: every refusal names the file and the dotted key."""

from __future__ import annotations

import math
from collections.abc import Mapping

from robustbench_lite.leaderboard.errors import ResultError


def shown(value: object) -> str:
    """A value for an error message: its repr on one line, shortened to 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Fields:
    """One JSON object with typed access.

    Args:
        data: the parsed JSON value, which has to be an object.
        source: the file, for messages.
        where: dotted path of this object inside the file, empty at the top.

    Raises:
        ResultError: when `data` is not an object; and from every method, when a key is missing or
            holds a value of another kind.
    """

    def __init__(self, data: object, source: str, where: str = "") -> None:
        self.source = source
        self.where = where
        if type(data) is not dict and not isinstance(data, Mapping):  # the first is faster
            raise ResultError(f"{source}: {where or 'the top level'} must be an object")
        self.data: Mapping[str, object] = data

    def path(self, key: str) -> str:
        """The dotted path of a key of this object."""
        return f"{self.where}.{key}" if self.where else key

    def refuse(self, key: str, need: str) -> ResultError:
        """The exception for a key whose value is not what is needed."""
        value = shown(self.data.get(key))
        return ResultError(f"{self.source}: {shown(self.path(key))} is {value}; need {need}")

    def value(self, key: str) -> object:
        """The raw value."""
        if key not in self.data:
            raise ResultError(f"{self.source}: missing key {shown(self.path(key))}")
        return self.data[key]

    def text(self, key: str) -> str:
        """A non-empty string."""
        value = self.value(key)
        if not isinstance(value, str) or not value.strip():
            raise self.refuse(key, "a non-empty string")
        return value

    def optional_text(self, key: str) -> str:
        """A string, empty when the file says null."""
        value = self.value(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.refuse(key, "a string or null")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of a few strings."""
        value = self.value(key)
        if not isinstance(value, str) or value not in allowed:
            raise self.refuse(key, f"one of {', '.join(allowed)}")
        return value

    def integer(self, key: str, least: int, most: int = 2**64 - 1) -> int:
        """An integer in [least, most]."""
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.refuse(key, f"an integer from {least} to {most}")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.optional_number(key)
        if value is None:
            raise self.refuse(key, "a finite number")
        return value

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None when the file says null."""
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(key, "a finite number")
        try:
            number = float(value)
        except OverflowError:
            raise self.refuse(key, "a finite number") from None
        if not math.isfinite(number):
            raise self.refuse(key, "a finite number")
        return number

    def cost(self, key: str) -> float:
        """A count of passes, at least 0; null, when nothing was attacked, counts as 0."""
        value = self.optional_number(key) or 0.0
        if value < 0:
            raise self.refuse(key, "a number of at least 0")
        return value

    def truth(self, key: str) -> bool:
        """True or false."""
        value = self.value(key)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def optional_truth(self, key: str) -> bool | None:
        """True, false, or null for unknown."""
        return None if self.value(key) is None else self.truth(key)

    def child(self, key: str) -> Fields:
        """A nested object."""
        return Fields(self.value(key), self.source, self.path(key))

    def children(self, key: str) -> list[Fields]:
        """A list of nested objects."""
        value = self.value(key)
        if not isinstance(value, list):
            raise self.refuse(key, "a list")
        return [Fields(item, self.source, f"{self.path(key)}[{i}]") for i, item in enumerate(value)]

    def optional_child(self, key: str) -> Fields:
        """A nested object; an empty one when the key is absent or null."""
        if self.data.get(key) is None:
            return Fields({}, self.source, self.path(key))
        return self.child(key)
