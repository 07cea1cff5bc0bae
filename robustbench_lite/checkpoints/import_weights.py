"""Turn weights published elsewhere into a checkpoint, strictly and without running their code."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from robustbench_lite.checkpoints.card import network_of
from robustbench_lite.checkpoints.checkpoint import (
    CARD_FILE,
    Card,
    check_weights,
    near_paths,
    network_without_weights,
    parameter_count,
    save_checkpoint,
    some_names,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import file_sha256
from robustbench_lite.core.provenance import current_versions, git_commit
from robustbench_lite.models.classifier import Classifier

_PREFIXES = ("module.", "model.", "_orig_mod.")  # DataParallel, wrappers, torch.compile
_WRAPPER_DEPTH = 4
_BATCH_COUNTER = "num_batches_tracked"  # absent before torch 0.4.1; no part of the function
# Older releases run or corrupt on crafted files in spite of weights_only=True:
# CVE-2025-32434 (fixed in 2.6.0), CVE-2026-24747 (fixed in 2.10.0).
_SAFE_TORCH = (2, 10)
_AVERAGE_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel


@dataclass(frozen=True)
class ImportReport:
    """What an import did to the names in the file.

    Args:
        folder: the checkpoint written.
        weights: where in the file they were, such as `"state_dict"`; `""` for the top level.
        renamed: `(name in the file, our name)`, prefixes and last-layer names included.
        dropped: names in the file that no forward pass uses.
        added: names absent from the file that count batches; filled with 0.
        cast: our names of weights that were not float32 and are now.
        parameters: how many the network has.
    """

    folder: Path
    weights: str
    renamed: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...]
    cast: tuple[str, ...]
    parameters: int

    def __str__(self) -> str:
        place = f"at {self.weights} " if self.weights else ""
        renamed = some_names([f"{theirs} -> {ours}" for theirs, ours in self.renamed])
        return (
            f"{self.parameters:,} parameters {place}written to {self.folder}\n"
            f"renamed: {renamed}\n"
            f"dropped, unused: {some_names(self.dropped)}\n"
            f"added, counters only: {some_names(self.added)}\n"
            f"cast to float32: {some_names(self.cast)}"
        )


def import_weights(
    path: str | Path,
    *,
    architecture: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    dataset: str,
    name: str,
    out: str | Path,
    architecture_kwargs: Mapping[str, object],
    entry: str | None = None,
) -> ImportReport:
    """Write published weights as a checkpoint.

    Wrapper dictionaries and one-element lists are opened, prefixes of parallel, compiled and
    averaged models removed, and public names of the family mapped to ours. The rest must fit.

    Args:
        path: a `torch.save` file (read with `weights_only=True`) or a `.safetensors` file.
        architecture: registered architecture the weights were made for.
        num_classes: K.
        in_channels: C.
        image_size: `(H, W)`.
        mean: the normalisation the weights were trained with; None for none.
        std: likewise.
        dataset: name of the training data.
        name: of the new checkpoint.
        out: folder to write; must not hold a checkpoint yet.
        architecture_kwargs: options of the architecture.
        entry: which weights to take when the file holds several, such as `"model_ema"`.

    Returns:
        What was renamed, dropped, added and cast.

    Raises:
        InputError: one line for a file that is missing, truncated, no checkpoint, or holds pickled
            code (not run); for names, shapes or classes that do not fit; for NaN weights.
    """
    source = Path(path)
    if (Path(out) / CARD_FILE).exists():
        raise InputError(f"{out} holds a checkpoint already: choose another folder or remove it")
    card = Card(
        name=name,
        defense="",
        architecture=architecture,
        architecture_kwargs=dict(architecture_kwargs),
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        dataset=dataset,
        dataset_hash="",
        recipe={},
        seed=None,
        versions=current_versions(),
        git_commit=git_commit(),
        epoch=None,
        selection="imported",
        metrics={},
        notes="",
        parameters=0,
    )
    reference = network_without_weights(card)
    chosen, stored = _choose(source, _read(source), entry)
    tensors, report = _fit_names(source, stored, reference, Path(out))
    check_weights(tensors, reference, str(source), num_classes)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
        model = network_of(card)
    model.load_state_dict(tensors, strict=True)
    part, digest = f" [{chosen}]" if chosen else "", file_sha256(source)
    origin = f"imported from {source.name}{part}, sha256:{digest}"
    parameters = parameter_count(model)
    card = msgspec.structs.replace(card, notes=origin, parameters=parameters)
    save_checkpoint(out, model, card)
    return replace(report, weights=chosen, parameters=parameters)


def _read(path: Path) -> object:
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the weights file in it")
    if not path.is_file():
        raise InputError(f"no weights file {path}{near_paths(path)}")
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if path.suffix.lower() == ".safetensors":
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
    try:
        with warnings.catch_warnings():  # on odd files torch warns before it refuses: one line only
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever a damaged file makes them trip over
        raise InputError(f"{path} {_why_unreadable(path, start, error)}") from error


def torch_release(version: str) -> tuple[int, int]:
    """Major and minor number of a torch version such as `"2.13.0+cpu"`."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _why_unreadable(path: Path, start: bytes, error: Exception) -> str:
    text = str(error)
    bare_pickle = isinstance(error, pickle.UnpicklingError) and start[:1] == b"\x80"
    if re.search(r"unsupported (global|class)|torchscript", text, re.IGNORECASE) or bare_pickle:
        named = re.search(r"(?:GLOBAL|class) ([\w.]+)", text)
        what = f" ({named.group(1)})" if named else ""
        return (
            f"holds pickled code{what}; not loaded. Ask the author for a state_dict or safetensors"
        )
    damaged = start == b"PK" and not zipfile.is_zipfile(path)
    if damaged or not start or isinstance(error, EOFError) or "EOF" in text:
        return "is truncated or empty: fetch it again"
    return "is not a weights file: a torch.save file or a .safetensors file is needed"


def _choose(path: Path, content: object, entry: str | None) -> tuple[str, Mapping[str, Any]]:
    found = dict(_weight_sets(content, "", _WRAPPER_DEPTH))
    if entry is not None and entry not in found:
        raise InputError(f"{path} has no weights at entry={entry!r}; it has {_list(found)}")
    if not found:
        keys = list(map(str, content)) if isinstance(content, Mapping) else []
        inside = f"keys {', '.join(keys[:6])}" if keys else f"a {type(content).__name__}"
        raise InputError(f"{path} holds no weights by name (a state_dict) but {inside}")
    if entry is None and len(found) > 1:
        raise InputError(
            f"{path} holds {len(found)} sets of weights, {_list(found)}: name one as entry"
        )
    key = entry if entry is not None else next(iter(found))
    return key, found[key]


def _weight_sets(content: object, key: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Innermost mappings of names to tensors, with their place in the file."""
    if isinstance(content, list | tuple) and len(content) == 1:
        content = content[0]
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


def _list(found: Mapping[str, object]) -> str:
    return ", ".join(key or "the top level" for key in found) or "none"


def _fit_names(
    path: Path, stored: Mapping[str, Any], reference: nn.Module, out: Path
) -> tuple[dict[str, Tensor], ImportReport]:
    """Our names for the stored weights; what fits nowhere keeps its name, for the strict check."""
    expected = reference.state_dict()
    tensors: dict[str, Tensor] = {}
    renamed: list[tuple[str, str]] = []
    dropped: list[str] = []
    cast: list[str] = []
    for name, value in stored.items():
        ours = _our_name(name, expected, reference)
        if ours is None or not isinstance(value, Tensor):
            dropped.append(name)
            continue
        if ours in tensors:
            raise InputError(f"{path}: two entries are {ours} once prefixes are removed")
        wanted = expected[ours].dtype if ours in expected else value.dtype
        if wanted != value.dtype and wanted.is_floating_point and value.is_floating_point():
            cast.append(ours)
            value = value.to(wanted)
        if ours != name:
            renamed.append((name, ours))
        tensors[ours] = value
    added = [n for n in expected if n not in tensors and n.split(".")[-1] == _BATCH_COUNTER]
    tensors |= {name: torch.zeros((), dtype=torch.int64) for name in added}
    return tensors, ImportReport(
        out, "", tuple(renamed), tuple(dropped), tuple(added), tuple(cast), 0
    )


def _our_name(name: str, expected: Mapping[str, Tensor], reference: nn.Module) -> str | None:
    """The name in our network; None for what no forward pass uses."""
    public = reference.public_names if isinstance(reference, Classifier) else {}
    unused = reference.unused_modules if isinstance(reference, Classifier) else ()
    bare = name
    while bare not in expected:
        prefix = next((prefix for prefix in _PREFIXES if bare.startswith(prefix)), None)
        if prefix is None:
            break
        bare = bare.removeprefix(prefix)
    if bare.partition(".")[0] in unused or bare == _AVERAGE_COUNTER:
        return None
    mapped = next(
        (
            f"{ours}{bare.removeprefix(theirs)}"
            for theirs, ours in public.items()
            if bare.startswith(f"{theirs}.")
        ),
        bare,
    )
    return mapped if mapped in expected and bare not in expected else bare
