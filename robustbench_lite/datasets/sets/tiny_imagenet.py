"""Reader of the official Tiny ImageNet zip; the labelled validation images serve as test."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Arrays
from robustbench_lite.datasets.catalogue import DatasetInfo
from robustbench_lite.datasets.readers.image_bytes import decode_images

_ROOT = "tiny-imagenet-200"
_TRAIN = re.compile(rf"{_ROOT}/train/(n\d{{8}})/images/n\d{{8}}_(\d+)\.JPEG")
_VALIDATION = re.compile(rf"{_ROOT}/val/images/val_(\d+)\.JPEG")
_ANNOTATIONS = f"{_ROOT}/val/val_annotations.txt"


def read_tiny_imagenet(path: Path, info: DatasetInfo, split: str) -> Arrays:
    """Decode one split of the zip in memory.

    Train is ordered by class (label), then by image number; test (the archive's `val`; its own
    `test` has no labels) by image number. Pixels come from JPEG, so another build of the JPEG
    library may differ in single grey levels; the archive is the same.

    Args:
        path: the zip, its hash checked before.
        info: the data set's facts; class names are the folder names.
        split: `"train"` or `"test"`.

    Returns:
        images uint8 (N, 3, 64, 64), labels int64 (N,).

    Raises:
        InputError: a damaged zip, a missing member, an unknown class, or an undecodable image.
    """
    labels_of = {name: label for label, name in enumerate(info.class_names)}
    try:
        with zipfile.ZipFile(path) as archive:
            if split == "train":
                rows = _train_rows(archive, labels_of, path)
            else:
                rows = _validation_rows(archive, labels_of, path)
            encoded = [archive.read(member) for _, _, member in rows]
    except (OSError, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error
    images = decode_images(encoded, info, lambda row: f"{rows[row][2]} in {path}")
    return Arrays(images, np.array([label for label, _, _ in rows], dtype=np.int64))


def _train_rows(
    archive: zipfile.ZipFile, labels_of: dict[str, int], path: Path
) -> list[tuple[int, int, str]]:
    """(label, image number, member), ascending."""
    found = [match for name in archive.namelist() if (match := _TRAIN.fullmatch(name))]
    return sorted((_label(m[1], labels_of, path), int(m[2]), m[0]) for m in found)


def _validation_rows(
    archive: zipfile.ZipFile, labels_of: dict[str, int], path: Path
) -> list[tuple[int, int, str]]:
    """(label, image number, member), by image number."""
    lines = archive.read(_ANNOTATIONS).decode("utf-8").splitlines()
    classes = dict(line.split("\t")[:2] for line in lines if "\t" in line)
    rows = []
    for name in archive.namelist():
        match = _VALIDATION.fullmatch(name)
        if match is None:
            continue
        file_name = name.rpartition("/")[2]
        if file_name not in classes:
            raise _damaged(path, f"{_ANNOTATIONS} has no label for {file_name}")
        rows.append((_label(classes[file_name], labels_of, path), int(match[1]), name))
    return sorted(rows, key=lambda row: row[1])


def _label(name: str, labels_of: dict[str, int], path: Path) -> int:
    if name not in labels_of:
        raise _damaged(path, f"{name!r} is not one of the 200 classes")
    return labels_of[name]


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(
        f"{path} cannot be read as Tiny ImageNet: {reason}; delete it and download it again"
    )
