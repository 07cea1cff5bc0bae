"""Values as TOML text; the standard library reads TOML but does not write it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_value(value: object) -> str:
    """A value as TOML writes it on one line.

    Args:
        value: text, a truth value, a number, or a sequence or mapping of such.

    Returns:
        Text that `tomllib` reads back as an equal value.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # JSON's text is TOML's, but for the one control character it keeps
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, -inf, nan: TOML's own words
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{toml_key(key)} = {toml_value(value[key])}" for key in value)
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"{value!r} cannot be written as TOML")


def toml_key(key: str) -> str:
    """A key as TOML writes it: quoted where it is more than letters, digits, `_` and `-`."""
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)
