"""Data sets: decoded once to uint8 tensors, hashed, cached.

Listing names and reading `dataset_info` imports no torch; everything else loads on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustbench_lite.datasets.catalogue import DATASETS, SPLITS, dataset_info
from robustbench_lite.datasets.info import DatasetInfo

if TYPE_CHECKING:
    from robustbench_lite.datasets.augmentation import pad_crop_flip, rotate
    from robustbench_lite.datasets.loading import load_split
    from robustbench_lite.datasets.splits import Split, hold_out

__all__ = [
    "DATASETS",
    "SPLITS",
    "DatasetInfo",
    "Split",
    "dataset_info",
    "hold_out",
    "load_split",
    "pad_crop_flip",
    "rotate",
]

_LAZY = {
    "Split": "splits",
    "hold_out": "splits",
    "load_split": "loading",
    "pad_crop_flip": "augmentation",
    "rotate": "augmentation",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
