"""Progress on stderr: a bar in a terminal, a line every 30 seconds in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_lite.core.plain_text import plain

if TYPE_CHECKING:
    from tqdm import tqdm  # type: ignore[import-untyped]

LINE_EVERY = 30.0  # seconds

_shown = True


def show_progress(shown: bool) -> None:
    """Whether progress is shown at all in this process: `--quiet` of the command line."""
    global _shown
    _shown = shown


def duration(seconds: float) -> str:
    """Seconds as `45s`, `3:20` (minutes) or `2:03:20` (hours)."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest}s"


class ProgressBar:
    """A tqdm bar that begins where a resumed run begins; lines where stderr is no terminal.

    Args:
        title: stands before it.
        unit: of what is counted.
        layout: of the bar, in tqdm's words, where its caller says how much time is left.
        clock: in seconds.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        *,
        layout: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.unit, self.layout, self.clock = plain(title), unit, layout, clock
        self.bar: tqdm[None] | None = None
        self.begun = self.last_line = clock()
        self.first: int | None = None
        self.text = ""

    def move(self, done: int, total: int, text: str | None, *, end: bool) -> None:
        """Show `done` of `total`; `end` says that the last unit is really over."""
        self.text = self.text if text is None else text
        if self.first is None:
            self.first = max(0, done - 1)
        if not _shown:
            return
        if sys.stderr.isatty():
            self._move_bar(done, total, end=end)
        elif self.clock() - self.last_line >= LINE_EVERY:
            self.last_line = self.clock()
            sys.stderr.write(f"{self._line(done, total)}\n")
            sys.stderr.flush()

    def _line(self, done: int, total: int) -> str:
        words = [f"{100 * done / total:.0f}%"]
        if self.layout is None:
            words.append(f"{self.unit} {done} of {total}")
            assert self.first is not None
            if done > self.first:
                left = (self.clock() - self.begun) * (total - done) / (done - self.first)
                words.append(f"~{duration(left)} left")
        return ", ".join(filter(None, (f"{self.title}: {words[0]}", *words[1:], self.text)))

    def _move_bar(self, done: int, total: int, *, end: bool) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=self.first,
                desc=self.title,
                unit=self.unit,
                file=sys.stderr,
                bar_format=self.layout,
                dynamic_ncols=True,
            )
        self.bar.set_postfix_str(self.text, refresh=False)
        self.bar.update(done - self.bar.n)
        if done == total and end:
            self.bar.refresh()
            self.bar.close()
