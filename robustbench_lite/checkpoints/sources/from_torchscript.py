"""`torchscript:FILE`: an archive of `torch.jit.save`, which holds the code of the network too."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from robustbench_lite.checkpoints.checkpoint import near_paths
from robustbench_lite.checkpoints.sources.contract import SourceNetwork
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import file_sha256


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
    try:
        with warnings.catch_warnings():  # torch.jit is deprecated; archives of it stay
            warnings.simplefilter("ignore", DeprecationWarning)
            model = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} is no TorchScript archive: write it with torch.jit.save, or convert weights "
            "with rbl import"
        ) from error
    return SourceNetwork(path.name, model, {"file": file_sha256(path)})
