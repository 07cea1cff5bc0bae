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
        choices=("none", "dataset", "stored"),
        help="none: the network takes [0, 1] images (TRADES, LBGAT); dataset: its usual mean, std; "
        "stored: those in the file",
    )
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            type=float,
            metavar="NUMBER",
            help=f"{name} of the normalisation instead, one number a channel, for [0, 1] images",
        )
    parser.add_argument(
        "--entry", metavar="KEY", help="which weights, when the file holds several: state_dict.0"
    )
    parser.add_argument(
        "--prefix", default="", help="what the names begin with; common ones are recognised"
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="PATTERN",
        help="names to leave out, such as 'criterion.*'; may be repeated",
    )
    parser.add_argument(
        "--map", metavar="FILE", help='TOML of renamed layers: "features.0" = "conv1"'
    )
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
    from robustbench_lite.checkpoints.weight_names import NameRules, read_renames
    from robustbench_lite.datasets import dataset_info

    info = dataset_info(arguments.dataset)
    mean, std = _normalization(arguments, info.channels)
    if arguments.normalization == "dataset":
        mean, std = info.mean, info.std
    report = import_weights(
        Path(arguments.weights),
        architecture=arguments.arch,
        num_classes=info.num_classes,
        in_channels=info.channels,
        image_size=info.image_size,
        mean=mean,
        std=std,
        dataset=info.name,
        name=arguments.name or Path(arguments.weights).stem,
        out=Path(arguments.out),
        architecture_kwargs=dict(_option(text) for text in arguments.option),
        entry=arguments.entry,
        rules=NameRules(
            prefix=arguments.prefix,
            drop=tuple(arguments.drop),
            renames=read_renames(Path(arguments.map)) if arguments.map else {},
        ),
        use_stored_normalization=arguments.normalization == "stored",
    )
    print(report)
    print(f"checkpoint: {arguments.out}")


_Values = tuple[float, ...] | None


def _normalization(arguments: argparse.Namespace, channels: int) -> tuple[_Values, _Values]:
    """`--mean` and `--std` for all channels; None where they are not given."""
    mean, std = arguments.mean, arguments.std
    if (mean is None) != (std is None):
        raise InputError("--mean and --std go together: give both, or --normalization")
    if mean is None or std is None:
        if arguments.normalization is None:
            raise InputError(
                "--normalization is missing: none, dataset, stored (in the file), or give --mean "
                "and --std"
            )
        return None, None
    if arguments.normalization is not None:
        raise InputError(
            f"--mean and --std say another normalisation than --normalization "
            f"{arguments.normalization}: give one of the two"
        )
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels) or not all(0.0 <= v <= 1.0 for v in values):
            raise InputError(
                f"{name} {' '.join(map(str, values))} must be 1 or {channels} numbers in [0, 1]: "
                "divide by 255 what is meant for images in 0..255"
            )
    if 0.0 in std:
        raise InputError("--std must be above 0")
    return tuple(mean * channels)[:channels], tuple(std * channels)[:channels]


def _option(text: str) -> tuple[str, object]:
    """`final_bn=false` to ("final_bn", False); what is no TOML value is a string."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise InputError(f"--option {text!r} is not KEY=VALUE")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
