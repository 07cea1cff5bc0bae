"""The state of a training as one file: equal states are equal bytes, and damage is found.

A safetensors file: tensors as they are, everything else as JSON in its metadata, with a hash of
both. (Two files of `torch.save` differ in bytes though the tensors are equal.)
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robustbench_lite.checkpoints.checkpoint import network_digest
from robustbench_lite.core.integrity import ChecksumError

_KEY = "robustbench_lite"


def state_bytes(state: object) -> bytes:
    """A state as the bytes of a file.

    Args:
        state: nested dicts, lists and tuples of tensors, numbers, text, truth values and None. Keys
            are numbers or text.

    Raises:
        TypeError: for anything else.
    """
    tensors: dict[str, Tensor] = {}
    described = {"state": _described(state, "", tensors)}
    whole = {**described, "sha256": network_digest(described, tensors)}
    return bytes(save(tensors, metadata={_KEY: json.dumps(whole, sort_keys=True)}))


def read_state(content: bytes, device: torch.device) -> Any:
    """What `state_bytes` was given, its tensors on a device.

    Raises:
        ChecksumError: for bytes that are not those that were written, in one line.
    """
    try:
        tensors = load(content)
        # The metadata is JSON inside the JSON of safetensors' header, whose length comes first.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        described = json.loads(header["__metadata__"][_KEY])
        digest = described.pop("sha256")
        whole = bool(digest == network_digest(described, tensors))
        state = _restored(described["state"], {k: v.to(device) for k, v in tensors.items()})
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ChecksumError((str(error) or type(error).__name__).splitlines()[0]) from error
    if not whole:
        raise ChecksumError("the content does not fit its checksum")
    return state


def _described(value: object, name: str, tensors: dict[str, Tensor]) -> object:
    """A value as JSON; tensors go to `tensors`, under names made of their place."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        pairs = [[_key(k), _described(v, f"{name}/{k}", tensors)] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        items = [_described(item, f"{name}/{place}", tensors) for place, item in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name or 'the state'} is a {type(value).__name__}, which cannot be stored")


def _key(key: object) -> int | str:
    if isinstance(key, int | str):
        return key
    raise TypeError(f"a key of the state is a {type(key).__name__}; need int or str")


def _restored(described: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(described, dict):
        return described
    ((kind, content),) = described.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _restored(value, tensors) for key, value in content}
    items = [_restored(item, tensors) for item in content]
    return {"list": list, "tuple": tuple}[kind](items)
