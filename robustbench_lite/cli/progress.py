"""Progress bars on stderr; silent where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_lite.core.plain_text import plain

if TYPE_CHECKING:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from robustbench_lite.evaluation.evaluate import Progress
    from robustbench_lite.training.loop import TrainingProgress


def training_bar() -> Callable[[TrainingProgress], None]:
    """A bar over all batches of a run, with the last validation's robust accuracy.

    A teacher that is trained first has a bar of its own.
    """
    bars: dict[str, _Bar] = {}

    def show(progress: TrainingProgress) -> None:
        bar = bars.setdefault(progress.recipe, _Bar(progress.recipe, "batch"))
        text = None
        if progress.metrics is not None and "robust_accuracy" in progress.metrics:
            clean, robust = (
                100 * progress.metrics[f"{kind}_accuracy"] for kind in ("clean", "robust")
            )
            text = f"epoch {progress.epoch}, validation: clean {clean:.1f} % robust {robust:.1f} %"
        bar.move(progress.step, progress.total, text, end=progress.metrics is not None)

    return show


def evaluation_bar(title: str) -> Callable[[Progress], None]:
    """A bar over all parts of an evaluation, with what the last attack left standing."""
    bar = _Bar(title, "part")

    def show(progress: Progress) -> None:
        text = (
            f"{progress.attack}, chunk {progress.chunk}: {progress.survived} of "
            f"{progress.attacked} stand"
        )
        bar.move(progress.done, progress.total, text, end=True)

    return show


class _Bar:
    """A tqdm bar that begins where a resumed run begins."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit = plain(title), unit
        self.bar: tqdm[None] | None = None

    def move(self, done: int, total: int, text: str | None, *, end: bool) -> None:
        """Show `done` of `total`; `end` says that the last unit is really over."""
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=done - 1,
                desc=self.title,
                unit=self.unit,
                disable=not sys.stderr.isatty(),
                file=sys.stderr,
            )
        self.bar.update(done - self.bar.n)
        if text is not None:
            self.bar.set_postfix_str(text)
        if done == total and end:
            self.bar.close()
