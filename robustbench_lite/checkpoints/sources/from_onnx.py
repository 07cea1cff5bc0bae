"""`onnx:FILE`: a network in ONNX, run by ONNX Runtime, or with gradients by onnx2torch."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.checkpoints.checkpoint import near_paths
from robustbench_lite.checkpoints.sources.contract import SourceNetwork, optional_package
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import file_sha256
from robustbench_lite.core.messages import described

_LOG = logging.getLogger(__name__)
_SAME = 1e-3  # largest difference of logits, relative to the largest logit, of the same network


class OnnxNetwork(nn.Module):
    """A network that ONNX Runtime computes on the CPU. Its logits carry no gradient.

    Args:
        content: bytes of the file.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content
        self._sessions: dict[int, Any] = {}
        inputs = self._session().get_inputs()
        if len(inputs) != 1:
            raise InputError(f"the ONNX network has {len(inputs)} inputs; it must have one: images")
        self._input = inputs[0].name
        self.shape: list[int | None] = [
            size if isinstance(size, int) else None for size in inputs[0].shape
        ]

    def __deepcopy__(self, memo: object) -> OnnxNetwork:
        return OnnxNetwork(self._content)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W); in pieces where the file fixes a batch size."""
        images = x.detach().cpu().numpy()
        fixed = self.shape[0] if self.shape else None
        if fixed is None or fixed == len(images):
            return torch.from_numpy(self._run(images)).to(x.device)
        pieces = []
        for start in range(0, len(images), fixed):
            piece = images[start : start + fixed]
            missing = fixed - len(piece)
            filled = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)])
            pieces.append(self._run(filled)[: len(piece)])
        return torch.from_numpy(np.concatenate(pieces)).to(x.device)

    def _run(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        logits: np.ndarray[Any, Any] = self._session().run(None, {self._input: images})[0]
        return logits

    def _session(self) -> Any:
        """With as many threads as torch has now: sums depend on it, and the header states it."""
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            runtime = optional_package("onnxruntime", wanted_by="onnx:", install="onnx")
            options = runtime.SessionOptions()
            options.intra_op_num_threads = threads
            options.log_severity_level = 3  # errors only
            self._sessions[threads] = runtime.InferenceSession(
                self._content, options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[threads]


def load(spec: str) -> SourceNetwork:
    """The network of an ONNX file: with gradients where onnx2torch can give them.

    The converted network is taken only if it gives the logits of ONNX Runtime. Which of the two
    computes is part of the network's identity, since attacks differ with it.

    Args:
        spec: path of the file.

    Raises:
        InputError: for a file that does not exist, is damaged, or has more than one input.
    """
    path = Path(spec)
    if not path.is_file():
        raise InputError(f"no file {path}{near_paths(path)}")
    onnx = optional_package("onnx", wanted_by="onnx:")
    try:
        graph = onnx.load(str(path))
        alone = onnx.load(str(path), load_external_data=False).SerializeToString()
    except Exception as error:  # protobuf's own, by a name that changes
        raise InputError(f"{path} is no ONNX file: {described(error)}") from error
    parameters = sum(int(np.prod(each.dims)) for each in graph.graph.initializer)
    content = graph.SerializeToString()
    plain = OnnxNetwork(content)
    shape = plain.shape[1:]
    fixed = [size for size in shape if size is not None]
    image_shape = (fixed[0], fixed[1], fixed[2]) if len(fixed) == len(shape) == 3 else None
    converted = _converted(graph, plain, image_shape)
    identity = {"file": file_sha256(path), "gradients": converted is not None}
    if content != alone:  # weights in a file beside it
        identity["content"] = hashlib.sha256(content).hexdigest()
    return SourceNetwork(
        path.name,
        converted or plain,
        identity,
        image_shape,
        parameters=parameters,
        note="onnx2torch" if converted else "queries only",
    )


def _converted(
    graph: Any, plain: OnnxNetwork, image_shape: tuple[int, int, int] | None
) -> nn.Module | None:
    """The network in torch; None where onnx2torch is missing, fails, or gives other logits."""
    if importlib.util.find_spec("onnx2torch") is None:
        _LOG.info("onnx2torch is not installed: the network has no gradients")
        return None
    try:
        onnx2torch = optional_package("onnx2torch", wanted_by="onnx:", install="onnx-gradients")
        model: nn.Module = onnx2torch.convert(graph).eval()
        if image_shape is None:
            return model
        x = torch.rand(3, *image_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits, expected = model(x), plain(x)
        difference = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
        if difference <= _SAME:
            return model
        reason = f"its logits differ by {difference:.2g} of the largest"
    except Exception as error:  # operators that it does not know, fixed batch sizes, ...
        reason = described(error)
    _LOG.warning("queries only, no gradients: onnx2torch does not convert it: %s", reason)
    return None
