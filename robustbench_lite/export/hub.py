"""A checkpoint and its results as a folder for the Hugging Face Hub.

Source: https://huggingface.co/docs/hub/eval-results (`.eval_results/*.yaml`) and
https://huggingface.co/docs/hub/model-cards. Text is written as JSON strings, which YAML reads.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from robustbench_lite.checkpoints.checkpoint import (
    CARD_FILE,
    WEIGHTS_FILE,
    Card,
    checkpoint_hash,
    load_checkpoint,
)
from robustbench_lite.checkpoints.model_repository import (
    CONFIG_FILE,
    README_FILE,
    config_text,
    is_ours,
    readme_text,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.folder_swap import staging_folder
from robustbench_lite.leaderboard.results.records import Accuracy, Result

RESULTS_FOLDER = ".eval_results"
# The usual copies on the Hub of the data sets that we know by name.
HUB_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "svhn": "ufldl-stanford/svhn",
    "tiny_imagenet": "zh-plus/tiny-imagenet",
}
_CLEAN_TASK = "clean_accuracy"


def write_hub_folder(
    checkpoint: Path, results: Sequence[Result], out: Path, *, hub_dataset: str | None
) -> None:
    """Write a folder that `hf upload OWNER/NAME FOLDER` puts on the Hub as it is.

    Args:
        checkpoint: folder of a checkpoint; read and checked in full first.
        results: of this network; one YAML file and one row of the README each.
        out: the folder to write; must not exist.
        hub_dataset: the Hub's id of the data set, `OWNER/NAME`; None for the usual copy.

    Raises:
        InputError: for a folder that exists, a damaged checkpoint, results of another network or
            of a data set without an id, or a place that cannot be written.
    """
    _, card = load_checkpoint(checkpoint)
    identity = checkpoint_hash(checkpoint)
    for result in results:
        if result.model.hash != identity:
            raise InputError(
                f"result {result.name!r} is of another network ({result.model.hash[:19]}...) than "
                f"{checkpoint} ({identity[:19]}...): give the results of this checkpoint"
            )
    if out.exists():
        raise InputError(f"{out} exists: choose another folder or remove it")
    files = {
        CONFIG_FILE: config_text(card),
        README_FILE: _page(checkpoint, card, results),
        **_eval_results(results, hub_dataset),
    }
    staged = staging_folder(out.absolute())
    try:
        (staged / RESULTS_FOLDER).mkdir(parents=True)
        for name in (WEIGHTS_FILE, CARD_FILE):
            shutil.copyfile(checkpoint / name, staged / name)
        for name, text in files.items():
            (staged / name).write_text(text, encoding="utf-8")
        staged.rename(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _page(checkpoint: Path, card: Card, results: Sequence[Result]) -> str:
    """The README: the one that somebody wrote by hand, or ours with a table of the results."""
    path = checkpoint / README_FILE
    written = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return written if written and not is_ours(written) else readme_text(card, _table(results))


def _eval_results(results: Sequence[Result], hub_dataset: str | None) -> dict[str, str]:
    """File names and texts; of two results of one protocol the second gets a number."""
    files: dict[str, str] = {}
    for result in results:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{result.dataset.name}-{result.protocol.id}")
        stem = f"{RESULTS_FOLDER}/{name}"
        same = sum(name.startswith(f"{stem}.") for name in files)
        name = f"{stem}.{same + 1}.yaml" if same else f"{stem}.yaml"
        files[name] = eval_results_text(result, hub_dataset)
    return files


def eval_results_text(result: Result, hub_dataset: str | None) -> str:
    """`.eval_results/NAME.yaml`: clean and robust accuracy in percent, each with what it is of.

    Raises:
        InputError: without an id of the data set on the Hub.
    """
    usual = HUB_DATASETS.get(result.dataset.name) if result.dataset.canonical else None
    dataset = hub_dataset or usual
    if dataset is None:
        why = (
            "has no usual place on the Hub"
            if result.dataset.name not in HUB_DATASETS
            else "has other pixels than the one of that name on the Hub"
        )
        raise InputError(f"data set {result.dataset.name!r} {why}: give --hub-dataset OWNER/NAME")
    protocol = result.protocol
    robust = f"all attacks of {protocol.id} ({protocol.norm}, eps {protocol.eps})"
    entries = (
        (_CLEAN_TASK, result.clean_accuracy, "no attack"),
        (protocol.id, result.robust_accuracy, robust),
    )
    return "".join(
        f"- dataset:\n    id: {json.dumps(dataset)}\n    task_id: {json.dumps(task)}\n"
        f"  value: {accuracy.value * 100:.2f}\n"
        f"  notes: {json.dumps(_notes(result, accuracy, what))}\n"
        for task, accuracy, what in entries
    )


def _notes(result: Result, accuracy: Accuracy, what: str) -> str:
    flags = ", ".join(result.reasons)
    return (
        f"accuracy in percent; {what}; {result.dataset.split}, {result.examples.text}, 95% "
        f"interval {_interval(accuracy)}, {result.status}" + (f": {flags}" if flags else "")
    )


def _table(results: Sequence[Result]) -> str:
    if not results:
        return ""
    rows = "".join(
        f"| {result.dataset.name}, {result.examples.text} | {result.protocol.id} | "
        f"{_cell(result.clean_accuracy)} | {_cell(result.robust_accuracy)} | {result.status} |\n"
        for result in results
    )
    return (
        "\n## Robustness\n\nAccuracy in percent, with its 95% interval.\n\n"
        f"| data | protocol | clean | robust | status |\n|---|---|---|---|---|\n{rows}"
    )


def _cell(accuracy: Accuracy) -> str:
    return f"{accuracy.value * 100:.2f} ({_interval(accuracy)})"


def _interval(accuracy: Accuracy) -> str:
    lower, upper = accuracy.interval
    return f"{lower * 100:.2f} to {upper * 100:.2f}"
