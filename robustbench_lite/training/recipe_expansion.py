"""Recipes with a base: which files there are, and what a recipe says once its bases are read."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from robustbench_lite.core.errors import InputError

BASE = "base"
WHOLE = frozenset({("model", "options")})
"""Tables that count as one value: their keys are free, so a recipe that has one lists them all."""


class Word(str):
    """A value as the command line has it; its key's type says what it means."""


@dataclass(frozen=True)
class Origin:
    """Where the keys of a recipe stand, for messages.

    Args:
        file: the recipe's own file.
        stands_in: the file of each dotted key, such as `"training.epochs"`.
    """

    file: str
    stands_in: Mapping[str, str] = field(default_factory=dict)

    @property
    def inherits(self) -> bool:
        """Whether any key stands in another file."""
        return any(file != self.file for file in self.stands_in.values())

    def of(self, *keys: str) -> str:
        """The one file in which these keys or sections stand; the recipe's own if there is none."""
        found = {
            file
            for known, file in self.stands_in.items()
            if any(known == key or known.startswith(f"{key}.") for key in keys)
        }
        return found.pop() if len(found) == 1 else self.file


@dataclass(frozen=True)
class ExpandedRecipe:
    """A recipe with the keys of its bases.

    Args:
        data: sections of keys, without `base`.
        origin: where each key stands.
        bases: files of the bases, the nearest first.
    """

    data: dict[str, Any]
    origin: Origin
    bases: tuple[Path, ...]


@dataclass(frozen=True)
class _Value:
    """A value, and the file it stands in."""

    value: Any
    file: str


def shipped_files() -> tuple[dict[str, Path], dict[str, Path]]:
    """The shipped recipes and the shipped bases, each a file by its name.

    A file whose name starts with `_` is a base: recipes complete it, and it is never trained. Its
    name in `base = "..."` is without the `_`.
    """
    folder = Path(str(files("robustbench_lite.defenses.recipes")))
    found = {path.stem: path for path in sorted(folder.rglob("*.toml"), key=lambda p: p.stem)}
    recipes = {name: path for name, path in found.items() if not name.startswith("_")}
    return recipes, {name[1:]: path for name, path in found.items() if name.startswith("_")}


def expand(path: Path) -> ExpandedRecipe:
    """Read a recipe file, and lay its keys over those of its base, and of that one's base.

    Tables are merged key by key, with two exceptions: a section that names another choice than its
    base (`[defense] name = ...`) keeps nothing of the base's section, so that keys of two methods
    never mix; and `model.options` is replaced as a whole.

    Args:
        path: of a TOML file. Its `base` is the name of a shipped recipe or base, or the path of
            a `.toml` file, relative to the file in which it stands.

    Raises:
        InputError: for a file that is no TOML, an unknown base, or bases that go in a circle.
    """
    chain = [path]
    layers = []
    while True:
        data = _read(chain[-1])
        base = data.pop(BASE, None)
        layers.append(_with_file(data, str(chain[-1])))
        if base is None:
            break
        below = _find_base(base, chain[-1])
        if below.resolve() in {file.resolve() for file in chain}:
            circle = " -> ".join(str(file) for file in (*chain, below))
            raise InputError(f"recipe {path}: its bases go in a circle: {circle}")
        chain.append(below)
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged.pop("name", None)  # a recipe's own name is not inherited
        merged = _merge(merged, layer)
    return ExpandedRecipe(_values(merged), Origin(str(path), _files(merged)), tuple(chain[1:]))


def with_overrides(expanded: ExpandedRecipe, overrides: Sequence[str]) -> ExpandedRecipe:
    """The recipe with single keys set as flags say, after all its files.

    Args:
        expanded: the recipe.
        overrides: `["--training.epochs", "3", "--defense.crafting.eps=8/255"]`.

    Raises:
        InputError: for a flag without a value, or of no section.
    """
    data, stands_in = deepcopy(expanded.data), dict(expanded.origin.stands_in)
    for key, value in _pairs(overrides, stands_in):
        _set(data, key, value)
        stands_in[key] = expanded.origin.file
    return ExpandedRecipe(data, Origin(expanded.origin.file, stands_in), expanded.bases)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} is no valid TOML: {error}") from None


def _find_base(base: object, path: Path) -> Path:
    """The file that `base` in the file `path` means."""
    recipes, bases = shipped_files()
    if isinstance(base, str) and base.endswith(".toml"):
        file = path.parent / base
        if not file.is_file():
            raise InputError(f"recipe {path}: base={base!r} does not exist: no file {file}")
        return file
    known = {**recipes, **bases}
    if not isinstance(base, str) or base not in known:
        near = " or ".join(difflib.get_close_matches(str(base), known, n=3, cutoff=0.5))
        raise InputError(
            f"recipe {path}: unknown base {base!r}; {f'did you mean {near}? ' if near else ''}"
            f"allowed: one of {', '.join(sorted(bases))}, a name of `rbl list recipes`, or the "
            "path of a .toml file"
        )
    return known[base]


def _with_file(data: Mapping[str, Any], file: str, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The same tree with a `_Value` for each value."""
    return {
        key: _with_file(value, file, (*path, key))
        if isinstance(value, dict) and (*path, key) not in WHOLE
        else _Value(value, file)
        for key, value in data.items()
    }


def _merge(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in own.items():
        under = merged.get(key)
        if isinstance(value, dict) and isinstance(under, dict) and not _another(under, value):
            merged[key] = _merge(under, value)
        else:
            merged[key] = value
    return merged


def _another(below: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether two sections name different choices."""
    names = [
        name.value for section in (below, own) if isinstance(name := section.get("name"), _Value)
    ]
    return len(names) == 2 and names[0] != names[1]


def _values(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: inner.value if isinstance(inner, _Value) else _values(inner)
        for key, inner in tree.items()
    }


def _files(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys and the file of each."""
    found = {}
    for key, inner in tree.items():
        if isinstance(inner, _Value):
            found[prefix + key] = inner.file
        else:
            found |= _files(inner, f"{prefix}{key}.")
    return found


def _pairs(overrides: Sequence[str], keys: Iterable[str]) -> list[tuple[str, str]]:
    """`--a.b 1 --c.d=2` to [("a.b", "1"), ("c.d", "2")]; `keys` are what may be meant."""
    pairs, rest = [], list(overrides)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or "." not in word:
            raise InputError(
                f"unknown argument {word!r}: {_meant_keys(word, keys)}recipe keys are overridden "
                "as --section.key VALUE"
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise InputError(f"{word} has no value")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def _meant_keys(word: str, keys: Iterable[str]) -> str:
    """The keys of the recipe that an argument without a section may mean: `--training.epochs` for
    `--epochs`."""
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    by_last: dict[str, list[str]] = {}
    for key in keys:
        by_last.setdefault(key.rpartition(".")[2], []).append(f"--{key}")
    near = [name] if name in by_last else difflib.get_close_matches(name, by_last, n=1)
    return f"did you mean {' or '.join(sorted(by_last[near[0]]))}? " if near else ""


def _set(data: dict[str, Any], key: str, value: str) -> None:
    *path, last = key.split(".")
    place: Any = data
    for part in path:
        place = place.setdefault(part, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise InputError(f"--{key}: no such section in the recipe")
    place[last] = Word(value)
