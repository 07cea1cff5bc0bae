"""Extra training images, such as those of a generative model: in .npz files that are never in
memory as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.arrays import Arrays, Pixels, check_arrays, content_hash_of_parts
from robustbench_lite.datasets.loading import cache_folder
from robustbench_lite.datasets.readers.mapped_npz import map_array
from robustbench_lite.datasets.readers.npz import NPZ_KEYS, as_labels, one_line_errors
from robustbench_lite.datasets.splits import Split


@dataclass(frozen=True, eq=False)
class ExtraImages:
    """Labelled images on the disk.

    Args:
        parts: uint8 arrays (N_i, C, H, W), mapped: a row is read when it is used.
        labels: int64 (N,) of all parts, in memory.
        content_hash: of all pixels and labels (layout: `arrays.content_hash`), the same however
            they are spread over parts.
    """

    parts: Sequence[Pixels]
    labels: NDArray[np.int64]
    content_hash: str

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Read some rows.

        Args:
            rows: int64 (M,), on the CPU.

        Returns:
            Images uint8 (M, C, H, W) and labels int64 (M,), on the CPU.
        """
        chosen, begin = rows.numpy(), 0
        images = np.empty((len(chosen), *self.parts[0].shape[1:]), dtype=np.uint8)
        for part in self.parts:
            inside = (begin <= chosen) & (chosen < begin + len(part))
            images[inside] = part[chosen[inside] - begin]
            begin += len(part)
        return torch.from_numpy(images), torch.from_numpy(self.labels[chosen])


def load_extra(files: str, like: Split, *, cache_dir: str | Path | None = None) -> ExtraImages:
    """Open the extra images of a training set.

    The files are as published by Rebuffi et al. 2021 (arXiv:2103.01946; `cifar10_ddpm.npz`) and
    Wang et al. 2023 (arXiv:2302.04638; `1m.npz`, `20m_part1.npz`): `image` uint8 (N, H, W, C), and
    `label` (N,). They are read through for their checksums and the content hash, some images at a
    time.

    Args:
        files: an .npz with arrays `image` and `label`, or `images` and `labels`, or `x` and `y`;
            images may be (N, C, H, W), or (N, H, W) of one channel. A pattern such as
            `20m_part*.npz` names several, which are put together in the order of their numbers.
        like: the training split whose form and classes they must have.
        cache_dir: where compressed files are unpacked once; as of `load_split`.

    Raises:
        InputError: no such file, one that is damaged, or images or labels of another form.
    """
    if like.images.dtype != torch.uint8:
        raise InputError(
            f"data.extra {files}: extra images are uint8, those of {like.name} are float32"
        )
    cache = cache_folder(cache_dir)
    arrays = [_part(path, like, cache) for path in _paths(files)]
    parts = [part.images for part in arrays]
    labels = np.concatenate([part.labels for part in arrays])
    return ExtraImages(parts, labels, content_hash_of_parts(parts, labels))


def _paths(files: str) -> list[Path]:
    from robustbench_lite.datasets.readers.parquet import natural

    path = Path(files).expanduser()
    if path.is_file():
        return [path]
    there = path.parent.glob(path.name) if "*" in path.name else ()
    found = sorted((one for one in there if one.is_file()), key=natural)
    if not found:
        raise InputError(
            f"data.extra {files}: no such file; name an .npz with arrays image and label, or a "
            "pattern of several: 20m_part*.npz"
        )
    return found


def _part(path: Path, like: Split, cache: Path) -> Arrays:
    """One file: its images mapped, (N, C, H, W), and its labels."""
    with one_line_errors(path), np.load(path, allow_pickle=False) as stored:
        image, label = _names(list(stored.files), path)
        labels = as_labels(stored[label], f"{path}: {label}")
    mapped = map_array(path, image, cache=cache)
    if mapped.dtype != np.uint8:
        raise InputError(f"{path}: {image} is {mapped.dtype}; need uint8 of 0 to 255")
    channels, height, width = like.images.shape[1:]
    if mapped.ndim == 3:
        mapped = mapped[:, None]
    elif mapped.shape[1:] == (height, width, channels):
        mapped = mapped.transpose(0, 3, 1, 2)
    return check_arrays(Arrays(mapped, labels), like.facts, str(path))


def _names(there: list[str], path: Path) -> tuple[str, str]:
    for pair in NPZ_KEYS:
        if set(pair) <= set(there):
            return pair
    raise InputError(
        f"{path} holds {', '.join(there[:6]) or 'no array'}; it needs arrays image and label"
    )
