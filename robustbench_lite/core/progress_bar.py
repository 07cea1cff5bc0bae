"""A progress bar on stderr; silent where stderr is no terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from robustbench_lite.core.plain_text import plain

if TYPE_CHECKING:
    from tqdm import tqdm  # type: ignore[import-untyped]


class ProgressBar:
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
