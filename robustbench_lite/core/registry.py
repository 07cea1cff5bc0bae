"""Names to objects, read-only, lazy: listing what exists imports nothing heavy."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import described


@dataclass(frozen=True)
class Entry:
    """One registered thing: where it lives and what to say of it in a list.

    Args:
        target: `"package.module:object"`, imported only when the object is asked for.
        summary: one line for `rbl list`.
        source: paper, equation or data sheet; for a third party the distribution's name.
        status: how it relates to its source where that needs saying: `"faithful"` to the authors'
            code or text, `"reconstruction"`, or `"from memory"`.
    """

    target: str
    summary: str
    source: str = ""
    status: str = ""


class Registry(Mapping[str, Entry]):
    """A read-only mapping from names to entries, joined by third-party entry points.

    Args:
        kind: singular noun for messages, such as `"attack"`.
        entries: what this package ships.
        entry_point_group: group under which other distributions add names, or None.
    """

    def __init__(
        self, kind: str, entries: Mapping[str, Entry], entry_point_group: str | None = None
    ) -> None:
        self.kind = kind
        self._own = dict(entries)
        self._group = entry_point_group
        self._all: dict[str, Entry] | None = None
        self._clashes: dict[str, str] = {}

    def _entries(self) -> dict[str, Entry]:
        if self._all is None:
            self._all = dict(self._own)
            for point in entry_points(group=self._group) if self._group else ():
                origin = point.dist.name if point.dist else "unknown distribution"
                entry = Entry(point.value, f"from {origin}", origin)
                if self._all.setdefault(point.name, entry) is not entry:
                    self._clashes[point.name] = (
                        f"{self.kind} {point.name!r} of {origin} is registered already; "
                        "names are unique: rename or uninstall one"
                    )
        return self._all

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries():
            raise InputError(unknown_name(self.kind, name, self))
        return self._entries()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries()))

    def __len__(self) -> int:
        return len(self._entries())

    def load(self, name: str) -> Any:
        """Import and return the object registered under `name`.

        Raises:
            InputError: for an unknown name (near matches are suggested), one that two
                distributions register, or a target that cannot be imported.
        """
        module_name, _, attribute = self[name].target.partition(":")
        if name in self._clashes:
            raise InputError(self._clashes[name])
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except Exception as error:  # a module of somebody else may raise anything
            raise InputError(
                f"{self.kind} {name!r} cannot be imported from {self[name].target!r}: "
                f"{described(error)}"
            ) from error


def unknown_name(kind: str, name: str, known: Mapping[str, object], *, meant: str = "") -> str:
    """The message for a name nobody registered: near matches first, then all, or where they are.

    Args:
        kind: singular noun.
        name: the unknown one.
        known: all names.
        meant: the known name that the unknown one usually means, where it is spelled otherwise.
    """
    near = [meant] if meant else difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if len(known) > 25:
        return f"unknown {kind} {name!r}; {hint}`rbl list {kind}s` names all {len(known)}"
    return f"unknown {kind} {name!r}; {hint}available: {', '.join(sorted(known))}"
