"""Imports of a user's code: the files beside it come first, as in `python FILE.py`.

Two networks of two folders may both have a package `models`. So the modules of a folder are in
`sys.modules` only while code of that folder runs, and no other import ever meets them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

# What our own code has imported already stays what it is, whatever lies in the folder.
_OURS = {"robustbench_lite", "torch", "numpy", *sys.stdlib_module_names}


class FolderImports:
    """What is imported from one folder, apart from what others import by the same names.

    Args:
        folder: of the code; searched before everything that is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._names = {path.stem for path in self.folder.iterdir()} - _OURS
        self._modules: dict[str, ModuleType] = {}
        self._found: set[str] = set()

    def __deepcopy__(self, memo: object) -> FolderImports:
        return self  # the modules of a copied network are the same

    @contextmanager
    def active(self) -> Iterator[None]:
        """A block in which the folder is importable; what it imports is kept for the next block."""
        if self in sys.meta_path:
            yield
            return
        hidden = _taken_out({name for name in self._names & {*sys.modules} if self._spec(name)})
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            self._modules = _taken_out(self._found)
            sys.modules.update(hidden)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the import system asks: the module of this name in the folder, if there is one."""
        if path is not None or name not in self._names:  # a package says itself where its parts lie
            return None
        spec = self._spec(name)
        if spec is not None:
            self._found.add(name)
        return spec

    def _spec(self, name: str) -> ModuleSpec | None:
        """Of a top-level name; None where Python itself would find the same file, or a better one:
        a folder without `__init__.py` comes after any package."""
        here = PathFinder.find_spec(name, [str(self.folder)])
        if here is None:
            return None
        usual = getattr(sys.modules.get(name), "__spec__", None) or PathFinder.find_spec(name)
        if usual is None or (here.origin is not None and here.origin != usual.origin):
            return here
        folders = {*(usual.submodule_search_locations or ())}
        same = usual.origin is not None or str(self.folder / name) in folders
        return None if same else here


def _taken_out(tops: set[str]) -> dict[str, ModuleType]:
    """Remove modules of these top-level names, and what lies in them, from `sys.modules`."""
    names = [name for name in sys.modules if name.partition(".")[0] in tops]
    return {name: sys.modules.pop(name) for name in names}
