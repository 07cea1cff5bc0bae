"""One result as bars: clean, each attack, and the worst case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.leaderboard.plots.class_bars import error_bars
from robustbench_lite.leaderboard.plots.files import COLOURS, INK, new_figure, percent_axis
from robustbench_lite.leaderboard.results.records import Result
from robustbench_lite.leaderboard.table.text import plain, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME_WIDTH = 16
LIGHT = "#b3cfee"


def attack_bars(result: Result) -> Figure:
    """Accuracies of one result with 95% Wilson intervals, in the order of its protocol."""
    titles = {attack.name: attack.title for attack in result.protocol.attacks}
    bars = [("clean", result.clean_accuracy)]
    bars += [(titles[name], attack.accuracy) for name, attack in result.attacks.items()]
    bars += [("worst case", result.robust_accuracy)]
    figure = new_figure(max(4.0, 1.2 * len(bars)), 3.4)
    axes = figure.add_subplot()
    accuracies = [accuracy for _, accuracy in bars]
    axes.bar(
        range(len(bars)),
        [100 * accuracy.value for accuracy in accuracies],
        width=0.6,
        color=[*[LIGHT] * (len(bars) - 1), COLOURS[0]],
        yerr=error_bars(accuracies),
        error_kw={"ecolor": INK, "elinewidth": 0.8},
    )
    percent_axis(axes, "accuracy, %")
    names = [shortened(plain(title), NAME_WIDTH) for title, _ in bars]
    axes.set_xticks(range(len(bars)), names)
    axes.set_title(f"{shortened(plain(result.name), 40)} · {plain(result.protocol.id)}")
    return figure
