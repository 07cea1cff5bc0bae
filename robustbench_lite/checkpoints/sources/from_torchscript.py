"""`torchscript:FILE`: an archive of `torch.jit.save`, which holds the code of the network too."""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.checkpoints.checkpoint import near_paths
from robustbench_lite.checkpoints.sources.contract import SourceNetwork
from robustbench_lite.core.errors import InputError


class ScriptNetwork(nn.Module):
    """A TorchScript network as a module with buffers, and no modules inside.

    Script modules lack parts of `nn.Module`: frozen ones have no `training`, and keep their weights
    as constants that `to()` does not move. Its tensors are shown as buffers, so that a change of
    them is seen.

    Args:
        content: bytes of the archive.
        script: the network in it, in eval mode.
        device: of its weights.
    """

    def __init__(self, content: bytes, script: Any, device: torch.device) -> None:
        super().__init__()
        self._content, self._device = content, device
        self._show(script)

    def forward(self, x: Tensor) -> Any:
        """What the script returns for images (B, C, H, W)."""
        return self._script[0](x)

    def __deepcopy__(self, memo: object) -> ScriptNetwork:
        return ScriptNetwork(self._content, copy.deepcopy(self._script[0]), self._device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScriptNetwork:
        """Move to another device by reading the archive again; its precision stays."""
        device = fn(torch.zeros((), device=self._device)).device
        if device != self._device:
            self._device = device
            self._show(_read(self._content, device))
        return self

    def _show(self, script: Any) -> None:
        self._script = [script]  # in a list: no module of this one
        for name, tensor in script.state_dict().items():
            self.register_buffer(name.replace(".", "/"), tensor, persistent=False)


def load(spec: str) -> SourceNetwork:
    """The network of a TorchScript archive.

    Args:
        spec: path of the file. Its code runs; the caller has asked for permission.

    Raises:
        InputError: for a file that does not exist, or is no such archive.
    """
    path = Path(spec)
    if not path.is_file():
        raise InputError(f"no file {path}{near_paths(path)}")
    content, device = path.read_bytes(), torch.device("cpu")
    try:
        script = _read(content, device)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} is no TorchScript archive: write it with torch.jit.save, or convert weights "
            "with rbl import"
        ) from error
    return SourceNetwork(
        path.name,
        ScriptNetwork(content, script, device),
        {"file": hashlib.sha256(content).hexdigest()},
        parameters=sum(parameter.numel() for parameter in script.parameters()),
    )


def _read(content: bytes, device: torch.device) -> Any:
    """In eval mode; its parameters need no gradient, as copies of them could not be frozen."""
    with warnings.catch_warnings():  # torch.jit is deprecated; archives of it stay
        warnings.simplefilter("ignore", DeprecationWarning)
        script: Any = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
    if hasattr(script, "training"):
        script.eval()
    for parameter in script.parameters():
        parameter.requires_grad_(False)
    return script
