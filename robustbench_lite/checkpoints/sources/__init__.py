"""Where networks come from beside checkpoints and factories: `--model KIND:NAME`.

One small file a kind. Listing them imports none of the libraries: each is imported when it is asked
for. A loader takes what stands after the colon and returns a `SourceNetwork`.
"""

from __future__ import annotations

from robustbench_lite.core.registry import Entry, Registry

__all__ = ["RUN_CODE", "SOURCES"]

_HERE = "robustbench_lite.checkpoints.sources"

SOURCES = Registry(
    "source of networks",
    {
        "timm": Entry(
            f"{_HERE}.from_timm:load",
            "timm:NAME[@FILE], a pretrained network of timm, or its architecture with your weights",
            "pip install timm",
        ),
        "torchvision": Entry(
            f"{_HERE}.from_torchvision:load",
            "torchvision:NAME[.WEIGHTS][@FILE], likewise of torchvision",
            "pip install torchvision",
        ),
        "hub": Entry(
            f"{_HERE}.from_hub:load",
            "hub:OWNER/REPO[@REVISION], safetensors on the Hugging Face Hub; runs no code of it",
            "pip install huggingface_hub",
        ),
        "robustbench": Entry(
            f"{_HERE}.from_robustbench:load",
            "robustbench:[DATASET/NORM/]NAME[@FILE], of RobustBench's model zoo",
            "pip install robustbench",
        ),
        "torchscript": Entry(
            f"{_HERE}.from_torchscript:load",
            "torchscript:FILE, with --allow-code: the file holds code",
            "torch",
        ),
        "onnx": Entry(
            f"{_HERE}.from_onnx:load",
            "onnx:FILE, queries only; with gradients where onnx2torch is installed",
            "pip install onnx onnxruntime",
        ),
    },
)

RUN_CODE = frozenset({"torchscript"})
"""Kinds whose files hold code that loading runs."""
