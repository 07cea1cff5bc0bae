"""Progress bars on stderr; silent where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustbench_lite.evaluation import Progress
    from robustbench_lite.training import TrainingProgress


def training_bar(title: str) -> Callable[[TrainingProgress], None]:
    """A bar over all batches of a run, with the last validation's robust accuracy."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar: tqdm[None] | None = None

    def show(progress: TrainingProgress) -> None:
        nonlocal bar
        if bar is None:
            begun = progress.step - 1
            bar = tqdm(
                total=progress.total,
                initial=begun,
                desc=title,
                unit="batch",
                disable=not sys.stderr.isatty(),
                file=sys.stderr,
            )
        bar.update(progress.step - bar.n)
        if progress.metrics is not None and "robust_accuracy" in progress.metrics:
            bar.set_postfix_str(
                f"epoch {progress.epoch}, validation: clean "
                f"{100 * progress.metrics['clean_accuracy']:.1f} % robust "
                f"{100 * progress.metrics['robust_accuracy']:.1f} %"
            )
        if progress.step == progress.total and progress.metrics is not None:
            bar.close()

    return show


def evaluation_bar(title: str) -> Callable[[Progress], None]:
    """A bar over all parts of an evaluation, with what the last attack left standing."""
    from tqdm import tqdm

    bar: tqdm[None] | None = None

    def show(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                total=progress.total,
                initial=progress.done - 1,
                desc=title,
                unit="part",
                disable=not sys.stderr.isatty(),
                file=sys.stderr,
            )
        bar.update(progress.done - bar.n)
        bar.set_postfix_str(
            f"{progress.attack}, chunk {progress.chunk}: {progress.survived} of "
            f"{progress.attacked} stand"
        )
        if progress.done == progress.total:
            bar.close()

    return show
