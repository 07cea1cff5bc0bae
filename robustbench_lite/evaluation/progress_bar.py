"""The progress bar of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_lite.core.progress_bar import ProgressBar

if TYPE_CHECKING:
    from robustbench_lite.evaluation.evaluate import Progress


def evaluation_bar(title: str) -> Callable[[Progress], None]:
    """A bar over all parts of an evaluation, with what the last attack left standing."""
    bar = ProgressBar(title, "part")

    def show(progress: Progress) -> None:
        text = (
            f"{progress.attack}, chunk {progress.chunk}: {progress.survived} of "
            f"{progress.attacked} stand"
        )
        bar.move(progress.done, progress.total, text, end=True)

    return show
