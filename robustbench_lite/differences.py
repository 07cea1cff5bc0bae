"""What differs between two sets of terms, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping


def describe_difference(
    there: Mapping[str, object], now: Mapping[str, object], *, most: int | None = 160
) -> str:
    """`key: a there, b now` for every leaf that differs, nested keys with dots; `""` when equal.

    Args:
        there: what was found.
        now: what it is held against.
        most: characters, about: of longer texts the shortest differences are told, and how many
            there are beside; None tells all.
    """
    found = list(_differences(there, now, ""))
    kept, used = [], 0
    for text in sorted(found, key=len):
        used += len(text) + 2
        if most is None or not kept or used <= most:
            kept.append(text)
    rest = len(found) - len(kept)
    told = [text for text in found if text in kept]
    return "; ".join([*told, *([f"and {rest} more"] if rest else [])])


def _differences(
    there: Mapping[str, object], now: Mapping[str, object], prefix: str
) -> Iterator[str]:
    for key in sorted({*there, *now}):
        old, new = there.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {_short(old)} there, {_short(new)} now"


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type's name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
