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
            "NAME[.TAG][@FILE]: pretrained, or with weights of your own",
            "robustbench-lite[timm]",
        ),
        "torchvision": Entry(
            f"{_HERE}.from_torchvision:load",
            "NAME[.WEIGHTS][@FILE]: pretrained, or with weights of your own",
            "robustbench-lite[torchvision]",
        ),
        "hub": Entry(
            f"{_HERE}.from_hub:load",
            "OWNER/REPO[@REVISION] on the Hugging Face Hub: safetensors, no code",
            "robustbench-lite[hub]",
        ),
        "robustbench": Entry(
            f"{_HERE}.from_robustbench:load",
            "[DATASET/NORM/]NAME[@FILE] of RobustBench's model zoo",
            "robustbench-lite[robustbench]",
        ),
        "torchscript": Entry(
            f"{_HERE}.from_torchscript:load",
            "FILE of torch.jit.save; needs --allow-code, since it holds code",
            "",
        ),
        "onnx": Entry(
            f"{_HERE}.from_onnx:load",
            "FILE: queries only; with gradients by robustbench-lite[onnx-gradients]",
            "robustbench-lite[onnx]",
        ),
    },
)

RUN_CODE = frozenset({"torchscript"})
"""Kinds whose files hold code that loading runs."""
