"""`load_split`: from a name to a split, whatever the source."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Arrays, check_arrays, content_hash
from robustbench_lite.datasets.catalogue import check_split_name, dataset_info, is_own
from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.archives import Archive, file_hash
from robustbench_lite.datasets.readers.decoded_cache import cache_path, decode_once, file_identity
from robustbench_lite.datasets.splits import Source, Split

CACHE_VARIABLE = "ROBUSTBENCH_LITE_CACHE"


@dataclass(frozen=True)
class _Plan:
    """Where one split comes from; `identity` names its decoded form in the cache."""

    source: Source
    identity: tuple[str, ...]
    read: Callable[[], Arrays]


def load_split(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
    image_size: str | int | None = None,
    classes: str | int | Path | None = None,
) -> Split:
    """Load one split of a data set, decoded, on the CPU.

    Args:
        name: one of `DATASETS`; or a user's own data, `folder:DIR`, `parquet:DIR` or `npz:FILE`.
        split: `"train"` or `"test"` (Tiny ImageNet: its labelled validation images are test).
        data_dir: a folder, only read, that holds the split: either in the Hugging Face Parquet
            layout (searched recursively for `{split}-*.parquet`) or as the official archives under
            their official names, whose pinned hashes must match. Without it, digits come from
            scikit-learn and everything else is downloaded once.
        cache_dir: where downloads (`<cache_dir>/<name>/`) and decoded arrays
            (`<cache_dir>/decoded/`) are kept; default: the environment variable
            ROBUSTBENCH_LITE_CACHE, else the user's cache folder. Never inside `data_dir`.
        progress: show download bars on stderr.
        image_size: of a user's own images: `224` or `"224x192"` (height x width), to which each is
            scaled, keeping its proportions, until it covers that, and cut out of the middle.
        classes: of a user's own data: a file with a class name a line, in the order of the labels,
            or how many classes there are.

    Returns:
        The split; `Split.canonical` says whether its pixels are the original ones.

    Raises:
        InputError: unknown name or split; a folder without it; a damaged, foreign or incomplete
            file; no connection (the message names the files and where to put them).

    Example:
        >>> test = load_split("digits", "test")
        >>> len(test), tuple(test.pixels(slice(0, 2)).shape)
        (364, (2, 1, 8, 8))
    """
    if is_own(name):
        return _own(name, split, data_dir, cache_dir, image_size, classes)
    if image_size is not None or classes is not None:
        raise InputError(
            f"--image-size and --classes are for data of your own (folder:DIR, ...); {name} has a "
            "size and classes already"
        )
    info = dataset_info(name)
    check_split_name(split)
    folder = None if data_dir is None else _data_folder(data_dir)
    if not info.archives and not info.class_folders:
        return _embedded(info, split, folder)
    cache = cache_folder(cache_dir, folder)
    if folder is None:
        plan = _download_plan(info, split, cache, progress)
    else:
        plan = _local_plan(info, split, folder)

    def decode() -> Arrays:
        return check_arrays(plan.read(), info, f"{plan.source} of {name} {split}")

    arrays, digest = decode_once(cache_path(cache, name, split, plan.identity), info, decode)
    return _as_split(info, split, arrays, digest, plan.source)


def _own(
    name: str,
    split: str,
    data_dir: str | Path | None,
    cache_dir: str | Path | None,
    image_size: str | int | None,
    classes: str | int | Path | None,
) -> Split:
    from robustbench_lite.datasets.sources import Wanted, load_source, parse_size, read_classes

    wanted = Wanted(
        None if image_size is None else parse_size(str(image_size)),
        None if classes is None else read_classes(str(classes)),
    )
    folder = None if data_dir is None else _data_folder(data_dir)
    return load_source(name, split, wanted, data_dir=folder, cache=cache_folder(cache_dir, folder))


def _embedded(info: DatasetInfo, split: str, folder: Path | None) -> Split:
    if folder is not None:
        raise InputError(
            f"data_dir={str(folder)!r} given for {info.name}, which are embedded; leave it out"
        )
    arrays = info.read((), info, split)
    return _as_split(info, split, arrays, content_hash(*arrays), "embedded")


def _as_split(info: DatasetInfo, split: str, arrays: Arrays, digest: str, source: Source) -> Split:
    return Split(
        name=info.name,
        split=split,
        images=torch.from_numpy(arrays.images),
        labels=torch.from_numpy(arrays.labels),
        num_classes=info.num_classes,
        source=source,
        whole_hash=digest,
    )


def _data_folder(data_dir: str | Path) -> Path:
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"data_dir={str(data_dir)!r} is not a folder; give the folder that holds the Parquet "
            "shards or the official archives"
        )
    return folder


def cache_folder(cache_dir: str | Path | None, data_folder: Path | None = None) -> Path:
    """Where downloads and decoded arrays are kept; made by whoever writes there.

    Args:
        cache_dir: chosen by the caller; None takes the environment's, else the user's cache folder.
        data_folder: a folder that is only read; the cache must not lie in it.

    Raises:
        InputError: when the cache lies inside `data_folder`.
    """
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    if chosen:
        cache = Path(chosen).expanduser()
    else:
        import pooch  # type: ignore[import-untyped]

        cache = Path(pooch.os_cache("robustbench_lite"))
    if data_folder is not None and cache.resolve().is_relative_to(data_folder.resolve()):
        raise InputError(
            f"the cache {cache} lies inside data_dir {data_folder}, which is only ever read; "
            f"choose another with {CACHE_VARIABLE} or cache_dir"
        )
    return cache


def _download_plan(info: DatasetInfo, split: str, cache: Path, progress: bool) -> _Plan:
    archives = _archives(info, split)
    if unpinned := [archive for archive in archives if not archive.known_hash]:
        names = " and ".join(archive.file_name for archive in unpinned)
        raise InputError(
            f"{info.name} is not downloaded, since no SHA-256 of it is published: get {names} from "
            f"{unpinned[0].urls[0]} and name the folder with --data-dir"
        )

    def read() -> Arrays:
        from robustbench_lite.datasets.readers.download import fetch

        files = fetch(archives, cache / info.name, progress=progress)
        return info.read(files, info, split)

    # The pinned hashes are the identity: decoded once, the archive itself may be deleted.
    return _Plan("official archive", tuple(archive.known_hash for archive in archives), read)


def _local_plan(info: DatasetInfo, split: str, folder: Path) -> _Plan:
    from robustbench_lite.datasets.readers.parquet import find_shards, read_parquet

    # Of a family, Parquet files of the same form would say nothing of which member they are.
    shards = () if ":" in info.name else find_shards(folder, info, split)
    if shards:
        return _Plan("local parquet", file_identity(shards), lambda: read_parquet(shards, info))
    if info.class_folders:
        return _class_folders_plan(info, split, folder)
    archives = _archives(info, split)
    candidates = [
        sorted(path for path in folder.rglob(archive.file_name) if path.is_file())
        for archive in archives
    ]
    if not all(candidates):
        raise InputError(_nothing_found(info, split, folder, archives, candidates))

    def read() -> Arrays:

        files = [_official_file(*pair) for pair in zip(candidates, archives, strict=True)]
        return info.read(files, info, split)

    present = [path for paths in candidates for path in paths]
    pinned = tuple(archive.known_hash for archive in archives)
    source: Source = "official archive" if all(pinned) else "local files"
    return _Plan(source, (*pinned, *file_identity(present)), read)


def _archives(info: DatasetInfo, split: str) -> tuple[Archive, ...]:
    """The official files of a split."""
    if info.class_folders:
        raise InputError(
            f"{info.name} is not downloaded: name a folder with --data-dir that holds "
            f"{info.hub_splits.get(split, split)}-*.parquet, or train/ and val/ with one "
            f"sub-folder for each of its {info.num_classes} classes"
        )
    if split not in info.archives:
        raise InputError(f"{info.name} has no {split} split; it has {', '.join(info.archives)}")
    return info.archives[split]


def _class_folders_plan(info: DatasetInfo, split: str, folder: Path) -> _Plan:
    from robustbench_lite.datasets.readers.class_folders import (
        labelled_files,
        read_class_folders,
        split_folder,
    )

    place = split_folder(folder, split)
    files, labels, names = labelled_files(place, None)
    if len(names) != info.num_classes:  # labels are places in the order of all names
        raise InputError(
            f"{place} has {len(names)} class folders, {info.name} has {info.num_classes}; for some "
            f"of them use --dataset folder:{place} with --classes FILE"
        )

    def read() -> Arrays:
        return read_class_folders(files, labels, info)

    return _Plan("class folders", (*file_identity(files), *names), read)


def _official_file(candidates: list[Path], archive: Archive) -> Path:
    """The candidate with the pinned hash: MNIST and Fashion-MNIST share their file names."""
    from robustbench_lite.datasets.readers.download import verify

    if not archive.known_hash:
        return candidates[-1]
    for path in candidates[:-1]:
        if file_hash(path, archive.known_hash) == archive.known_hash:
            return path
    verify(candidates[-1], archive)
    return candidates[-1]


def _nothing_found(
    info: DatasetInfo,
    split: str,
    folder: Path,
    archives: tuple[Archive, ...],
    candidates: list[list[Path]],
) -> str:
    missing = [a.file_name for a, paths in zip(archives, candidates, strict=True) if not paths]
    prefix = info.hub_splits.get(split, split)
    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    there = f"it holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ""
    return (
        f"no {split} split of {info.name} in {folder} ({there or 'it is empty'}); looked below it "
        f"for {prefix}-*.parquet and for the official {' and '.join(missing)}"
    )
