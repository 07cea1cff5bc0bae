"""Put a finished folder in its place at once: readers see the old one or the new one."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from pathlib import Path

from robustbench_lite.core.stopping import held, remove_when_stopped

_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h


def staging_folder(target: Path) -> Path:
    """A name beside `target` (same file system) that no other process uses.

    What lies there is removed should this process be stopped; otherwise its user removes it.
    """
    staged = target.parent / f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    remove_when_stopped(staged, folder=True)
    return staged


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk.

    Raises:
        OSError: from the file system.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(
    staged: Path, target: Path, *, order: tuple[str, ...], beside: tuple[str, ...] = ()
) -> None:
    """Move a complete staged folder to `target`; what `staged` then holds is to be deleted.

    A new target is one rename. An existing one that has all files of `order` is exchanged for the
    staged folder, its other files kept by hard link. One that has not, such as a run folder
    before its first checkpoint, gets the files one by one, the last of `order` making it complete.

    Args:
        staged: from `staging_folder`, complete and synced.
        target: a real path (no link).
        order: names of the files in `staged`.
        beside: names of its files that a complete folder may lack; moved before the others.

    Raises:
        OSError: from the file system; `target` is then as it was.
    """
    if not target.exists():
        staged.rename(target)
    elif not all((target / name).is_file() for name in order):
        for name in (*beside, *order):
            os.replace(staged / name, target / name)
        sync(target)
    else:
        _keep_other_files(target, staged, (*beside, *order))
        if not _exchange(staged, target):
            _swap_by_two_renames(staged, target)
    sync(target.parent)


def _keep_other_files(source: Path, destination: Path, replaced: tuple[str, ...]) -> None:
    for entry in source.iterdir():
        if entry.name in replaced:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(
                entry, destination / entry.name, symlinks=True, copy_function=_link_or_copy
            )
        else:
            _link_or_copy(str(entry), str(destination / entry.name))


def _link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, destination, follow_symlinks=False)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where kernel or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    paths = os.fsencode(first), os.fsencode(second)
    return bool(renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)


def _swap_by_two_renames(staged: Path, target: Path) -> None:
    old = staged.with_name(staged.name + "-old")
    with held():  # between the two there is no target
        target.rename(old)
        try:
            staged.rename(target)
        except OSError:
            old.rename(target)
            raise
    shutil.rmtree(old, ignore_errors=True)
