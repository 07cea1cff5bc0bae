"""Folders of images: a sub-folder a class, with or without a folder a split above."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Arrays
from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.image_bytes import decode_images

SPLIT_NAMES = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
_READ = {".png", ".jpg", ".jpeg"}
_OTHER = {".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".avif", ".npy"}
_IGNORED = {"__MACOSX"}


class FileBytes(Sequence[bytes]):
    """Files as a sequence of their contents, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> bytes:  # type: ignore[override]
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise InputError(f"{self.paths[row]} cannot be read: {error.strerror}") from error


def split_folder(folder: Path, split: str) -> Path:
    """The folder that holds the classes of a split.

    Args:
        folder: with a sub-folder a split (`train`; `test`, `val`, `valid` or `validation`), or with
            one a class, which then is its test split.
        split: `"train"` or `"test"`.

    Raises:
        InputError: when it has other splits only, or is asked for a train split that it has not.
    """
    known = {name for names in SPLIT_NAMES.values() for name in names}
    there = {path.name: path for path in _folders(folder) if path.name.lower() in known}
    for name in SPLIT_NAMES[split]:
        for path in there.values():
            if path.name.lower() == name:
                return path
    if there:
        raise InputError(
            f"{folder} has {', '.join(sorted(there))} but no {split} split: make a sub-folder "
            f"{split} with one sub-folder a class, or give --split"
        )
    if split == "train":
        raise InputError(
            f"{folder} is not divided into splits, and its images are taken as the test split: to "
            f"train, make {folder}/train and {folder}/test with one sub-folder a class in each"
        )
    return folder


def labelled_files(
    folder: Path, classes: Sequence[str] | None
) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Images below class folders: class by class, each sorted by path.

    Args:
        folder: with one sub-folder a class.
        classes: their names in the order of the labels; None sorts those that are there.

    Returns:
        Files, their labels, and the class names.

    Raises:
        InputError: no class folders, one of no class, an empty one, images beside them, or an
            order that is not clear.
    """
    folders = _folders(folder)
    if not folders:
        loose = next((path for path in folder.iterdir() if path.suffix.lower() in _READ), None)
        why = f"{loose.name} lies in it directly" if loose else "it has no sub-folder"
        raise InputError(f"{folder}: {why}; put the images into one sub-folder a class")
    names = _ordered_names([path.name for path in folders], folder, classes)
    files: list[Path] = []
    labels: list[int] = []
    for path in sorted(folders, key=lambda one: names.index(one.name)):
        images = _images(path)
        files += images
        labels += [names.index(path.name)] * len(images)
    return files, labels, names


def read_class_folders(files: Sequence[Path], labels: Sequence[int], info: DatasetInfo) -> Arrays:
    """Decode what `labelled_files` found; see `decode_images`."""
    images = decode_images(FileBytes(files), info, lambda row: str(files[row]))
    return Arrays(images, np.array(labels, dtype=np.int64))


def _ordered_names(
    there: list[str], folder: Path, classes: Sequence[str] | None
) -> tuple[str, ...]:
    """The names of all classes, in the order of the labels."""
    if classes is not None:
        if unknown := sorted(set(there) - set(classes)):
            raise InputError(
                f"{folder}/{unknown[0]} is none of the {len(classes)} classes of --classes "
                f"({', '.join(classes[:4])}, ...): name every sub-folder"
            )
        return tuple(classes)
    names = tuple(sorted(there))
    if len(names) < 2:
        raise InputError(
            f"{folder} has one class, {names[0]}: at least 2 sub-folders are needed, or --classes "
            "with the names of all"
        )
    numbers = all(name.isdecimal() for name in names)
    pairs = itertools.pairwise(names)
    if numbers and (pair := next((p for p in pairs if int(p[0]) > int(p[1])), None)):
        raise InputError(
            f"{folder}: as text, class {pair[0]} sorts before {pair[1]}, as numbers not: give "
            "the order of the labels, a name a line, with --classes FILE"
        )
    return names


def _images(folder: Path) -> list[Path]:
    """PNG and JPEG files at any depth below one class folder, never empty."""
    found = sorted(path for path in folder.rglob("*") if not path.name.startswith("."))
    files = [path for path in found if path.is_file()]
    for path in files:
        if path.suffix.lower() in _OTHER:
            raise InputError(f"{path}: only PNG and JPEG images are read; convert it")
    images = [path for path in files if path.suffix.lower() in _READ]
    if not images:
        raise InputError(f"class folder {folder} holds no PNG or JPEG image: fill or remove it")
    return images


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in _IGNORED
    )
