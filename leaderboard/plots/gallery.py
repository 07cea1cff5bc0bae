"""Adversarial images beside the clean ones, with what was added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.plots.files import MUTED, new_figure
from robustbench_lite.leaderboard.table.text import plain, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.float32]

NAME_WIDTH = 12
ROWS = ("clean", "attacked", "difference")


@dataclass(frozen=True)
class Exhibit:
    """One attacked image.

    Args:
        example_id: of the example.
        clean: pixels in [0, 1], (C, H, W), C 1 or 3.
        attacked: likewise.
        label: name of the class it is of.
        prediction: name of the class that the network takes the attacked image for.
        distance: how far it was moved, such as `0.15`.
    """

    example_id: int
    clean: Image
    attacked: Image
    label: str
    prediction: str
    distance: str


def gallery(exhibits: Sequence[Exhibit], *, title: str) -> Figure:
    """One column per image: clean, attacked, and the difference scaled to the full range.

    In the difference the middle of the scale (white; grey of colour images) is no change. The
    factor stands beside it and is the same for all.

    Args:
        exhibits: at least one.
        title: of the figure.

    Raises:
        ResultError: without images.
    """
    if not exhibits:
        raise ResultError("there are no adversarial images to show")
    largest = max(float(np.abs(one.attacked - one.clean).max()) for one in exhibits)
    factor = 0.5 / largest if largest > 0 else 1.0
    figure = new_figure(1.0 + 1.15 * len(exhibits), 4.3)
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=10, fontweight="bold")
    panels = figure.subplots(3, len(exhibits), squeeze=False)
    for column, one in enumerate(exhibits):
        difference = 0.5 + factor * (one.attacked - one.clean)
        pictures = (one.clean, one.attacked, difference)
        notes = (f"{one.example_id}: {_name(one.label)}", _name(one.prediction), one.distance)
        for row, (picture, note) in enumerate(zip(pictures, notes, strict=True)):
            _show(panels[row, column], picture, note, colours="RdBu_r" if row == 2 else "gray")
    for axes, name in zip(panels[:, 0], ROWS, strict=True):
        text = f"{name}\n× {factor:.3g}" if name == "difference" else name
        axes.set_ylabel(text, rotation=0, ha="right", va="center")
    return figure


def _name(text: str) -> str:
    return shortened(plain(text), NAME_WIDTH)


def _show(axes: Axes, picture: Image, note: str, colours: str) -> None:
    image = np.clip(picture, 0.0, 1.0).transpose(1, 2, 0)
    if image.shape[2] == 1:
        axes.imshow(image[:, :, 0], cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(note, color=MUTED, fontsize=8, labelpad=3)
