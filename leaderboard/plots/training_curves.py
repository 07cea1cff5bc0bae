"""Training curves from the files of a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.integrity import ChecksumError, check_line, has_checksum
from robustbench_lite.core.schema import Count, Finite, from_json, structured
from robustbench_lite.leaderboard.plots.files import COLOURS, MUTED, new_figure, percent_axis
from robustbench_lite.leaderboard.table.text import plain, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS_NAME = "metrics.jsonl"
# What is drawn of a run where it has it: key, label, line.
CURVES = (
    ("clean_accuracy", "clean, validation", ":"),
    ("robust_accuracy", "robust, validation", "-"),
    ("adv_accuracy", "robust, training", "--"),
)


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        name: of its folder.
        curves: by key: epochs and fractions.
        best: epoch of the checkpoint in `best/`, with the robust validation accuracy there; None
            where there is none.
    """

    name: str
    curves: Mapping[str, tuple[list[int], list[float]]]
    best: tuple[int, float] | None


class _Epoch(Struct, frozen=True):
    """What is drawn of a line of the metrics."""

    epoch: Count
    clean_accuracy: Finite | UnsetType = UNSET
    robust_accuracy: Finite | UnsetType = UNSET
    adv_accuracy: Finite | UnsetType = UNSET


class _Card(Struct, frozen=True):
    """What is read of a checkpoint's card."""

    epoch: Count
    metrics: dict[str, Any] | None = None


def load_run(folder: str | Path) -> Run:
    """Read the metrics of a run folder, and which epoch its best checkpoint is of.

    Args:
        folder: with `metrics.jsonl`, as `rbl train` writes it.

    Raises:
        ResultError: when the file is missing, damaged, or has no accuracy.
    """
    file = Path(folder) / METRICS_NAME
    rows = _rows(file)
    epochs = [structured(_Epoch, row, str(file), error=ResultError) for row in rows]
    curves = {}
    for key, _, _ in CURVES:
        points = [(one.epoch, getattr(one, key)) for one in epochs]
        points = [(epoch, value) for epoch, value in points if value is not UNSET]
        if points:
            curves[key] = ([epoch for epoch, _ in points], [value for _, value in points])
    if not curves:
        keys = ", ".join(key for key, _, _ in CURVES)
        raise ResultError(f"{file}: holds none of {keys}")
    return Run(Path(folder).resolve().name, curves, _best(Path(folder), rows, epochs))


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_bytes().splitlines()
        for line in lines:
            check_line(line.decode())
    except FileNotFoundError:
        raise ResultError(f"{file}: not found; give a run folder, as rbl train writes it") from None
    except OSError as error:
        raise ResultError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ResultError(f"{file}: {error}") from error
    name = f"{file}: line "
    return [
        from_json(dict[str, Any], line, f"{name}{number}", error=ResultError)
        for number, line in enumerate(lines, start=1)
    ]


def _best(
    folder: Path, rows: Sequence[Mapping[str, object]], epochs: Sequence[_Epoch]
) -> tuple[int, float] | None:
    """The best checkpoint's epoch, by its card; None where there is no card."""
    file = folder / "best" / "card.json"
    try:
        content = file.read_bytes()
        has_checksum(content)
    except FileNotFoundError:
        return None
    except (OSError, ChecksumError) as error:
        raise ResultError(f"{file}: cannot be read: {str(error)[:120]}") from error
    card = from_json(_Card, content, str(file), error=ResultError)
    for row, one in zip(rows, epochs, strict=True):
        if one.epoch != card.epoch:
            continue
        if any(row.get(key, value) != value for key, value in (card.metrics or {}).items()):
            raise ResultError(
                f"{folder / METRICS_NAME}: is not of the run whose best checkpoint is {file}"
            )
        if one.robust_accuracy is not UNSET:
            return card.epoch, one.robust_accuracy
    return None


def training_curves(runs: Sequence[Run]) -> Figure:
    """Accuracy against epoch, one panel per run; best and last epoch are marked.

    Raises:
        ResultError: without a run.
    """
    if not runs:
        raise ResultError("there are no runs to plot")
    figure = new_figure(6.4, 3.2 * len(runs))
    panels = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axes, run in zip(panels, runs, strict=True):
        _panel(axes, run)
    return figure


def _panel(axes: Axes, run: Run) -> None:
    for colour, (key, label, line) in zip((MUTED, *COLOURS), CURVES, strict=False):
        if key in run.curves:
            epochs, values = run.curves[key]
            few = "." if len(epochs) <= 60 else ""
            axes.plot(
                epochs, [100 * value for value in values], line, marker=few, color=colour,
                label=label,
            )  # fmt: skip
    last = max(epochs[-1] for epochs, _ in run.curves.values())
    if run.best is not None:
        epoch, value = run.best
        axes.axvline(epoch, color=MUTED, linewidth=0.8, linestyle="--")
        axes.plot([epoch], [100 * value], "o", color=COLOURS[0], markersize=7, label="best")
    if "robust_accuracy" in run.curves:
        epochs, values = run.curves["robust_accuracy"]
        shown = 100 * values[-1]
        axes.plot([epochs[-1]], [shown], "s", color=COLOURS[0], markersize=6, label="last")
    percent_axis(axes, "accuracy, %")
    axes.set_xlim(0, max(last, 1) + 0.5)
    axes.set_xlabel("epoch")
    axes.set_title(shortened(plain(run.name), 60))
    axes.legend(loc="lower right", ncols=2)
    axes.locator_params(axis="x", nbins=min(10, math.ceil(last) + 1), integer=True)
