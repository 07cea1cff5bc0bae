"""Typed reading of one JSON object: every refusal names the file and the dotted key."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from robustbench_lite.core.errors import ResultError


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
        parent: instead of `where`, the object that holds this one; then `where` is its key there.

    Raises:
        ResultError: when `data` is not an object; and from every method, when a key is missing or
            holds a value of another kind.
    """

    __slots__ = ("_key", "_parent", "data", "source")  # a leaderboard makes 100,000s of them

    def __init__(
        self, data: object, source: str, where: str = "", parent: Fields | None = None
    ) -> None:
        self.source = source
        self._key = where
        self._parent = parent
        if type(data) is not dict and not isinstance(data, Mapping):  # the first is faster
            raise ResultError(f"{source}: {self.where or 'the top level'} must be an object")
        self.data: Mapping[str, object] = data

    @property
    def where(self) -> str:
        """Dotted path of this object inside the file; only a refusal needs it."""
        return self._key if self._parent is None else self._parent.path(self._key)

    def path(self, key: str) -> str:
        """The dotted path of a key of this object."""
        return f"{self.where}.{key}" if self.where else key

    def refuse(self, key: str, need: str) -> ResultError:
        """The exception for a key whose value is not what is needed."""
        value = shown(self.data.get(key))
        return ResultError(f"{self.source}: {shown(self.path(key))} is {value}; need {need}")

    def value(self, key: str) -> object:
        """The raw value."""
        try:
            return self.data[key]
        except KeyError:
            raise ResultError(f"{self.source}: missing key {shown(self.path(key))}") from None

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
        if type(value) is not int or not least <= value <= most:  # a bool is no number here
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
        if type(value) is float and math.isfinite(value):
            return value
        if value is None:
            return None
        if type(value) is not int or abs(value) > sys.float_info.max:
            raise self.refuse(key, "a finite number")
        return float(value)

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
        return Fields(self.value(key), self.source, key, self)

    def children(self, key: str) -> list[Fields]:
        """A list of nested objects."""
        value = self.value(key)
        if not isinstance(value, list):
            raise self.refuse(key, "a list")
        return [Fields(item, self.source, f"{key}[{i}]", self) for i, item in enumerate(value)]

    def optional_child(self, key: str) -> Fields:
        """A nested object; an empty one when the key is absent or null."""
        if self.data.get(key) is None:
            return Fields({}, self.source, key, self)
        return self.child(key)
