"""Plain data, as JSON or TOML hold it, made into typed records; each refusal is one line.

A record is a `msgspec.Struct`: its annotations say which keys a file has and what they hold. This
module adds to msgspec what a reader of a message needs: the file, the dotted key, the value, what
is allowed, and names that come close to a misspelt one.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from robustbench_lite.core.errors import InputError

T = TypeVar("T")

LARGEST = 1.7976931348623157e308
Text = Annotated[str, Meta(pattern=r"\S")]
"""A string that is not blank."""
Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=2**53)]  # beyond any data set; exact as a float too
"""A number of things."""
Fraction01 = Annotated[float, Meta(ge=0, le=1)]
"""A fraction in [0, 1]."""
Sha256 = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]

_KINDS = {
    "int": "an integer",
    "float": "a finite number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "null",
}
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_EXPECTED = re.compile(r"Expected `([^`]*)`(.*)")
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a file: these keys and no other."""


def shown(value: object) -> str:
    """A value for an error message: its repr on one line, shortened to 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def structured(
    kind: type[T],
    data: object,
    source: str,
    *,
    where: str = "",
    error: type[InputError] = InputError,
    strict: bool = True,
) -> T:
    """A record of plain data.

    Args:
        kind: a `Record`, or any other type that msgspec converts to.
        data: mappings, lists, strings, numbers, as JSON and TOML have them.
        source: the file, for messages.
        where: dotted key of `data` in the file; empty for all of it.
        error: the exception that refuses.
        strict: False also takes strings for numbers and truth values, as the command line has them.

    Raises:
        InputError: (or `error`) in one line that names file, key, value and what is allowed.
    """
    try:
        return msgspec.convert(data, kind, strict=strict)
    except msgspec.ValidationError as refusal:
        raise error(f"{source}: {_explained(kind, data, where, str(refusal))}") from None


def from_json(
    kind: type[T], content: bytes, source: str, *, error: type[InputError] = InputError
) -> T:
    """A record of the bytes of a JSON file; see `structured`. NaN and Infinity are no JSON."""
    try:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError as refusal:
            words = _explained(kind, msgspec.json.decode(content), "", str(refusal))
    except (msgspec.DecodeError, RecursionError) as refusal:
        raise error(f"{source} is no valid JSON: {refusal}") from None
    raise error(f"{source}: {words}")


def _explained(kind: Any, data: Any, where: str, refusal: str) -> str:
    """msgspec's words about `data`, in ours."""
    what, _, path = refusal.partition(" - at `$")
    steps = [key or place for key, place in _STEP.findall(path)]
    kind, data, where = _followed(kind, data, where, steps)
    if found := _MISSING.fullmatch(what):
        return f"missing key {_joined(where, found[1])}"
    if found := _UNKNOWN.fullmatch(what):
        known = _keys(kind)
        near = difflib.get_close_matches(found[1], known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        return f"unknown key {_joined(where, found[1])}; {hint}"
    value = f"{where or 'the file'} is {shown(data)}"
    if choices := _choices(kind):
        return f"{value}; need one of {', '.join(map(str, choices))}"
    if found := _EXPECTED.fullmatch(what):
        return f"{value}; need {_need(found[1], found[2])}"
    return f"{value}: {what}"


def _joined(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _followed(kind: Any, data: Any, where: str, steps: Sequence[str]) -> tuple[Any, Any, str]:
    """Type, value and dotted key at the end of a path; `...` stands for the key that is wrong."""
    for step in steps:
        kind = _inner(kind, step)
        if step == "...":
            step = next(str(key) for key, value in data.items() if not _fits(kind, key, value))
        if isinstance(data, Mapping):
            data, where = data[step], _joined(where, step)
        else:
            data, where = data[int(step)], f"{where}[{step}]"
    return kind, data, where


def _fits(kind: Any, key: object, value: object) -> bool:
    try:
        msgspec.convert({"value": value}, dict[str, kind])
    except msgspec.ValidationError:
        return False
    return isinstance(key, str)


def _bare(kind: Any) -> Any:
    """A type without its constraints, and without `None` beside it."""
    while True:
        if typing.get_origin(kind) is Annotated:
            kind = typing.get_args(kind)[0]
        elif typing.get_origin(kind) in (typing.Union, UnionType):
            others = [one for one in typing.get_args(kind) if one is not NoneType]
            if len(others) != 1:
                return kind
            kind = others[0]
        else:
            return kind


def _inner(kind: Any, step: str) -> Any:
    """The type of a field, an item or a value."""
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        return next(
            (
                hints[field.name]
                for field in msgspec.structs.fields(kind)
                if field.encode_name == step
            ),
            Any,
        )
    inner = typing.get_args(kind)
    if not inner:
        return Any
    if typing.get_origin(kind) is tuple and step.isdigit() and len(inner) > int(step):
        return inner[0] if inner[-1] is ... else inner[int(step)]
    return inner[0] if typing.get_origin(kind) is tuple else inner[-1]


def _keys(kind: Any) -> list[str]:
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [field.encode_name for field in msgspec.structs.fields(kind)]
    return []


def _choices(kind: Any) -> tuple[Any, ...]:
    kind = _bare(kind)
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _need(kinds: str, limit: str) -> str:
    """`int | null` and ` >= 1` as words."""
    names = " or ".join(_KINDS.get(kind, kind) for kind in kinds.split(" | "))
    limit = limit.partition(", got")[0].strip()
    if limit == r"matching regex '\\S'":
        return "a string that is not blank"
    if str(LARGEST) in limit or not limit:
        return names
    return f"{names} {limit.replace('>=', 'of at least').replace('<=', 'of at most')}"
