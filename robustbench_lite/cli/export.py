"""`rbl export`: a checkpoint or results in the formats of others, without network."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.results.records import Result

PAPER = {
    "link": "address of the paper",
    "title": "title of the paper",
    "authors": "its authors, separated by commas",
    "venue": "where it appeared, such as 'ICML 2023'",
    "reported": "robust accuracy that it reports, in percent",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl export`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="hub, onnx: a checkpoint folder; else results"
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=tuple(_TARGETS),
        help="hub: a folder for the Hugging Face Hub; robustbench: model_info JSON; "
        "every-eval-ever: records of that schema; onnx: an ONNX file",
    )
    parser.add_argument("--out", required=True, metavar="PATH", help="folder; with onnx, the file")
    hub = parser.add_argument_group("with --to hub")
    hub.add_argument(
        "--results", nargs="+", default=[], metavar="PATH", help="results of the checkpoint"
    )
    hub.add_argument("--hub-dataset", metavar="OWNER/NAME", help="the data set's id on the Hub")
    paper = parser.add_argument_group("with --to robustbench")
    for name, text in PAPER.items():
        paper.add_argument(f"--{name}", help=text)
    record = parser.add_argument_group("with --to every-eval-ever")
    record.add_argument("--organization", metavar="NAME", help="who evaluated")
    record.add_argument(
        "--relationship",
        choices=("first_party", "third_party", "collaborative", "other"),
        help="of who evaluated to the network's authors; first_party: the same",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the export, and say where."""
    _TARGETS[arguments.to](arguments)


def _hub(arguments: argparse.Namespace) -> None:
    from robustbench_lite.export.hub import write_hub_folder
    from robustbench_lite.leaderboard import load_results

    results = load_results(arguments.results)
    write_hub_folder(
        Path(arguments.source), results, Path(arguments.out), hub_dataset=arguments.hub_dataset
    )
    print(f"folder with {len(results)} result{'s' * (len(results) != 1)}: {arguments.out}")
    print(f"next: hf upload OWNER/NAME {arguments.out}")


def _onnx(arguments: argparse.Namespace) -> None:
    from robustbench_lite.export.onnx_file import write_onnx

    difference = write_onnx(Path(arguments.source), Path(arguments.out))
    checked = "not run: onnxruntime is not installed"
    if difference is not None:
        checked = f"run by onnxruntime: logits differ by at most {difference:.2g}"
    print(f"{arguments.out} ({checked})")


def _robustbench(arguments: argparse.Namespace) -> None:
    from robustbench_lite.export.robustbench import Paper, model_info, model_info_path

    paper = Paper(
        link=arguments.link,
        name=arguments.title,
        authors=arguments.authors,
        venue=arguments.venue,
        reported=arguments.reported,
    )
    _write(arguments, model_info_path, lambda result: model_info(result, paper))


def _every_eval_ever(arguments: argparse.Namespace) -> None:
    from robustbench_lite.export.every_eval_ever import (
        Evaluator,
        every_eval_ever_record,
        record_path,
    )

    if arguments.organization is None or arguments.relationship is None:
        raise InputError("--to every-eval-ever needs --organization and --relationship")
    # The usual variable for files that are the same whenever they are made.
    timestamp = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    evaluator = Evaluator(arguments.organization, arguments.relationship, timestamp)
    _write(
        arguments,
        lambda result: record_path(result, evaluator),
        lambda result: every_eval_ever_record(result, evaluator),
    )


def _write(
    arguments: argparse.Namespace,
    path_of: Callable[[Result], Path],
    content_of: Callable[[Result], Mapping[str, object]],
) -> None:
    """A JSON file for each result; all are made before the first is written."""
    from robustbench_lite.core.storage import write_json
    from robustbench_lite.leaderboard import load_results

    files: dict[Path, Mapping[str, object]] = {}
    for result in load_results([arguments.source]):
        path = Path(arguments.out) / path_of(result)
        if path in files:
            raise InputError(f"{arguments.source} holds two results for {path}: export them apart")
        files[path] = content_of(result)
    if not files:
        raise InputError(f"{arguments.source} holds no result: give a result folder")
    for path, content in files.items():
        write_json(path, content)
        print(path)


_TARGETS: dict[str, Callable[[argparse.Namespace], None]] = {
    "hub": _hub,
    "robustbench": _robustbench,
    "every-eval-ever": _every_eval_ever,
    "onnx": _onnx,
}
