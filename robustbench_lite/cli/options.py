"""What the argument lists of the commands share. Importing it needs only the standard library."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from robustbench_lite.checkpoints.model_source import LoadedModel
    from robustbench_lite.datasets import Split
    from robustbench_lite.datasets.selection import Selection

Run = Callable[[argparse.Namespace], int | None]
"""Does a command's work; returns its exit code (None: 0)."""


def set_run(parser: argparse.ArgumentParser, run: Run) -> None:
    """Let a command's parser call `run`, with the defaults of what a command may take or do."""
    parser.set_defaults(
        run=run,
        takes_overrides=False,
        takes_checkpoints=False,
        takes_workers=False,
        resumes=False,
    )


def add_step(steps: Any, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    """Add a step such as `rbl submit check` to what `add_subparsers` gave."""
    parser: argparse.ArgumentParser = steps.add_parser(name, help=summary, description=summary)
    set_run(parser, run)
    return parser


def add_network(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Arguments that name a network, or networks: checkpoint folders, or other sources."""
    parser.add_argument(
        "checkpoint",
        nargs="*" if several else "?",
        metavar="CHECKPOINT",
        help="checkpoint folders" if several else "a checkpoint folder",
    )
    parser.add_argument(
        "--model",
        metavar="SOURCE",
        action="append" if several else "store",
        help="instead: FILE.py:factory or package.module:factory, or timm:, torchvision:, hub:, "
        "robustbench:, torchscript:, onnx: and a name (docs/models.md)"
        + ("; may be repeated" if several else ""),
    )
    parser.add_argument(
        "--allow-code", action="store_true", help="let --model run the code of its file"
    )


def chosen_network(arguments: argparse.Namespace) -> LoadedModel:
    """The network that the arguments of `add_network` name, on the CPU.

    Raises:
        InputError: unless exactly one is named; or for what `resolve_model` refuses.
    """
    from robustbench_lite.checkpoints.model_source import resolve_model

    if (arguments.checkpoint is None) == (arguments.model is None):
        raise InputError("give either a CHECKPOINT folder or --model SOURCE")
    return resolve_model(
        arguments.checkpoint or arguments.model, allow_code=arguments.allow_code, device="cpu"
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Options of all commands that compute: where data comes from, device and threads."""
    parser.add_argument(
        "--data-dir", metavar="DIR", help="local Parquet folder or archives, instead of a download"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def add_data(
    parser: argparse.ArgumentParser,
    *,
    splits: bool = True,
    default: str = "that of the checkpoint",
) -> None:
    """Options that name the images: a data set, or a user's own.

    Args:
        parser: of the command.
        splits: whether another split than test may be chosen.
        default: what is taken without `--dataset`, for the help text.
    """
    parser.add_argument(
        "--dataset",
        metavar="DATA",
        help="a name of rbl list datasets; or folder:DIR, parquet:DIR, npz:FILE, FILE.py:factory "
        f"(default: {default})",
    )
    parser.add_argument(
        "--image-size",
        metavar="N",
        help="of folder: and parquet:, N or HEIGHTxWIDTH: scale each image to cover it, and cut "
        "out its middle",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="of your own data: one class a line, in the order of the labels; or their number",
    )
    if splits:
        parser.add_argument("--split", default="test", choices=("test", "train"))


def check_data(arguments: argparse.Namespace) -> None:
    """Refuse an unknown name before a network is loaded.

    Raises:
        InputError: for a name that is neither a data set nor a source of one's own.
    """
    from robustbench_lite.datasets.catalogue import dataset_info, is_own

    name = arguments.dataset
    if name is not None and not is_own(name) and not _is_factory(name):
        dataset_info(name)


def chosen_data(arguments: argparse.Namespace, trained_on: str, *, progress: bool = True) -> Split:
    """The split that the options of `add_data` and `add_place` name.

    Args:
        arguments: of the command.
        trained_on: the data set of the checkpoint; empty when nobody said.
        progress: show download bars.

    Raises:
        InputError: when no data set is named, or it cannot be loaded.
    """
    from robustbench_lite.datasets import load_split

    name, split = arguments.dataset or trained_on, getattr(arguments, "split", "test")
    if not name:
        raise InputError("the network does not say what it was trained on: add --dataset NAME")
    if _is_factory(name):
        return _made_data(arguments, name, split)
    return load_split(
        name,
        split,
        data_dir=arguments.data_dir,
        progress=progress,
        image_size=arguments.image_size,
        classes=arguments.classes,
    )


def _is_factory(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _made_data(arguments: argparse.Namespace, name: str, split: str) -> Split:
    """What a factory of the user's own gives for a split."""
    from robustbench_lite.checkpoints.model_source import named_object
    from robustbench_lite.checkpoints.user_network import user_code
    from robustbench_lite.datasets.sources import own_split, read_classes

    if arguments.image_size is not None:
        raise InputError("--image-size is for folder: and parquet:; a factory resizes by itself")
    classes = None if arguments.classes is None else read_classes(arguments.classes)
    with named_object(name, what="--dataset", allow_code=arguments.allow_code) as factory:
        if not callable(factory):
            raise InputError(
                f"--dataset {name} is no function; it must be one that takes the split"
            )
        with user_code(f"--dataset {name} fails for split {split!r}"):
            made = own_split(factory(split), Path(name).name, split, classes)
    return made


def add_images(
    parser: argparse.ArgumentParser, *, default: str = "all", files: bool = True
) -> None:
    """Options that choose the images of a split: the first N, a random sample, or a list.

    Args:
        parser: of the command.
        default: what is taken without them, for the help text.
        files: whether a list may be given.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--n", type=int, metavar="N", help=f"first N images (default: {default})")
    group.add_argument(
        "--sample", type=int, metavar="N", help="N images at random, the same for everybody"
    )
    if files:
        group.add_argument(
            "--subset", metavar="FILE", help="images by id: one a line, or a JSON list"
        )
    parser.add_argument(
        "--sample-seed", type=int, metavar="S", help="of --sample: another draw (default: 0)"
    )


def check_images(arguments: argparse.Namespace) -> None:
    """Refuse what no data set can have, before anything is loaded.

    Raises:
        InputError: for a number below 1, or `--sample-seed` without `--sample`.
    """
    for name in ("n", "sample"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            raise InputError(f"--{name} {number} must be at least 1")
    if arguments.sample_seed is not None and arguments.sample is None:
        raise InputError("--sample-seed belongs to --sample N")


def chosen_images(
    arguments: argparse.Namespace, data: Split, whole: int | None = None
) -> Selection:
    """The images that the options of `add_images` choose.

    Args:
        arguments: of the command.
        data: the split.
        whole: how many are taken, from the first, where no option is given; None takes all.

    Raises:
        InputError: for images that the split does not have, or a file that names none.
    """
    from robustbench_lite.datasets.selection import first_images, listed_images, random_images

    what = f"{data.name} {data.split}"
    if arguments.sample is not None:
        return random_images(arguments.sample, len(data), arguments.sample_seed or 0)
    if getattr(arguments, "subset", None) is not None:
        return listed_images(arguments.subset, len(data), what=what)
    n = whole if arguments.n is None else arguments.n
    return first_images(n, len(data), what=what)


def folder_name(text: str) -> str:
    """A folder name: whatever is not a letter, digit or one of `._@-` becomes `_`."""
    return re.sub(r"[^\w.@-]", "_", text).lstrip(".") or "_"
