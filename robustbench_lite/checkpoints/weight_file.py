"""Read a file of weights made elsewhere without running its code, and find the weights in it."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from robustbench_lite.checkpoints.checkpoint import near_paths
from robustbench_lite.core.errors import InputError

_WRAPPER_DEPTH = 4
# Older releases run or corrupt on crafted files in spite of weights_only=True:
# CVE-2025-32434 (fixed in 2.6.0), CVE-2026-24747 (fixed in 2.10.0).
_SAFE_TORCH = (2, 10)
_LFS_POINTER = b"version https://git-lfs"
# Plain data that training scripts store beside the weights. None of it is a weight, so each of
# these names is read as an empty `_Unread`: their own code, which torch forbids, never runs.
_PLAIN_DATA = (
    *("argparse.Namespace", "types.SimpleNamespace"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath"),
    *("datetime.datetime", "datetime.date", "datetime.timedelta"),
    *("numpy.dtype", "numpy.ndarray"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
)


class _Unread:
    """Stands in for stored data that is not needed; keeps nothing of it."""

    def __new__(cls, *_arguments: object) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def read_weight_file(path: Path) -> object:
    """The content of a weights file, on the CPU; no code of the file is run.

    Args:
        path: a `torch.save` file (read with `weights_only=True`) or a `.safetensors` file.

    Returns:
        As stored. numpy values, `argparse.Namespace`, paths and dates are empty stand-ins.

    Raises:
        InputError: one line for a file that is missing, truncated or of another kind, for pickled
            code, and on a torch that such a file can attack.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the weights file in it")
    if not path.is_file():
        raise InputError(f"no weights file {path}{near_paths(path)}")
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if start == _LFS_POINTER:
        raise InputError(f"{path} is a Git LFS pointer, not the weights: run 'git lfs pull' there")
    if path.suffix.lower() == ".safetensors" or start[8:10] == b'{"':
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is damaged or incomplete ({error}): fetch it again"
            ) from error
    if torch_release(torch.__version__) < _SAFE_TORCH:
        raise InputError(
            f"{path} is not opened: torch {torch.__version__} can be made to run code by such a "
            f"file; upgrade to torch>={_SAFE_TORCH[0]}.{_SAFE_TORCH[1]}, or give safetensors"
        )
    plain: list[Callable[..., object] | tuple[Callable[..., object], str]]
    plain = [(_Unread, name) for name in _PLAIN_DATA]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(plain):
            warnings.simplefilter("ignore")  # on odd files torch warns before it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever a damaged file makes them trip over
        raise InputError(f"{path} {_why_unreadable(path, start, error)}") from error


def torch_release(version: str) -> tuple[int, int]:
    """Major and minor number of a torch version such as `"2.13.0+cpu"`."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _why_unreadable(path: Path, start: bytes, error: Exception) -> str:
    text = str(error)
    if "torchscript" in text.lower():
        return (
            "is a TorchScript archive, a network with its code, not weights alone: use it as it "
            f"is, with --model torchscript:{path}"
        )
    bare_pickle = isinstance(error, pickle.UnpicklingError) and start[:1] == b"\x80"
    if re.search(r"unsupported (global|class)", text, re.IGNORECASE) or bare_pickle:
        named = re.search(r"(?:GLOBAL|class) ([\w.]+)", text)
        what = f" ({named.group(1)})" if named else ""
        return (
            f"holds pickled code{what}; not loaded. Ask the author for a state_dict or safetensors"
        )
    damaged = start[:2] == b"PK" and not zipfile.is_zipfile(path)
    if damaged or not start or isinstance(error, EOFError) or "EOF" in text:
        return "is truncated or empty: fetch it again"
    return "is not a weights file: a torch.save file or a .safetensors file is needed"


def choose_weights(path: Path, content: object, entry: str | None) -> tuple[str, Mapping[str, Any]]:
    """One set of weights out of what a file holds.

    Args:
        path: of the file, for messages.
        content: from `read_weight_file`.
        entry: where the weights are: keys and list positions joined by dots, such as
            `"state_dict.0"`. None when the file holds one set.

    Returns:
        The place of the set (`""` for the top level), and the set: names to what is stored.

    Raises:
        InputError: when there are no weights at `entry`, none at all, or several and no `entry`.
    """
    found = dict(_weight_sets(content, "", _WRAPPER_DEPTH))
    if entry is not None:
        chosen = found.get(entry) or _reached(content, entry)
        if chosen is None:
            raise InputError(f"{path} has no weights at entry={entry!r}; it has {_list(found)}")
        return entry, chosen
    if not found:
        keys = list(map(str, content)) if isinstance(content, Mapping) else []
        inside = f"keys {', '.join(keys[:6])}" if keys else f"a {type(content).__name__}"
        raise InputError(f"{path} holds no weights by name (a state_dict) but {inside}")
    if len(found) > 1:
        raise InputError(
            f"{path} holds {len(found)} sets of weights, {_list(found)}: name one as entry"
        )
    return next(iter(found.items()))


def _weight_sets(content: object, key: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Innermost mappings of names to tensors, with their place in the file."""
    if isinstance(content, list | tuple):
        if len(content) == 1:  # a list of one has no place of its own
            yield from _weight_sets(content[0], key, depth)
        elif depth > 0:
            for index, value in enumerate(content):
                yield from _weight_sets(value, f"{key}.{index}".lstrip("."), depth - 1)
        return
    if depth == 0 or not isinstance(content, Mapping):
        return
    if not all(isinstance(name, str) for name in content):
        return  # an optimizer's state is keyed by number
    inner = [
        found
        for name, value in content.items()
        for found in _weight_sets(value, f"{key}.{name}" if key else name, depth - 1)
    ]
    yield from inner
    has_weights = any(
        name.endswith("weight") and isinstance(value, Tensor) for name, value in content.items()
    )
    if has_weights and not inner:
        yield key, content


def _reached(content: object, entry: str) -> Mapping[str, Any] | None:
    """The mapping with tensors at a place; keys may hold dots themselves."""
    if not entry:
        if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
            return None
        return content if any(isinstance(value, Tensor) for value in content.values()) else None
    inside = enumerate(content) if isinstance(content, list | tuple) else ()
    for name, value in content.items() if isinstance(content, Mapping) else inside:
        if entry == str(name) or entry.startswith(f"{name}."):
            reached = _reached(value, entry[len(str(name)) + 1 :])
            if reached is not None:
                return reached
    return None


def _list(found: Mapping[str, object]) -> str:
    return ", ".join(key or "the top level" for key in found) or "none"
