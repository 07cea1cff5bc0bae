"""Reader of the Hugging Face Parquet layout: shards `{split}-*.parquet` of encoded images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Arrays, check_arrays
from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.image_bytes import decode_images

_IMAGE_COLUMNS = ("img", "image")
_OWN_LABELS = ("label", "labels", "fine_label", "class", "target", "y")  # of a user's files
_SHARD = re.compile(r"-(\d+)-of-(\d+)")


def find_shards(folder: Path, info: DatasetInfo, split: str) -> tuple[Path, ...]:
    """All Parquet shards of one split below a folder.

    Args:
        folder: searched recursively for `{split}-*.parquet` (Tiny ImageNet: `valid-*` as test).
        info: the data set; where shards lie in several folders, one whose path names the data set
            is preferred.
        split: `"train"` or `"test"`.

    Returns:
        The shards in natural order (2 before 10); empty when there are none.

    Raises:
        InputError: shards of several data sets or versions that cannot be told apart, or a shard
            of the numbered set is missing.
    """
    prefix = info.hub_splits.get(split, split)
    found = _named_shards(folder, prefix)
    parents = sorted({path.parent for path in found})
    if len(parents) > 1:
        names = {info.name, info.name.replace("_", "-"), *info.hub_folders}
        parents = _named(parents, folder, set(info.hub_folders)) or _named(parents, folder, names)
        if len(parents) != 1:
            where = sorted({str(path.parent) for path in found})
            raise InputError(
                f"{prefix}-*.parquet lies in {len(where)} folders below {folder}: "
                f"{', '.join(where[:4])}; point --data-dir at the one that holds {info.name}"
            )
    shards = sorted((path for path in found if path.parent in parents), key=natural)
    _check_complete(shards)
    return tuple(shards)


def shards_of(folder: Path, prefix: str) -> list[Path]:
    """All `{prefix}-*.parquet` below a user's folder, in natural order; empty without any.

    Raises:
        InputError: when a shard of a numbered set is missing.
    """
    shards = sorted(_named_shards(folder, prefix), key=natural)
    _check_complete(shards)
    return shards


def _named_shards(folder: Path, prefix: str) -> list[Path]:
    return [path for path in folder.rglob(f"{prefix}-*.parquet") if path.is_file()]


def read_parquet(shards: Sequence[Path], info: DatasetInfo) -> Arrays:
    """Decode all shards of one split.

    When a file's metadata name the classes in another order than ours, labels are renumbered to
    ours (the hub's Tiny ImageNet needs it, see `TINY_IMAGENET_ALIASES`).

    Args:
        shards: Parquet files, each with a struct column `img` or `image` whose field `bytes` holds
            PNG or JPEG files, and an integer column `label` (CIFAR-100: `fine_label`).
        info: the data set it should be.

    Returns:
        images uint8 (N, C, H, W), labels int64 (N,), rows in file order.

    Raises:
        InputError: a damaged file, wrong columns, an undecodable image (with file and row), another
            image size, mode or label range than the data set has, or classes that are not its own.
    """
    parts = [_read_shard(path, info) for path in shards]
    return Arrays(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file; whatever fails in it is said in one line."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) is not a readable Parquet file: {error}; "
            "is it cut short? copy or download it again"
        ) from error


def own_columns(path: Path) -> tuple[str, str]:
    """(image column, label column) of a user's Parquet file.

    Raises:
        InputError: a file that cannot be read, or without them, or with columns of another type.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        return _columns(schema, path, _OWN_LABELS, "it")


def own_classes(shards: Sequence[Path], label_column: str) -> tuple[str, ...]:
    """Class names of a user's Parquet files: those that the writer left, else numbers to the
    largest label.

    Raises:
        InputError: a file that cannot be read, or with label 0 only.
    """
    highest = 0
    for path in shards:
        with _opened(path) as file:
            if names := _class_names(file.schema_arrow.metadata, label_column):
                return tuple(names)
            found = pc.max(file.read(columns=[label_column])[label_column]).as_py()
        highest = max(highest, found or 0)
    if highest < 1:
        raise InputError(
            f"{shards[0].parent} has label 0 only: give the number of classes with --classes K"
        )
    return tuple(str(label) for label in range(highest + 1))


def first_image(path: Path, column: str) -> bytes | None:
    """The encoded image of the first row."""
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=1, columns=[column]):
            if len(batch):
                found: bytes | None = batch[0][0].as_py()["bytes"]
                return found
    raise InputError(f"{path} holds no rows; at least one is needed")


def _read_shard(path: Path, info: DatasetInfo) -> Arrays:
    with _opened(path) as file:
        image_column, label_column = _columns(
            file.schema_arrow, path, info.label_columns, info.name
        )
        renumber = _renumbering(file.schema_arrow.metadata, label_column, path, info)
        table = file.read(columns=[image_column, label_column])
    labels = table[label_column]
    if labels.null_count:
        raise InputError(
            f"{path}: column {label_column} has {labels.null_count} rows without label"
        )
    encoded = pc.struct_field(table[image_column], "bytes").to_pylist()
    images = decode_images(encoded, info, lambda row: f"row {row} of {path}")
    numbers = np.asarray(labels.to_numpy(), dtype=np.int64)
    part = check_arrays(Arrays(images, numbers), info, str(path))
    return part if renumber is None else Arrays(part.images, renumber[part.labels])


def _columns(schema: Any, path: Path, label_columns: Sequence[str], name: str) -> tuple[str, str]:
    """(image column, label column) of one file, types checked."""
    names = list(schema.names)
    image = next((name for name in _IMAGE_COLUMNS if name in names), None)
    label = next((name for name in label_columns if name in names), None)
    if image is None or label is None:
        images, labels = " or ".join(_IMAGE_COLUMNS), " or ".join(label_columns)
        raise InputError(
            f"{path} has columns {', '.join(names)}; {name} needs an image column ({images}) "
            f"and a label column ({labels})"
        )
    check_image_column(schema, image, path)
    if names.count(label) > 1:
        raise InputError(f"{path} has {names.count(label)} columns called {label}; one is needed")
    label_type = schema.field(label).type
    if not pa.types.is_integer(label_type):
        raise InputError(f"{path}: column {label} is {label_type}, expected integers")
    return image, label


def check_image_column(schema: Any, name: str, path: Path) -> None:
    """Refuse a column that cannot hold encoded images.

    Args:
        schema: Arrow schema of the file.
        name: of a column that is there.
        path: of the file, for the message.

    Raises:
        InputError: for two columns of that name, or another type than a struct whose field `bytes`
            holds bytes.
    """
    if schema.names.count(name) > 1:
        raise InputError(f"{path} has {schema.names.count(name)} columns called {name}")
    kind = schema.field(name).type
    field = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    if field < 0 or not _holds_bytes(kind.field(field).type):
        raise InputError(
            f"{path}: column {name} is {kind}, expected a struct with a field `bytes` of bytes "
            "that are encoded images"
        )


def _holds_bytes(kind: Any) -> bool:
    """Whether values of an Arrow type are bytes, or all missing."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in (*tests, pa.types.is_null))


def _renumbering(
    metadata: Mapping[bytes, bytes] | None, label_column: str, path: Path, info: DatasetInfo
) -> NDArray[np.int64] | None:
    """Map from the file's label numbers to ours, (num_classes,); None when they agree.

    Names that we do not know (a spelling of its own) are taken by position; a name that we know at
    another position, in a list that is not a reordering of ours, is another data set.
    """
    theirs = _class_names(metadata, label_column)
    ours = {name: label for label, name in enumerate(info.class_names)}
    theirs = [info.class_aliases.get(name, name) for name in theirs]
    if not theirs or theirs == list(info.class_names):
        return None
    if len(theirs) == len(ours) and set(theirs) == set(ours):
        return np.array([ours[name] for name in theirs], dtype=np.int64)
    for label, name in enumerate(theirs):
        if ours.get(name, label) != label:
            raise InputError(
                f"{path} calls label {label} {name!r}, which is label {ours[name]} of {info.name}, "
                "and its class list is not a reordering of ours: is it another data set?"
            )
    return None


def _class_names(metadata: Mapping[bytes, bytes] | None, label_column: str) -> list[str]:
    """Class names that the Hugging Face writer left in the schema; empty when there are none."""
    try:
        described = json.loads((metadata or {})[b"huggingface"])
        names = described["info"]["features"][label_column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _named(parents: Sequence[Path], folder: Path, names: set[str]) -> list[Path]:
    return [path for path in parents if names & set(path.relative_to(folder).parts)]


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key: by file name, with 2 before 10."""
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)
    ]


def _check_complete(shards: Sequence[Path]) -> None:
    """Refuse `00000-of-00003` without its companions: a part of the data is not the data."""
    numbers = [(int(m[1]), int(m[2])) for path in shards if (m := _SHARD.search(path.name))]
    if not numbers or len(numbers) < len(shards):
        return
    total = numbers[0][1]
    missing = sorted(set(range(total)) - {number for number, _ in numbers})
    if {of for _, of in numbers} != {total} or len(numbers) != total or missing:
        raise InputError(
            f"{shards[0].parent} holds {len(shards)} shards of a set numbered 0 to {total - 1} "
            f"({', '.join(path.name for path in shards[:4])}); "
            f"missing numbers: {missing[:8] or 'none, but there are extra files'}"
        )
