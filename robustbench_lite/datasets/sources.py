"""A user's own images as a split: `folder:DIR`, `parquet:DIR` and `npz:FILE`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Arrays, check_arrays, content_hash
from robustbench_lite.datasets.catalogue import check_split_name
from robustbench_lite.datasets.in_memory import is_pair, read
from robustbench_lite.datasets.info import DatasetInfo, Resize
from robustbench_lite.datasets.readers.class_folders import (
    SPLIT_NAMES,
    labelled_files,
    read_class_folders,
    split_folder,
)
from robustbench_lite.datasets.readers.decoded_cache import cache_path, decode_once, file_identity
from robustbench_lite.datasets.readers.npz import as_images, as_labels, read_npz
from robustbench_lite.datasets.splits import Source, Split


@dataclass(frozen=True)
class Wanted:
    """What a user says of their own data.

    Args:
        image_size: (height, width) that every image is brought to: scaled to cover it, then its
            middle is cut out; None takes images of one size as they are.
        classes: names of all classes, in the order of the labels; None reads them off the data.
    """

    image_size: tuple[int, int] | None = None
    classes: tuple[str, ...] | None = None


def load_source(
    name: str, split: str, wanted: Wanted, *, data_dir: Path | None, cache: Path
) -> Split:
    """Load a split of a user's own images.

    Args:
        name: `folder:DIR`, `parquet:DIR` or `npz:FILE`.
        split: `"train"` or `"test"`.
        wanted: size and classes.
        data_dir: the folder that a path which is not absolute starts from; None: where we are.
        cache: where decoded images are kept.

    Returns:
        The split, named by the last part of the path; float32 images are in [0, 1].

    Raises:
        InputError: for whatever cannot be read, or is not clear.
    """
    prefix, _, place = name.partition(":")
    check_split_name(split)
    path = (data_dir or Path()) / Path(place).expanduser()
    called = f"{prefix}:{path.resolve().name}"
    if not place or not (path.is_file() if prefix == "npz" else path.is_dir()):
        what = "file" if prefix == "npz" else "folder"
        cure = "; unpack it first" if path.is_file() else ""
        raise InputError(f"--dataset {name}: {path} is no {what}{cure}")
    return {"folder": _folder, "parquet": _parquet, "npz": _npz}[prefix](
        called, path, split, wanted, cache
    )


def parse_size(text: str) -> tuple[int, int]:
    """`224` or `224x192` to (height, width).

    Raises:
        InputError: for anything else, or a side outside 1 to 4096.
    """
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(one.isascii() and one.isdigit() for one in sides):
        height, width = int(sides[0]), int(sides[-1])
        if min(height, width) >= 1 and max(height, width) <= 4096:
            return height, width
    raise InputError(f"--image-size {text!r}: give N or HEIGHTxWIDTH, of 1 to 4096 pixels")


def read_classes(text: str) -> tuple[str, ...]:
    """Class names: of a file with one a line, or of a number of classes their labels.

    Raises:
        InputError: a file that cannot be read, fewer than two names, or one twice.
    """
    if text.isascii() and text.isdigit() and len(text) < 7:
        names = [str(label) for label in range(int(text))]
    else:
        try:
            lines = Path(text).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
            raise InputError(
                f"--classes {text} cannot be read: {why}; give a file with one class a line, or "
                "the number of classes"
            ) from error
        names = [line.strip() for line in lines if line.strip()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"--classes {text} names {twice!r} twice; name each class once")
    if len(names) < 2:
        raise InputError(f"--classes {text} has {len(names)} classes; at least 2 are needed")
    return tuple(names)


def own_split(made: object, name: str, split: str, classes: tuple[str, ...] | None) -> Split:
    """A split of what a user's factory gave.

    Args:
        made: a `Split`; a pair (images, labels) of arrays or tensors as in an .npz; or a
            `DataLoader` or `Dataset`, as `in_memory.read` takes them.
        name: of the data.
        split: `"train"` or `"test"`.
        classes: names of all classes; None numbers them to the largest label.

    Raises:
        InputError: for anything else, and as of `read_npz` and `in_memory.read`.
    """
    if isinstance(made, Split):  # whatever it says of its origin, code of the user's made it
        return replace(made, source="in memory", whole_hash=None, is_subset=False)
    if is_pair(made):
        images, labels = (
            one.detach().cpu().numpy() if isinstance(one, torch.Tensor) else np.asarray(one)
            for one in made
        )
        pixels = as_images(images, f"{name}: images")
    elif isinstance(made, Iterable) or hasattr(made, "__getitem__"):
        x, y = (one.cpu().numpy() for one in read(made, None, name))
        pixels, labels = x, y
    else:
        raise InputError(
            f"--dataset {name} gives a {type(made).__name__}; it must give a pair (images, "
            "labels), a Dataset, a DataLoader or a Split"
        )
    arrays = Arrays(pixels, as_labels(labels, f"{name}: labels"))
    return _of_arrays(arrays, name, name, split, classes, "in memory")


def _folder(name: str, path: Path, split: str, wanted: Wanted, cache: Path) -> Split:
    files, labels, names = labelled_files(split_folder(path, split), wanted.classes)
    info = _facts(name, files[0].read_bytes(), str(files[0]), wanted, names)
    identity = (*file_identity(files), *map(str, labels))

    def read() -> Arrays:
        return check_arrays(read_class_folders(files, labels, info), info, name)

    return _cached(info, split, identity, read, cache, "class folders")


def _parquet(name: str, path: Path, split: str, wanted: Wanted, cache: Path) -> Split:
    from robustbench_lite.datasets.readers import parquet

    shards = _shards(path, split)
    image, label = parquet.own_columns(shards[0])
    names = wanted.classes or parquet.own_classes(shards, label)
    first = parquet.first_image(shards[0], image)
    info = _facts(name, first, f"row 0 of {shards[0]}", wanted, names, label_columns=(label,))
    identity = file_identity(shards)
    return _cached(
        info, split, identity, lambda: parquet.read_parquet(shards, info), cache, "local parquet"
    )


def _npz(name: str, path: Path, split: str, wanted: Wanted, cache: Path) -> Split:
    del cache  # it is decoded already
    arrays = read_npz(path, split)
    size = arrays.images.shape[2:]
    if wanted.image_size not in (None, size):
        raise InputError(
            f"{path} holds images of {size[0]}x{size[1]}, which --image-size does not change: "
            "resize them before saving, or leave it out"
        )
    return _of_arrays(arrays, name, str(path), split, wanted.classes, "npz file")


def _of_arrays(
    arrays: Arrays,
    name: str,
    where: str,
    split: str,
    classes: tuple[str, ...] | None,
    source: Source,
) -> Split:
    _, channels, height, width = arrays.images.shape
    if len(arrays.labels) and arrays.labels.min() < 0:
        raise InputError(f"{where}: label {arrays.labels.min()}; labels count from 0")
    names = classes or _numbered(int(arrays.labels.max(initial=0)) + 1, where)
    facts = _info(name, channels, (height, width), names)
    check_arrays(arrays, facts, where)
    return _split(facts, split, arrays, content_hash(*arrays), source)


def _shards(folder: Path, split: str) -> list[Path]:
    """Parquet files of a split; of a folder without split names all of them, as test."""
    from robustbench_lite.datasets.readers.parquet import natural, shards_of

    known = [name for names in SPLIT_NAMES.values() for name in names]
    for name in SPLIT_NAMES[split]:
        if shards := shards_of(folder, name):
            return shards
    every = sorted(folder.rglob("*.parquet"), key=natural)
    other = [path for path in every if path.name.partition("-")[0] in known]
    if every and not other and split == "test":
        return every
    there = ", ".join(path.name for path in every[:4]) or "no .parquet file"
    raise InputError(f"{folder} holds {there}; its {split} split needs {split}-*.parquet")


def _facts(
    name: str,
    first: bytes | None,
    where: str,
    wanted: Wanted,
    names: Sequence[str],
    label_columns: tuple[str, ...] = ("label",),
) -> DatasetInfo:
    """The facts of encoded images: those of the first one hold for all."""
    from robustbench_lite.datasets.readers.image_bytes import first_form

    channels, size, sixteen_bit = first_form(first, where)
    return _info(
        name,
        channels,
        wanted.image_size or size,
        names,
        label_columns=label_columns,
        sixteen_bit=sixteen_bit,
        resize=None if wanted.image_size is None else Resize(cover=wanted.image_size),
    )


def _info(
    name: str,
    channels: int,
    image_size: tuple[int, int],
    names: Sequence[str],
    *,
    label_columns: tuple[str, ...] = ("label",),
    sixteen_bit: bool = False,
    resize: Resize | None = None,
) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        num_classes=len(names),
        channels=channels,
        image_size=image_size,
        mean=(),  # `Split.facts` measures them where they are needed
        std=(),
        augmentation="none",
        class_names=tuple(names),
        label_columns=label_columns,
        to_rgb=("P",) if channels == 3 else (),
        resize=resize,
        sixteen_bit=sixteen_bit,
        own=True,
    )


def _numbered(count: int, where: str) -> tuple[str, ...]:
    if count < 2:
        raise InputError(f"{where} has label 0 only: give the number of classes with --classes K")
    return tuple(str(label) for label in range(count))


def _cached(
    info: DatasetInfo,
    split: str,
    identity: Sequence[str],
    read: Callable[[], Arrays],
    cache: Path,
    source: Source,
) -> Split:
    resized = f"{info.image_size} {info.resize}"
    path = cache_path(cache, info.name, split, (*identity, resized, *info.class_names))
    arrays, digest = decode_once(path, info, read)
    return _split(info, split, arrays, digest, source)


def _split(info: DatasetInfo, split: str, arrays: Arrays, digest: str, source: Source) -> Split:
    return Split(
        name=info.name,
        split=split,
        images=torch.from_numpy(arrays.images),
        labels=torch.from_numpy(arrays.labels),
        num_classes=info.num_classes,
        source=source,
        whole_hash=digest,
        class_names=info.class_names,
    )
