"""A checkpoint is a folder: `model.safetensors` (weights) and `card.json` (all that explains them).

`config.json` and `README.md` make it a Hugging Face model repository; we never read them.

Loading runs no code from the folder: the card names a registered architecture, the weights are
plain tensors, and both must agree exactly.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from robustbench_lite.checkpoints.card import (
    CARD_FILE,
    SCHEMA_VERSION,
    Card,
    card_text,
    function_fields,
    network_of,
    read_card,
    read_card_file,
)
from robustbench_lite.checkpoints.model_repository import (
    CONFIG_FILE,
    README_FILE,
    config_text,
    is_ours,
    readme_text,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.folder_swap import publish, staging_folder, sync
from robustbench_lite.models.classifier import Classifier

__all__ = [
    "CARD_FILE",
    "SCHEMA_VERSION",
    "WEIGHTS_FILE",
    "Card",
    "check_weights",
    "checkpoint_hash",
    "load_checkpoint",
    "model_hash",
    "near_paths",
    "network_digest",
    "network_without_weights",
    "parameter_count",
    "put_on_device",
    "read_card",
    "save_checkpoint",
    "some_names",
]

WEIGHTS_FILE = "model.safetensors"
PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".tar", ".bin")
_SHOWN = 4  # keys named in a message before "and N more"


def save_checkpoint(folder: str | Path, model: nn.Module, card: Card) -> None:
    """Write a checkpoint folder, all of it or nothing.

    A checkpoint already there is exchanged for the new one in one step where the file system can
    (Linux `renameat2`), and its other files (such as `metrics.jsonl`) stay; a failure, such as a
    full disk, leaves it as it was.

    Args:
        folder: created with its parents.
        model: the plain network (not compiled, not wrapped); shared weights are stored twice.
        card: must describe this network.

    Raises:
        InputError: when card and network disagree, a weight is NaN or infinite, the card holds what
            JSON cannot, or the folder cannot be written.
    """
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    _check_card_describes(card, model)
    reference = network_without_weights(card)
    check_weights(tensors, reference, "the network", card.num_classes)
    _check_count(card, reference, "the network")
    weights = save(tensors, metadata={"format": "pt"})
    text = card_text(card, hashlib.sha256(weights).hexdigest())
    target = Path(os.path.realpath(folder))
    staged = staging_folder(target)
    try:
        staged.mkdir(parents=True)
        # By way of memory: safetensors' own writer makes files that only their owner can read.
        (staged / WEIGHTS_FILE).write_bytes(weights)
        (staged / CARD_FILE).write_text(text, encoding="utf-8")
        beside = _write_repository_files(staged, target, card)
        for path in (staged / WEIGHTS_FILE, staged / CARD_FILE, staged):
            sync(path)
        publish(staged, target, order=(WEIGHTS_FILE, CARD_FILE), beside=beside)
    except OSError as error:
        raise InputError(
            f"cannot write checkpoint {folder}: {error}; what was there before is unchanged; "
            "free space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_repository_files(staged: Path, target: Path, card: Card) -> tuple[str, ...]:
    """Write what only other programs read; a README written by hand stays as it is."""
    (staged / CONFIG_FILE).write_text(config_text(card), encoding="utf-8")
    readme = target / README_FILE
    if readme.is_file() and not is_ours(readme.read_text(encoding="utf-8", errors="replace")):
        return (CONFIG_FILE,)
    (staged / README_FILE).write_text(readme_text(card), encoding="utf-8")
    return (CONFIG_FILE, README_FILE)


def load_checkpoint(
    folder: str | Path, *, device: str | torch.device = "cpu"
) -> tuple[nn.Module, Card]:
    """Read a checkpoint folder; strict, and without running code from it.

    Args:
        folder: as written by `save_checkpoint`.
        device: where the network is put.

    Returns:
        The network in eval mode, and its card.

    Raises:
        InputError: one line for anything missing, truncated, unknown, of another shape or not
            finite; and for a pickle given instead of a folder.
    """
    card, tensors = _read_folder(folder)
    try:
        reference = network_without_weights(card)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    check_weights(tensors, reference, str(folder), card.num_classes)
    _check_count(card, reference, str(folder))
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
        model = network_of(card)
    model.load_state_dict(tensors, strict=True)
    return put_on_device(model, device).eval(), card


def checkpoint_hash(folder: str | Path) -> str:
    """Identity of the function a checkpoint computes.

    Returns:
        `"sha256:..."` over all tensors (names, dtypes, shapes, bytes) and the card's fields that
        determine the function; name, notes, metrics and the folder's own name do not count.

    Raises:
        InputError: for a folder that is not a checkpoint.
    """
    card, tensors = _read_folder(folder)
    return network_digest(function_fields(card), tensors)


def model_hash(model: nn.Module) -> str:
    """Identity of a network that has no card, as far as its tensors and module classes tell.

    Args:
        model: any module. What its `forward` does beyond its modules is not seen.

    Returns:
        `"sha256:..."` over all parameters and buffers, also those outside the `state_dict`, and
        the class of every submodule.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors |= {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    classes = [[name, type(module).__qualname__] for name, module in model.named_modules()]
    return network_digest({"modules": classes}, tensors)


def network_digest(header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """`"sha256:..."` over what says which network it is, and its tensors by name."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"\n{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def parameter_count(model: nn.Module) -> int:
    """How many numbers training changes; shared ones once, buffers not at all."""
    return sum(parameter.numel() for parameter in model.parameters())


def network_without_weights(card: Card) -> nn.Module:
    """The card's network on the meta device: names, shapes and dtypes, no memory.

    Raises:
        InputError: for an unknown architecture or option.
    """
    with torch.device("meta"):
        return network_of(card)


def put_on_device(model: nn.Module, device: str | torch.device) -> nn.Module:
    """Move a network.

    Raises:
        InputError: for a device that does not exist here or has no room.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise InputError(f"device {str(device)!r} cannot be used: {_first_line(error)}") from error


def check_weights(
    tensors: Mapping[str, Tensor],
    reference: nn.Module,
    source: str,
    num_classes: int,
    advice: str = "use the architecture and options of the weights",
) -> None:
    """Compare weights with the network they are meant for.

    Args:
        tensors: by name.
        reference: the network, possibly on the meta device.
        source: what to call the weights in a message.
        num_classes: K of the reference.
        advice: what to do when names do not fit.

    Raises:
        InputError: for missing or unexpected names, another shape, dtype or number of classes, or a
            NaN or infinite weight.
    """
    expected = reference.state_dict()
    head = tensors.get("head.weight")
    if head is not None and "head.weight" in expected and head.dim() == 2:
        found = head.shape[0]
        if found != num_classes:
            raise InputError(
                f"{source} has weights for K={found} classes, num_classes is {num_classes}: "
                "use the number of classes the weights were trained with"
            )
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected:
        raise InputError(
            f"{source} does not fit the architecture: missing {some_names(missing)}; "
            f"unexpected {some_names(unexpected)}; {advice}"
        )
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise InputError(
                f"{source}: {name} is {tuple(tensor.shape)} {tensor.dtype}, the architecture "
                f"needs {tuple(wanted.shape)} {wanted.dtype}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{source}: {name} holds NaN or infinite weights: training diverged or the file "
                "is damaged"
            )


def some_names(names: Sequence[str]) -> str:
    """The first few names of a list and how many more there are, for one line."""
    if not names:
        return "nothing"
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def near_paths(path: Path) -> str:
    """A hint naming entries beside a path that does not exist; `""` when none is similar."""
    try:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.name[:1] != "."]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    names = " or ".join(str(path.parent / name) for name in near)
    return f"; did you mean {names}?" if near else ""


def _read_folder(folder: str | Path) -> tuple[Card, dict[str, Tensor]]:
    path = Path(folder)
    if path.is_file():
        pickled = path.suffix.lower() in PICKLE_SUFFIXES
        what = "a pickled file" if pickled else "a file"
        raise InputError(
            f"{path} is {what}, not a checkpoint folder: convert weights with "
            f"'rbl import {path} --arch ...'"
        )
    if not path.is_dir():
        raise InputError(f"no checkpoint folder {path}{near_paths(path)}")
    for name in (CARD_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise InputError(
                f"{path} has no {name}: a checkpoint folder holds {WEIGHTS_FILE} and {CARD_FILE}"
            )
    card, expected = read_card_file(path / CARD_FILE)
    weights = path / WEIGHTS_FILE
    try:
        content = weights.read_bytes()
        if expected and hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"not the weights that {CARD_FILE} describes")
        return card, load(content)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{weights} is damaged or incomplete ({_first_line(error)}): copy it again"
        ) from error


def _check_card_describes(card: Card, model: nn.Module) -> None:
    built = model.build_arguments if isinstance(model, Classifier) else {}
    stated = function_fields(card)
    for name, value in built.items():
        if value != stated[name]:
            raise InputError(
                f"card says {name}={stated[name]!r}, the network was built with {value!r}"
            )


def _check_count(card: Card, reference: nn.Module, source: str) -> None:
    count = parameter_count(reference)
    if card.parameters != count:
        raise InputError(
            f"{source}: the card says {card.parameters} parameters, {card.architecture} has "
            f"{count}: card and weights do not belong together"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
