"""`rbl import`: another project's weights to a checkpoint of ours."""

from __future__ import annotations

import argparse
from pathlib import Path


def run(arguments: argparse.Namespace) -> None:
    """Import, and say what was renamed and dropped."""
    from robustbench_lite.datasets import dataset_info
    from robustbench_lite.weights_import import import_weights

    info = dataset_info(arguments.dataset)
    plain = arguments.normalization == "none"
    report = import_weights(
        Path(arguments.weights),
        architecture=arguments.arch,
        num_classes=info.num_classes,
        in_channels=info.channels,
        image_size=info.image_size,
        mean=None if plain else info.mean,
        std=None if plain else info.std,
        dataset=info.name,
        name=arguments.name or Path(arguments.weights).stem,
        out=Path(arguments.out),
        architecture_kwargs={},
    )
    print(report)
    print(f"checkpoint: {arguments.out}")
