"""What differs between two sets of terms, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping


def describe_difference(
    there: Mapping[str, object], now: Mapping[str, object], prefix: str = ""
) -> str:
    """`key: a there, b now` for every leaf that differs, nested keys with dots; `""` when equal."""
    found = []
    for key in sorted({*there, *now}):
        old, new = there.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if inner := describe_difference(old, new, f"{prefix}{key}."):
                found.append(inner)
        elif old != new:
            found.append(f"{prefix}{key}: {_short(old)} there, {_short(new)} now")
    return "; ".join(sorted(found, key=len))  # the shortest first: a message may be cut


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
