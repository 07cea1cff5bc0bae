"""Finding stored results in and below folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from robustbench_lite.core.errors import ResultError

RESULT_FILE = "result.json"


def find_results(paths: Iterable[str | Path]) -> list[Path]:
    """Every stored result in or below some paths.

    Args:
        paths: result files, or folders searched at any depth for `result.json` (links to folders
            are not followed).

    Returns:
        The files, sorted by name, each once.

    Raises:
        ResultError: for a path that does not exist or a folder that cannot be read.
    """
    return [Path(name) for name, _ in found_files(paths, _raise)]


def found_files(
    paths: Iterable[str | Path], refuse: Callable[[ResultError], None]
) -> list[tuple[str, bool]]:
    """The same with whether the user named the very file.

    Args:
        paths: as of `find_results`.
        refuse: gets what is wrong with a folder further down.

    Returns:
        Pairs of a name and whether it is one of `paths`, sorted by name.

    Raises:
        ResultError: for a path that does not exist, a picture, or one of them that cannot be read.
    """
    found: dict[str, str] = {}  # what a name leads to -> the first of its names
    named = set()
    for path in map(Path, paths):
        if path.is_dir():
            pairs = list(_files_below(str(path), refuse))
        elif path.suffix in (".svg", ".png"):  # `rbl evaluate` puts a curve beside its results
            raise ResultError(f"{path}: a picture, no result; give a {RESULT_FILE} or a folder")
        elif path.exists():
            pairs = [(os.path.realpath(path), str(path))]
            named.add(pairs[0][0])
        else:
            raise ResultError(f"{path}: not found; give a result file or a folder of results")
        for real, name in pairs:
            found[real] = min(name, found.get(real, name))
    return sorted((name, real in named) for real, name in found.items())


def _raise(error: ResultError) -> None:
    raise error


def _files_below(folder: str, refuse: Callable[[ResultError], None]) -> Iterator[tuple[str, str]]:
    """Real paths and names; a link in the way is looked up only where there is one."""
    root, waiting = os.path.realpath(folder), [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                found = list(entries)
        except OSError as error:
            problem = ResultError(f"{error.filename}: cannot be read: {error.strerror}")
            if place == folder:
                raise problem from None
            refuse(problem)
            continue
        waiting += [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
        for name in [entry for entry in found if entry.name == RESULT_FILE and not entry.is_dir()]:
            if name.is_symlink():
                yield os.path.realpath(name.path), name.path
            else:
                yield os.path.join(root, name.path[len(folder) :].lstrip(os.sep)), name.path
