"""Outliers of other data sets and of any images in a folder, in the form of the inliers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.catalogue import dataset_info
from robustbench_lite.datasets.loading import load_split
from robustbench_lite.datasets.splits import Split

_FORMATS = ("PNG", "JPEG")  # nothing else is tried: fewer decoders see untrusted bytes
_SUFFIXES = (".png", ".jpg", ".jpeg")
_IMAGE_COLUMNS = ("img", "image")
_OTHER_SPLITS = {"train": ("test", "val"), "test": ("train",)}  # prefixes of Parquet shards
_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as Pillow's conversion to "L"
_CHUNK = 4096


def outliers_of_dataset(
    name: str, like: Split, *, count: int, seed: int, data_dir: str | Path | None
) -> Tensor:
    """Images of another data set, of the split that `like` is of.

    Args:
        name: of the data set.
        like: the inliers.
        count: how many, drawn without replacement; 0 takes all, in random order.
        seed: of the draw, in [0, 2**63).
        data_dir: as of `load_split`; digits, which are embedded, leave it aside.

    Returns:
        uint8 (M, C, H, W), on the CPU.

    Raises:
        InputError: for the inliers' own data set, an unknown one, or too few images.
    """
    if name == like.name:
        raise InputError(f"outlier source 'dataset:{name}' is the inliers' own; name another")
    embedded = not dataset_info(name).archives
    other = load_split(name, like.split, data_dir=None if embedded else data_dir)
    rows = _drawn(len(other), count, seed, f"dataset:{name} ({like.split})")
    return torch.cat([fitted(other.images[part], like) for part in torch.split(rows, _CHUNK)])


def outliers_of_folder(folder: Path, like: Split, *, count: int, seed: int) -> Tensor:
    """Images of a folder: of its Parquet shards if it has any, else of its PNG and JPEG files.

    Args:
        folder: searched recursively. Shards named after another split than that of `like`
            (`train-`, `test-`, `val...`) are left out.
        like: the inliers.
        count: how many, drawn without replacement; 0 takes all, in random order.
        seed: of the draw, in [0, 2**63).

    Returns:
        uint8 (M, C, H, W), on the CPU.

    Raises:
        InputError: no such folder, nothing in it, too few images, or one that is damaged.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise InputError(f"outlier source 'folder:{folder}' is not a folder")
    shards = sorted(folder.rglob("*.parquet"))
    mine = [path for path in shards if not path.name.startswith(_OTHER_SPLITS[like.split])]
    files = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
    if not (mine if shards else files):
        what = f"Parquet shards for {like.split}" if shards else "Parquet, PNG or JPEG files"
        raise InputError(f"outlier source 'folder:{folder}' holds no {what}")
    lengths = [_shard_length(path) for path in mine] if shards else [1] * len(files)
    rows = _drawn(sum(lengths), count, seed, f"folder:{folder}")
    encoded = _shard_bytes(mine, lengths, rows) if shards else _file_bytes(files, rows)
    images = torch.empty(len(rows), *like.images.shape[1:], dtype=torch.uint8)
    for place, data, where in encoded:
        images[place] = fitted(_decoded(data, like.images.shape[1], where)[None], like)[0]
    return images


def fitted(images: Tensor, like: Split) -> Tensor:
    """Images in the form of a split's: cut to its shape from the middle, resized, grey or RGB.

    Args:
        images: uint8 (M, C', H', W'), C' 1 or 3.
        like: says C, H and W.

    Returns:
        uint8 (M, C, H, W). Resizing is bilinear, with low-pass filtering where it shrinks.
    """
    channels, height, width = like.images.shape[1:]
    h, w = images.shape[2:]
    cut_h, cut_w = min(h, max(1, w * height // width)), min(w, max(1, h * width // height))
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    x = images[:, :, top : top + cut_h, left : left + cut_w].float()
    if x.shape[1] == 3 and channels == 1:
        x = (x * torch.tensor(_GREY, device=x.device).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    if x.shape[2:] != (height, width):
        x = functional.interpolate(x, (height, width), mode="bilinear", antialias=True)
    return x.expand(-1, channels, -1, -1).round().clamp(0, 255).to(torch.uint8)


def _drawn(n: int, count: int, seed: int, source: str) -> Tensor:
    """`count` of `n` rows, all for 0, in random order: int64 (count,)."""
    if n == 0:
        raise InputError(f"{source} holds no images")
    if count > n:
        raise InputError(f"outliers.count={count}, but {source} has {n} images")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[: count or n]


_Encoded = Iterator[tuple[int, bytes | None, str]]  # place in the result, file, its description


def _file_bytes(files: Sequence[Path], rows: Tensor) -> _Encoded:
    for place, row in enumerate(rows.tolist()):
        yield place, files[row].read_bytes(), str(files[row])


def _shard_length(path: Path) -> int:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        return int(pq.read_metadata(path).num_rows)
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error


def _shard_bytes(shards: Sequence[Path], lengths: Sequence[int], rows: Tensor) -> _Encoded:
    """Shard by shard, so that one at a time is in memory."""
    begin = 0
    for path, length in zip(shards, lengths, strict=True):
        mine = torch.nonzero((rows >= begin) & (rows < begin + length)).squeeze(1)
        wanted = (rows[mine] - begin).tolist()
        if wanted:
            for place, row, data in zip(mine.tolist(), wanted, _rows(path, wanted), strict=True):
                yield place, data, f"row {row} of {path}"
        begin += length


def _rows(path: Path, rows: Sequence[int]) -> list[bytes | None]:
    """The encoded images of some rows of a shard in the Hugging Face layout."""
    import pyarrow as pa
    import pyarrow.compute as pc  # type: ignore[import-untyped]
    import pyarrow.parquet as pq

    from robustbench_lite.datasets.readers.parquet import check_image_column

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            name = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
            if name is None:
                raise InputError(
                    f"{path} has columns {', '.join(schema.names)}; outliers need one called "
                    f"{' or '.join(_IMAGE_COLUMNS)}, a struct whose field `bytes` holds images"
                )
            check_image_column(schema, name, path)
            column = file.read(columns=[name])[name]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    encoded: list[bytes | None] = pc.struct_field(column, "bytes").take(rows).to_pylist()
    return encoded


def _decoded(data: bytes | None, channels: int, where: str) -> Tensor:
    """One encoded image as uint8 (C, H, W)."""
    if data is None:
        raise InputError(f"{where} has no image bytes; the pixels must be in the file itself")
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            pixels = np.array(image.convert("RGB" if channels == 3 else "L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{where} cannot be decoded as {' or '.join(_FORMATS)}: {error}; is it damaged?"
        ) from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)
