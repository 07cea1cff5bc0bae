"""Accuracy of each class as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.plots.files import COLOURS, INK, MUTED, new_figure, percent_axis
from robustbench_lite.leaderboard.results.records import Accuracy
from robustbench_lite.leaderboard.statistics.per_class import ClassSet, PerClass
from robustbench_lite.leaderboard.table.text import plain, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME_WIDTH = 14
MOST_NAMES = 40  # more class names than that would overlap


def class_bars(results: Sequence[PerClass], *, names: Sequence[str]) -> Figure:
    """Clean and worst-case accuracy by class with 95% Wilson intervals; one panel per result.

    Args:
        results: of one data set.
        names: of the data set's classes, by label.

    Raises:
        ResultError: without results, or for results of different data sets.
    """
    if not results:
        raise ResultError("there are no results to plot")
    first = results[0].result.dataset.name
    for other in results:
        if other.result.dataset.name != first:
            raise ResultError(
                f"bars by class need one data set, not {first} and {other.result.dataset.name}"
            )
    n_classes = max(len(result.classes) for result in results)
    width = min(max(6.4, 0.5 * n_classes), 20.0)
    figure = new_figure(width, 3.1 * len(results))
    panels = figure.subplots(len(results), 1, squeeze=False)[:, 0]
    for axes, result in zip(panels, results, strict=True):
        _panel(axes, result, names)
    return figure


def _panel(axes: Axes, result: PerClass, names: Sequence[str]) -> None:
    places = list(range(len(result.classes)))
    for label, accuracies, shift, colour in (
        ("clean", [one.clean for one in result.classes], -0.2, "#b3cfee"),
        ("worst case", [one.robust for one in result.classes], 0.2, COLOURS[0]),
    ):
        axes.bar(
            [place + shift for place in places],
            [100 * accuracy.value for accuracy in accuracies],
            width=0.38,
            color=colour,
            label=label,
            yerr=error_bars(accuracies),
            error_kw={"ecolor": INK, "elinewidth": 0.8},
        )
    robust = 100 * result.overall.robust.value
    axes.axhline(robust, color=MUTED, linewidth=0.8, linestyle="--", label="worst case, all")
    percent_axis(axes, "accuracy, %")
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_xticks(places, _labels(result.classes, names))
    about = result.result
    axes.set_title(f"{shortened(plain(about.name), 40)} · {plain(about.protocol.id)}")
    axes.legend(ncols=3, loc="upper right", bbox_to_anchor=(1.0, -0.12), borderaxespad=0.0)


def _labels(classes: Sequence[ClassSet], names: Sequence[str]) -> list[str]:
    numbers = [one.labels[0] for one in classes]
    if len(numbers) > MOST_NAMES:
        step = -(-len(numbers) // MOST_NAMES)
        return ["" if i % step else str(number) for i, number in enumerate(numbers)]
    return [shortened(plain(names[number]), NAME_WIDTH) for number in numbers]


def error_bars(accuracies: Sequence[Accuracy]) -> list[list[float]]:
    """How far each interval reaches below and above, in percent."""
    return [
        [100 * max(0.0, one.value - one.interval[0]) for one in accuracies],
        [100 * max(0.0, one.interval[1] - one.value) for one in accuracies],
    ]
