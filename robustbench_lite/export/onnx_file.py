"""A checkpoint as an ONNX file, by PyTorch's own exporter."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_lite.checkpoints.checkpoint import checkpoint_hash, load_checkpoint
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import described
from robustbench_lite.core.storage import write_bytes

_PACKAGES = ("onnx", "onnxscript")  # what `torch.onnx.export` needs
_TOLERANCE = 1e-3  # float32 sums in another order differ by about 1e-6 of the largest logit
_CHECKED = 4  # images that both networks are asked about


def write_onnx(checkpoint: Path, out: Path) -> float | None:
    """Write a network as one ONNX file: images in [0, 1], `x` (B, C, H, W), to `logits` (B, K).

    The file's metadata holds the checkpoint's name and hash. Where onnxruntime is installed, the
    file is run before it is put in place.

    Args:
        checkpoint: folder of a checkpoint.
        out: the file, such as `net.onnx`.

    Returns:
        The largest difference of a logit between the file and the network, on 4 random images, as
        a share of the largest logit where that is above 1; None when onnxruntime is not installed.

    Raises:
        InputError: for a missing package, a network that cannot be exported, or a file whose
            logits are others.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"export to ONNX needs {', '.join(missing)}: pip install {' '.join(_PACKAGES)}"
        )
    model, card = load_checkpoint(checkpoint)
    shape = (_CHECKED, card.in_channels, *card.image_size)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    facts = {
        "name": card.name,
        "architecture": card.architecture,
        "checkpoint": checkpoint_hash(checkpoint),
        "input": json.dumps({"range": [0, 1], "shape": ["batch", *shape[1:]]}),
    }
    content = _exported(model, x, facts)
    difference = _largest_difference(content, model, x)
    if difference is not None and not difference <= _TOLERANCE:  # a NaN is refused too
        raise InputError(
            f"{checkpoint} gives other logits as ONNX (by {difference:.3g}): not written; report "
            "this with the versions of rbl doctor"
        )
    write_bytes(out, content)
    return difference


def _exported(model: nn.Module, x: Tensor, facts: dict[str, str]) -> bytes:
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (x,),
                input_names=["x"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
            )
    except Exception as error:  # the exporter raises whatever it trips over
        raise InputError(f"the network cannot be exported to ONNX: {described(error)}") from error
    finally:
        exporter.setLevel(level)
    if program is None:
        raise InputError("the network cannot be exported to ONNX: torch gave no program")
    proto = program.model_proto
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString()
    return content


def _largest_difference(content: bytes, model: nn.Module, x: Tensor) -> float | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    runtime = importlib.import_module("onnxruntime")  # an optional package
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = model(x)
    theirs = torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0])
    return float((theirs - ours).abs().max() / ours.abs().max().clamp(min=1.0))
