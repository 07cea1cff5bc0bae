"""The progress bar of an evaluation."""

from __future__ import annotations

from collections.abc import Callable

from robustbench_lite.core.progress_bar import ProgressBar, duration
from robustbench_lite.evaluation.progress import Progress

_SCALE = 1000  # steps of the whole bar


def evaluation_bar(title: str) -> Callable[[Progress], None]:
    """A bar that moves with the passes of an evaluation, with what each attack has left standing.

    Args:
        title: stands before the bar.
    """
    # The time left is ours, from the plan: the bar's own would take all passes for equally long.
    bar = ProgressBar(title, "", layout="{desc}: {percentage:3.0f}%|{bar:6}| {elapsed}{postfix}")

    def show(progress: Progress) -> None:
        over = progress.survived is not None and progress.done == progress.total
        done = _SCALE if over else min(_SCALE - 1, int(_SCALE * progress.share))
        bar.move(done, _SCALE, progress_text(progress, over=over), end=over)

    return show


def progress_text(progress: Progress, *, over: bool) -> str:
    """Time left, what is being done, and the accuracies so far: the most important first, since a
    narrow terminal cuts the end.

    Args:
        progress: as reported.
        over: nothing is left.
    """
    words = []
    if not over:
        left = progress.seconds_left
        words.append("time left unknown" if left is None else f"~{duration(left)} left")
        words.append(f"{progress.attack} chunk {progress.chunk + 1}")
    for name, (standing, n) in progress.standing.items():
        words.append(f"{name} {100 * standing / n:.1f}%")
    counts = {n for _, n in progress.standing.values()}
    if counts:
        words[-1] += f" of {min(counts)}" + (f"-{max(counts)}" if len(counts) > 1 else "")
    return ", ".join(words)
