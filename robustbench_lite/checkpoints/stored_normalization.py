"""Mean and standard deviation that a file of weights holds, against what the user says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from robustbench_lite.core.errors import InputError

# Buffers of the usual normalisation layers: torchvision and RobustBench; TRADES-like code.
_NAMES = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}
_ROUNDING = 1e-6  # float32 has 24 bits: 6e-8 of a value below 1
_Values = tuple[float, ...]


@dataclass(frozen=True)
class StoredNormalization:
    """The normalisation layer in a file.

    Args:
        mean: per channel; None when the file holds none.
        std: likewise.
        names: the entries they were read from, each with `"mean"` or `"std"`.
    """

    mean: _Values | None
    std: _Values | None
    names: tuple[tuple[str, str], ...]


def stored_normalization(
    path: Path, stored: Mapping[str, Any], channels: int
) -> StoredNormalization:
    """Find `mean` and `std` (or `mu`, `sigma`) of a normalisation layer among stored entries.

    Args:
        path: of the file, for messages.
        stored: names to what is stored.
        channels: C; only tensors of 1 or C numbers are such buffers.

    Raises:
        InputError: when two entries of one kind differ.
    """
    found: dict[str, tuple[str, _Values]] = {}
    names = []
    for name, value in stored.items():
        kind = _NAMES.get(name.rpartition(".")[2].lstrip("_"))
        if kind is None or not isinstance(value, Tensor) or value.numel() not in (1, channels):
            continue
        values = tuple(value.double().reshape(-1).expand(channels).tolist())
        names.append((name, kind))
        if kind in found and not _same(found[kind][1], values):
            raise InputError(
                f"{path}: {found[kind][0]} and {name} differ: leave one out with --drop"
            )
        found[kind] = (name, values)
    mean, std = (found[kind][1] if kind in found else None for kind in ("mean", "std"))
    return StoredNormalization(mean, std, tuple(names))


def taken_normalization(path: Path, stored: StoredNormalization) -> tuple[_Values, _Values]:
    """The stored mean and std, to build the network with.

    Raises:
        InputError: when one is missing, or they are not of images in [0, 1].
    """
    if stored.mean is None or stored.std is None:
        has = ", ".join(dict(stored.names)) or "neither"
        raise InputError(
            f"{path} does not hold both mean and std but {has}: give --mean and --std, or "
            "--normalization none or dataset"
        )
    if not all(0.0 <= m <= 1.0 for m in stored.mean) or not all(0.0 < s <= 1.0 for s in stored.std):
        raise InputError(
            f"{path} holds mean {_text(stored.mean)} and std {_text(stored.std)}, not of images in "
            "[0, 1]: give --mean and --std in these units (divide by 255), and --drop the stored"
        )
    return stored.mean, stored.std


def check_no_conflict(
    path: Path, stored: StoredNormalization, mean: _Values | None, std: _Values | None
) -> None:
    """Compare stored values with those that the user gave; None there is 0 and 1.

    Raises:
        InputError: when they differ, with both.
    """
    for name, theirs, given, nothing in (
        ("mean", stored.mean, mean, 0.0),
        ("std", stored.std, std, 1.0),
    ):
        ours = given if given is not None else (nothing,) * len(theirs or ())
        if theirs is not None and not _same(theirs, ours):
            said = _text(given) if given is not None else "no normalisation"
            raise InputError(
                f"{path} holds {name} {_text(theirs)} in {', '.join(dict(stored.names))}, you say "
                f"{said}: use --normalization stored, or --drop these names if the network "
                "does not use them"
            )


def _same(first: _Values, second: _Values) -> bool:
    return len(first) == len(second) and all(
        abs(a - b) <= _ROUNDING for a, b in zip(first, second, strict=True)
    )


def _text(values: _Values) -> str:
    return " ".join(f"{value:.6g}" for value in values)
