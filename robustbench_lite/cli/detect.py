"""`rbl detect`: how well a network's confidence tells outliers, without and with an attack."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.cli.options import (
    add_data,
    add_images,
    add_network,
    add_place,
    check_data,
    check_images,
    chosen_data,
    chosen_images,
    chosen_network,
    folder_name,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.plain_text import plain

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_lite.datasets import Split

_SHOWN = {
    "auroc": "AUROC",
    "aupr_inlier_positive": "AUPR, inliers positive",
    "aupr_outlier_positive": "AUPR, outliers positive",
    "fpr95_inlier_positive": "FPR95, inliers positive",
    "fpr95_outlier_positive": "FPR95, outliers positive",
}
_KINDS = ("clean", "attacked")


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl detect`."""
    add_network(parser)
    parser.add_argument(
        "--outliers",
        action="append",
        required=True,
        metavar="NAME",
        help="see rbl list outliers; may be repeated",
    )
    parser.add_argument("--score", default="msp", choices=("msp", "odin"))
    parser.add_argument(
        "--eps", default="1/255", metavar="E", help="Linf radius, k/255 (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="of 1/255 each (default: %(default)s)"
    )
    add_images(parser)
    add_data(parser, splits=False)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--batch-size", type=int, default=500, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="result (default: results/NAME/detection-...json)"
    )
    add_place(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table, and say where the numbers lie."""
    import torch

    from robustbench_lite.attacks.threat_model import parse_eps
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.core.storage import write_sealed_json
    from robustbench_lite.detection.evaluate import DetectionSettings, evaluate_detection

    if arguments.out and not _may_be_written(Path(arguments.out)):
        raise InputError(f"--out {arguments.out} is there and no result of rbl detect")
    settings = DetectionSettings(
        score=arguments.score,
        eps=parse_eps(arguments.eps),
        alpha=Fraction(1, 255),
        steps=arguments.steps,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        threads=torch.get_num_threads() if arguments.threads is None else arguments.threads,
    )
    check_images(arguments)
    check_data(arguments)
    device = choose_device(arguments.device)
    source = chosen_network(arguments)
    data = chosen_data(arguments, source.card.dataset if source.card else "")
    images = chosen_images(arguments, data)
    if len(images) < 2:
        raise InputError(f"one image of {data.name} is chosen; at least 2 are needed")
    limited = any((arguments.n, arguments.sample, arguments.subset))
    like = data.subset(list(images.ids)) if limited else data
    most = len(images) if limited else None
    outliers = _load(arguments.outliers, like, most, arguments.seed, arguments.data_dir)
    result = evaluate_detection(
        source, data, outliers, n=None, images=images, settings=settings, device=device
    )
    out = Path(arguments.out or default_file(result))
    write_sealed_json(out, result)
    print(table(result))
    print(f"result: {out}")


def _may_be_written(out: Path) -> bool:
    """Whether nothing is there, or an earlier result of this command."""
    if not out.is_file():
        return True
    try:
        stored = json.loads(out.read_text(encoding="utf-8"))
        return bool(stored["kind"] == "detection")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _load(
    sources: Sequence[str], like: Split, most: int | None, seed: int, data_dir: str | None
) -> dict[str, Tensor]:
    """Outliers of each source, at most `most`, made like the inliers that are evaluated."""
    from robustbench_lite.datasets.outliers.sources import load_outliers

    found = {}
    for source in sources:
        if source in found:
            raise InputError(f"--outliers {source} is given twice")
        found[source] = load_outliers(source, like, seed=seed, data_dir=data_dir)[:most]
    return found


def default_file(result: Mapping[str, Any]) -> Path:
    """A file per (network, data, outliers, score, attack): a call finds its own result."""
    terms = {key: result[key] for key in ("dataset", "examples", "score", "attack", "seed")}
    terms["outliers"] = {name: row["hash"] for name, row in result["outliers"].items()}
    terms["model"] = result["model"]["hash"]
    digest = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()
    name = folder_name(result["model"]["name"])
    return Path("results") / name / f"detection-{result['dataset']['name']}-{digest[:8]}.json"


def table(result: Mapping[str, Any]) -> str:
    """Aligned text: a row per set of outliers and metric, in percent with intervals."""
    from robustbench_lite.leaderboard.table.text import aligned

    attack, score = result["attack"], result["score"]["name"]
    rows = [["outliers", "n", "", *_KINDS]]
    for name, row in result["outliers"].items():
        for key, title in _SHOWN.items():
            first = key == next(iter(_SHOWN))
            values = [_percent(row[kind][key], row["intervals"][kind][key]) for kind in _KINDS]
            rows.append([*((name, f"{row['n']:,}") if first else ("", "")), title, *values])
    if len(result["outliers"]) > 1:
        for place, (key, title) in enumerate(_SHOWN.items()):
            values = [_percent(result["average"][kind][key]) for kind in _KINDS]
            rows.append(["" if place else "average", "", title, *values])
    lines, _ = aligned(rows, right=[place == 1 for place in range(len(rows[0]))])
    about = (
        f"{plain(result['model']['name'])}: {score.upper()} on {result['examples']['count']:,} "
        f"{result['dataset']['name']} images; attacked in and out, eps {attack['eps']}, "
        f"{attack['steps']} steps"
    )
    note = (
        "FPR95: share of the other side taken for positive where at least 95 % of the positives "
        "are.\nPercent, 95% bootstrap intervals; the average has none."
    )
    return "\n".join([about, *lines, note])


def _percent(value: float, interval: Sequence[float] | None = None) -> str:
    bounds = f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if interval else ""
    return f"{100 * value:.2f}{bounds}"
