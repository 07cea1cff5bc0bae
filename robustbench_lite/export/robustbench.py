"""A result as RobustBench's `model_info/DATASET/NORM/NAME.json`.

Source: RobustBench (Croce et al. 2021, arXiv:2010.09670), `ModelInfo` and `ACC_FIELDS` in
`robustbench/utils.py`, and the files in `model_info/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.flag_rules import AUTOATTACKS
from robustbench_lite.leaderboard.results.records import Accuracy, Result

DATASETS = ("cifar10", "cifar100", "imagenet")  # `BenchmarkDataset`
NORMS = ("Linf", "L2")  # `ThreatModel`, without corruptions
_EXAMPLES = {"imagenet": 5000}  # of its validation images; of the others all 10,000
_ALL = 10_000


@dataclass(frozen=True)
class Paper:
    """What a result does not say of a network; None is written as null, to be filled in.

    Args:
        link: address of the paper.
        name: its title.
        authors: their names, separated by commas.
        venue: where and when it appeared, such as `ICML 2023`.
        reported: robust accuracy that the paper reports, in percent.
    """

    link: str | None = None
    name: str | None = None
    authors: str | None = None
    venue: str | None = None
    reported: str | None = None


def model_info(result: Result, paper: Paper) -> dict[str, object]:
    """The entry of RobustBench's table: accuracies in percent, as text with two decimals.

    `autoattack_acc` is what AutoAttack leaves by itself. When the other attacks of the protocol
    break more, `external` holds what all of them leave; RobustBench ranks by it where it is given.

    Raises:
        InputError: for a data set or norm that RobustBench has no table of, and for a result
            without standard AutoAttack.
    """
    if result.dataset.name not in DATASETS:
        raise InputError(
            f"RobustBench has no table of {result.dataset.name!r}, only of {', '.join(DATASETS)}"
        )
    if result.protocol.norm not in NORMS:
        raise InputError(
            f"RobustBench has no table of norm {result.protocol.norm}, only of {', '.join(NORMS)}"
        )
    alone, robust = _autoattack(result), result.robust_accuracy
    entry: dict[str, object] = {
        "link": paper.link,
        "name": paper.name,
        "authors": paper.authors,
        "additional_data": result.extra_data,
        "number_forward_passes": result.protocol.passes,
        "dataset": result.dataset.name,
        "venue": paper.venue,
        "architecture": result.architecture or None,
        "eps": result.protocol.eps,
        "clean_acc": _percent(result.clean_accuracy),
        "reported": paper.reported,
        "autoattack_acc": _percent(alone),
    }
    if robust.correct < alone.correct:
        entry["external"] = _percent(robust)
    notes = _footnote(result)
    return {**entry, "footnote": notes} if notes else entry


def model_info_path(result: Result) -> Path:
    """Where RobustBench keeps the entry: `model_info/DATASET/NORM/NAME.json`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", result.name).strip("_.") or "unnamed"
    return Path("model_info", result.dataset.name, result.protocol.norm, f"{name}.json")


def _autoattack(result: Result) -> Accuracy:
    for attack in result.protocol.attacks:
        standard = dict(attack.parameters).get("version") == "standard"
        if attack.attack in AUTOATTACKS and standard:
            return result.attacks[attack.name].accuracy
    raise InputError(
        f"{result.protocol.id} holds no standard AutoAttack, which RobustBench ranks by: evaluate "
        "with a protocol that does, such as linf_standard"
    )


def _footnote(result: Result) -> str:
    """What makes the numbers another thing than those of RobustBench."""
    notes = []
    if result.n_examples != _EXAMPLES.get(result.dataset.name, _ALL):
        notes.append(f"Evaluated on {result.examples.text} of {result.dataset.split}.")
    if result.flags:
        notes.append(f"Flags: {', '.join(flag.name for flag in result.flags)}.")
    return " ".join(notes)


def _percent(accuracy: Accuracy) -> str:
    return f"{accuracy.value * 100:.2f}"
