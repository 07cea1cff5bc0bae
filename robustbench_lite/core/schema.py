"""Plain data, as JSON or TOML hold it, made into typed records; each refusal is one line.

A record is a `msgspec.Struct`: its annotations say which keys a file has and what they hold. This
module adds to msgspec what a reader of a message needs: the file, the dotted key, the value, what
is allowed, and names that come close to a misspelt one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, UnsetType

from robustbench_lite.core.errors import InputError

T = TypeVar("T")

LARGEST = 1.7976931348623157e308
Text = Annotated[str, Meta(pattern=r"\S", description="a string that is not blank")]
Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=2**53)]  # beyond any data set; exact as a float too
"""A number of things."""
Positive = Annotated[int, Meta(ge=1)]
Fraction01 = Annotated[float, Meta(ge=0, le=1)]
"""A fraction in [0, 1]."""
Sha256 = Annotated[
    str,
    Meta(pattern=r"^sha256:[0-9a-f]{64}\Z", description='"sha256:" and 64 hexadecimal digits'),
]
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits")]
"""A SHA-256 without a prefix."""

_KINDS = {
    "int": "an integer",
    "float": "a finite number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "null",
}
_LIMITS = {">=": "of at least", "<=": "of at most", ">": "above", "<": "below"}
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
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
    error: type[ValueError] = InputError,
    strict: bool = True,
    hook: Callable[[type, Any], Any] | None = None,
) -> T:
    """A record of plain data.

    Args:
        kind: a `Record`, a dataclass, or any other type that msgspec converts to.
        data: mappings, lists, strings, numbers, as JSON and TOML have them.
        source: the file, for messages; empty where the caller names it.
        where: dotted key of `data` in the file; empty for all of it.
        error: the exception that refuses.
        strict: False also takes strings for numbers and truth values, as the command line has them.
        hook: called with a type that msgspec does not know and its value; a ValueError refuses.

    Raises:
        InputError: (or `error`) in one line that names file, key, value and what is allowed.
    """
    if not (words := _stray(kind, data, where)):
        try:
            return msgspec.convert(data, kind, strict=strict, dec_hook=hook)
        except msgspec.ValidationError as refusal:
            words = _explained(kind, data, where, str(refusal))
        except UnicodeEncodeError as refusal:  # half a character, which JSON can write as \ud800
            words = f"a key of {where or 'the file'} is no text: {refusal}"
    raise error(f"{source}: {words}" if source else words) from None


def from_json(
    kind: type[T], content: bytes, source: str, *, error: type[ValueError] = InputError
) -> T:
    """A record of the bytes of a JSON file; see `structured`. NaN and Infinity are no JSON."""
    try:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError as refusal:
            words = _explained(kind, msgspec.json.decode(content), "", str(refusal))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as refusal:
        raise error(f"{source} is no valid JSON: {refusal}") from None
    raise error(f"{source}: {words}")


def type_of(kind: Any, key: str) -> Any:
    """The type of a field, an item or a value of `kind`, without constraints or `None`.

    Args:
        kind: a record, a dataclass, a list, a tuple or a dictionary.
        key: name of the field, or place of the item.
    """
    return _bare(_inner(kind, key))


def _explained(kind: Any, data: Any, where: str, refusal: str) -> str:
    """msgspec's words about `data`, in ours."""
    what, _, path = refusal.partition(" - at `$")
    steps = [key or place for key, place in _STEP.findall(path)]
    kind, data, where = _followed(kind, data, where, steps)
    if found := _MISSING.fullmatch(what):
        return f"missing key {dotted(where, found[1])}"
    if found := _UNKNOWN.fullmatch(what):
        return _unknown(kind, where, found[1])
    value = f"{where or 'the file'} is {shown(data)}"
    if choices := _choices(kind):
        return f"{value}; need one of {', '.join(map(str, choices))}"
    if words := _description(kind):
        return f"{value}; need {words}"
    if found := _EXPECTED.fullmatch(what):
        return f"{value}; need {_need(found[1], found[2])}"
    if what.startswith("Invalid") or what.endswith("out of range"):
        return f"{value}: {what}"
    return f"{where}: {what}" if where else what  # a type's own check has its own words


def _unknown(kind: Any, where: str, key: str) -> str:
    known = list(_fields(_bare(kind)))
    near = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
    return f"unknown key {dotted(where, key)}; {hint}"


def _stray(kind: Any, data: Any, where: str) -> str:
    """The refusal of a key that a dataclass does not have, which msgspec would let pass."""
    kind = _bare(kind)
    if not (dataclasses.is_dataclass(kind) and isinstance(data, Mapping)):
        return ""
    fields = _fields(kind)
    for key, value in data.items():
        if key not in fields:
            return _unknown(kind, where, str(key))
        if found := _stray(fields[key], value, dotted(where, key)):
            return found
    return ""


def dotted(where: str, key: str) -> str:
    """The dotted name of a key below another, on one line whatever stands in the key."""
    text = ascii(key)[1:-1]
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{where}.{text}" if where else text


def _followed(kind: Any, data: Any, where: str, steps: Sequence[str]) -> tuple[Any, Any, str]:
    """Type, value and dotted key at the end of a path; `...` stands for the key that is wrong."""
    for step in steps:
        kind = _inner(kind, step)
        if step == "..." and isinstance(data, Mapping):
            wrong = (str(key) for key, value in data.items() if not _fits(kind, key, value))
            step = next(wrong, step)
        if isinstance(data, Mapping) and step in data:
            data, where = data[step], dotted(where, step)
        elif isinstance(data, list | tuple) and step.isdigit() and int(step) < len(data):
            data, where = data[int(step)], f"{where}[{step}]"
        else:
            break  # an unknown key that looks like the end of a message
    return kind, data, where


def _fits(kind: Any, key: object, value: object) -> bool:
    try:
        msgspec.convert({"value": value}, dict[str, kind])
    except msgspec.ValidationError:
        return False
    return isinstance(key, str)


def _bare(kind: Any) -> Any:
    """A type without its constraints, and without `None` or `UNSET` beside it."""
    while True:
        if typing.get_origin(kind) is Annotated:
            kind = typing.get_args(kind)[0]
        elif typing.get_origin(kind) in (typing.Union, UnionType):
            others = [one for one in typing.get_args(kind) if one not in (NoneType, UnsetType)]
            if len(others) != 1:
                return kind
            kind = others[0]
        else:
            return kind


def _inner(kind: Any, step: str) -> Any:
    """The type of a field, an item or a value."""
    kind = _bare(kind)
    if fields := _fields(kind):
        return fields.get(step, Any)
    inner = typing.get_args(kind)
    if not inner:
        return Any
    if typing.get_origin(kind) is tuple and step.isdigit() and len(inner) > int(step):
        return inner[0] if inner[-1] is ... else inner[int(step)]
    return inner[0] if typing.get_origin(kind) is tuple else inner[-1]


def _fields(kind: Any) -> dict[str, Any]:
    """Keys of a record or a dataclass, and their types; empty for any other type."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    elif dataclasses.is_dataclass(kind):
        names = {field.name: field.name for field in dataclasses.fields(kind)}
    else:
        return {}
    hints = typing.get_type_hints(kind, include_extras=True)
    return {key: hints[name] for name, key in names.items()}


def _description(kind: Any) -> str:
    """What a type says itself of its values."""
    notes = typing.get_args(kind)[1:] if typing.get_origin(kind) is Annotated else ()
    return next((note.description for note in notes if note.description), "")


def _choices(kind: Any) -> tuple[Any, ...]:
    kind = _bare(kind)
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _need(kinds: str, limit: str) -> str:
    """`int | null` and ` >= 1` as words."""
    names = " or ".join(_KINDS.get(kind, kind) for kind in kinds.split(" | "))
    limit = limit.partition(", got")[0].strip()
    if str(LARGEST) in limit or not limit:
        return names
    for sign, words in _LIMITS.items():
        limit = limit.replace(sign, words)
    return f"{names} {limit}"
