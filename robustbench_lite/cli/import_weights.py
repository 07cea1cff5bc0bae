"""`rbl import`: another project's weights to a checkpoint of ours."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from robustbench_lite.core.errors import InputError


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl import`."""
    parser.add_argument("weights", metavar="FILE")
    parser.add_argument("--arch", required=True, metavar="NAME", help="see rbl list models")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="gives classes and sizes")
    parser.add_argument(
        "--normalization",
        required=True,
        choices=("none", "dataset"),
        help="none: the network takes [0, 1] images (TRADES, LBGAT); dataset: its usual mean, std",
    )
    parser.add_argument("--entry", metavar="KEY", help="which weights, when the file holds several")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the architecture, such as final_bn=false; may be repeated",
    )
    parser.add_argument("--name", help="default: the file's stem")
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoint folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Import, and say what was renamed and dropped."""
    from robustbench_lite.checkpoints.import_weights import import_weights
    from robustbench_lite.datasets import dataset_info

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
        architecture_kwargs=dict(_option(text) for text in arguments.option),
        entry=arguments.entry,
    )
    print(report)
    print(f"checkpoint: {arguments.out}")


def _option(text: str) -> tuple[str, object]:
    """`final_bn=false` to ("final_bn", False); what is no TOML value is a string."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise InputError(f"--option {text!r} is not KEY=VALUE")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
