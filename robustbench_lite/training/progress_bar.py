"""The progress bar of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_lite.core.progress_bar import ProgressBar

if TYPE_CHECKING:
    from robustbench_lite.training.loop import TrainingProgress


def training_bar() -> Callable[[TrainingProgress], None]:
    """A bar over all batches of a run, with the last validation's robust accuracy.

    A teacher that is trained first has a bar of its own.
    """
    bars: dict[str, ProgressBar] = {}

    def show(progress: TrainingProgress) -> None:
        bar = bars.setdefault(progress.recipe, ProgressBar(progress.recipe, "batch"))
        text = None
        if progress.metrics is not None and "robust_accuracy" in progress.metrics:
            clean, robust = (
                100 * progress.metrics[f"{kind}_accuracy"] for kind in ("clean", "robust")
            )
            text = f"epoch {progress.epoch}, validation: clean {clean:.1f} % robust {robust:.1f} %"
        bar.move(progress.step, progress.total, text, end=progress.metrics is not None)

    return show
