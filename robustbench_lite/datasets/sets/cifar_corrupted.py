"""CIFAR-10-C and CIFAR-100-C: a tar of arrays, 10,000 test images at each of five severities."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import unknown_name
from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.archives import Archive, archive, damaged
from robustbench_lite.datasets.sets.cifar import CIFAR10, CIFAR100

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from robustbench_lite.datasets.arrays import Arrays

# The 15 of the benchmark, then the 4 that its authors keep for validation.
CORRUPTIONS = tuple(
    """
    gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow
    frost fog brightness contrast elastic_transform pixelate jpeg_compression
    speckle_noise gaussian_blur spatter saturate
    """.split()  # noqa: SIM905 - a list of quoted words would be 10 times as long
)
_IMAGES = 10_000


def _family(info: DatasetInfo, folder: str, official: Archive) -> Callable[[str], DatasetInfo]:
    """From `fog:3` to the facts of that corruption at that severity."""

    def corrupted(variant: str) -> DatasetInfo:
        """The facts of `KIND:SEVERITY`."""
        name = f"{info.name}c"
        kind, _, severity = variant.partition(":")
        if not variant:
            raise InputError(
                f"{name} needs a corruption and a severity from 1 to 5, such as {name}:fog:3; "
                f"corruptions: {', '.join(CORRUPTIONS[:4])}, ... (all in docs/data.md)"
            )
        if kind not in CORRUPTIONS:
            raise InputError(unknown_name("corruption", kind, dict.fromkeys(CORRUPTIONS, "")))
        if severity not in tuple("12345"):
            raise InputError(f"{name}:{variant}: the severity is 1 to 5, as in {name}:{kind}:3")
        return replace(
            info,
            name=f"{name}:{kind}:{severity}",
            read=_reader(folder, kind, int(severity)),
            archives={"test": (official,)},
            canonical_hashes={},
            known_variants={},
        )

    return corrupted


def _reader(
    folder: str, kind: str, severity: int
) -> Callable[[Sequence[Path], DatasetInfo, str], Arrays]:
    def read(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
        """The images and labels of this kind and severity, from the archive."""
        import numpy as np

        from robustbench_lite.datasets.arrays import Arrays

        del info, split
        path, first = files[0], (severity - 1) * _IMAGES
        try:
            with tarfile.open(path, "r:") as stored:
                images = _rows(stored, f"{folder}/{kind}.npy", first, path)
                labels = _rows(stored, f"{folder}/labels.npy", first, path)
        except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
            raise error if isinstance(error, InputError) else damaged(path, error) from error
        pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return Arrays(pixels, labels.astype(np.int64))

    return read


def _rows(stored: tarfile.TarFile, member: str, first: int, path: Path) -> NDArray[Any]:
    """The rows of one severity of an .npy in the archive; the others are passed over."""
    import numpy as np

    file = stored.extractfile(member)
    if file is None or np.lib.format.read_magic(file) != (1, 0):
        raise damaged(path, f"{member} is no .npy of version 1")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
    if by_columns or kind != np.uint8 or shape[0] < first + _IMAGES:
        raise damaged(path, f"{member} holds {kind} {shape}")
    size = int(np.prod(shape[1:], dtype=np.int64))
    file.seek(first * size, 1)
    data = file.read(_IMAGES * size)
    return np.frombuffer(data, dtype=np.uint8).reshape(_IMAGES, *shape[1:])


CIFAR10C = _family(
    CIFAR10,
    "CIFAR-10-C",
    archive(
        "CIFAR-10-C.tar",
        ("https://zenodo.org/record/2535967/files/",),
        2_918_471_680,
        "c72763e101c723b7c507b96205f7e938912a5d587376173b825850cf3cb876a7",
    ),
)
CIFAR100C = _family(
    CIFAR100,
    "CIFAR-100-C",
    archive(
        "CIFAR-100-C.tar",
        ("https://zenodo.org/record/3555552/files/",),
        2_918_473_216,
        "30ee6543a1bfd049fa33834b7c1ada301e7064b7fbe8fc38340eb8b62ced4b33",
    ),
)
