"""What every source of networks returns, and how it asks for its library."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_lite.checkpoints.checkpoint import check_weights, near_paths
from robustbench_lite.checkpoints.weight_file import choose_weights, read_weight_file
from robustbench_lite.checkpoints.weight_names import NameRules, our_names
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import described
from robustbench_lite.models.classifier import Normalize


@dataclass(frozen=True)
class SourceNetwork:
    """A network of a source, not yet on its device.

    Args:
        name: what stands after `KIND:`, with whatever pins it (a tag, a revision).
        model: maps images in [0, 1] to logits; None for a checkpoint folder.
        identity: what the tensors and module classes do not say of the function it computes.
        image_shape: (C, H, W) that it was made for; None where nothing says so.
        folder: a checkpoint folder of this package that holds it.
        parameters: how many it has, where it is no torch network; 0 to count them.
        note: on how it is computed, which stands behind the name in tables.
    """

    name: str
    model: nn.Module | None
    identity: Mapping[str, object] = field(default_factory=dict)
    image_shape: tuple[int, int, int] | None = None
    folder: Path | None = None
    parameters: int = 0
    note: str = ""


def optional_package(module: str, *, wanted_by: str, install: str = "") -> Any:
    """Import a library that is not among our requirements.

    Args:
        module: to import.
        wanted_by: the source, such as `"timm:"`, for the message.
        install: the extra of ours that brings it; by default its own name.

    Raises:
        InputError: says what to install; or why it cannot be imported although it is there.
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"{wanted_by} needs {package}, which is not installed: "
            f"pip install 'robustbench-lite[{install or package}]'"
        )
    try:
        return importlib.import_module(module)
    except Exception as error:  # torchvision raises a RuntimeError beside another torch
        lacking = isinstance(error, ModuleNotFoundError)
        cure = "install that too" if lacking else "install the release that belongs to your torch"
        raise InputError(
            f"{wanted_by} needs {module}, which is installed but cannot be imported: "
            f"{described(error)}; {cure}"
        ) from error


def name_and_file(spec: str) -> tuple[str, Path | None]:
    """`NAME@FILE` as its two parts; None without a file.

    Raises:
        InputError: for a file that does not exist.
    """
    name, at, file = spec.partition("@")
    path = Path(file) if at else None
    if path is not None and not path.is_file():
        raise InputError(f"no weights file {path}{near_paths(path)} (write NAME@FILE)")
    return name, path


def known_name(kind: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that a library does not have.

    Raises:
        InputError: with the nearest names.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {len(known)} networks"
        raise InputError(f"{kind} has no network {name!r}{hint}")


def with_weights(build: Callable[[int | None], nn.Module], path: Path) -> nn.Module:
    """An architecture of a library with weights of a file, which says how many classes there are.

    Args:
        build: makes the network for K classes (None: the library's default), without weights.
        path: a `.safetensors` file, or one of `torch.save` (no code of it is run).

    Raises:
        InputError: for a file that holds no weights, or others than the architecture's.
    """
    model = build(None)
    _, stored = choose_weights(path, read_weight_file(path), None)
    tensors = our_names(path, stored, model, NameRules()).tensors
    expected = model.state_dict()
    both = [(tensor, expected[name]) for name, tensor in tensors.items() if name in expected]
    heads = {
        given.shape[0]: wanted.shape[0]
        for given, wanted in both
        if given.dim() and given.dim() == wanted.dim() and given.shape != wanted.shape
    }
    if len(heads) == 1:  # the last layer, with its bias, is all that differs
        model = build(next(iter(heads)))
    check_weights(tensors, model, str(path), next(iter(heads), 0))
    model.load_state_dict(tensors, strict=True)
    return model


def normalized(model: nn.Module, mean: object, std: object) -> nn.Module:
    """The network behind a layer that subtracts its mean and divides by its std, per channel.

    Args:
        model: takes normalised images.
        mean: numbers per channel, in [0, 1] units; None for a network that takes [0, 1].
        std: likewise.
    """
    if not isinstance(mean, list | tuple) or not isinstance(std, list | tuple):
        return model
    return nn.Sequential(Normalize(tuple(map(float, mean)), tuple(map(float, std))), model)
