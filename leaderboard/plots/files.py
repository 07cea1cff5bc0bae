"""Plots as files: one style, and the same bytes for the same input. matplotlib comes in late."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import ResultError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
# Told apart in print and by the colour-blind; the first is the page's accent.
COLOURS = ("#1a5fb4", "#c64600", "#26856b", "#813d9c", "#986a44", "#5e5c64")
INK, MUTED, RULE = "#191b1f", "#636973", "#e0e0dc"
_STYLE = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so every machine has it
    "font.size": 9.0,
    "text.parse_math": False,  # a $ in a name is a dollar
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": RULE,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 150.0,
    "svg.hashsalt": "robustbench_lite",  # ids inside the file, else drawn at random
    "svg.fonttype": "path",
}
_METADATA: dict[str, dict[str, str | None]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


def plot_bytes(draw: Callable[[], Figure], format: str) -> bytes:
    """A figure as the content of a file.

    Args:
        draw: makes the figure; called with the style of all plots, whatever the user's is.
        format: `svg` or `png`.

    Returns:
        The same bytes for the same figure and version of matplotlib: no date, no random id.

    Raises:
        ResultError: for another format, or without matplotlib.
    """
    if format not in FORMATS:
        raise ResultError(f"plots are {' or '.join(FORMATS)}, not {format!r}")
    try:
        import matplotlib
    except ImportError:
        raise ResultError("plots need matplotlib: pip install matplotlib") from None
    style: dict[Any, Any] = {
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if not name.startswith(("backend", "interactive", "toolbar", "webagg", "timezone"))
    }
    style.update(_STYLE)
    stream = io.BytesIO()
    with matplotlib.rc_context(style):
        draw().savefig(stream, format=format, metadata=_METADATA[format])
    return stream.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, which arranges itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def percent_axis(axes: Axes, label: str) -> None:
    """A vertical axis of accuracies from 0 to 100 percent, with lines to read along."""
    axes.set_ylim(0, 100)
    axes.set_ylabel(label)
    axes.grid(axis="y", linewidth=0.8)
    axes.tick_params(length=0)
