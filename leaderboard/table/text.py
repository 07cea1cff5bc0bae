"""How numbers and untrusted text are shown to people: percent, counts, radii, safe strings."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

from robustbench_lite.core.plain_text import plain
from robustbench_lite.leaderboard.results.examples import examples
from robustbench_lite.leaderboard.statistics.ranking import GroupKey

__all__ = [
    "NOTHING",
    "aligned",
    "cells",
    "count",
    "headings",
    "interval",
    "padded",
    "passes",
    "percent",
    "plain",
    "radius",
    "short_hash",
    "shortened",
    "threat",
    "which_examples",
]


def shortened(text: str, width: int) -> str:
    """Text cut to a number of characters, with an ellipsis when something was cut."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def cells(text: str) -> int:
    """Terminal cells a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
        if not unicodedata.combining(character)
    )


def padded(text: str, width: int, *, right: bool) -> str:
    """Text with spaces up to a number of terminal cells."""
    space = " " * (width - cells(text))
    return space + text if right else text + space


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[bool]) -> tuple[list[str], str]:
    """Rows as lines with columns two spaces apart, and a rule as wide as these lines.

    Args:
        rows: the texts of each.
        right: whether a column is aligned to the right.
    """
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        columns = zip(row, widths, right, strict=True)
        texts = [padded(text, width, right=is_right) for text, width, is_right in columns]
        lines.append("  ".join(texts).rstrip())
    return lines, "─" * (sum(widths) + 2 * (len(widths) - 1))


NOTHING = "–"


def percent(fraction: float) -> str:
    """A fraction as percent with two decimals and no sign, `93.33`; a dash for NaN."""
    return NOTHING if math.isnan(fraction) else f"{100 * fraction:.2f}"


def interval(low: float, high: float) -> str:
    """An interval of fractions in percent, one decimal, `[90.0, 95.6]`; a dash for NaN."""
    return NOTHING if math.isnan(low) else f"[{100 * low:.1f}, {100 * high:.1f}]"


def count(number: int) -> str:
    """A number of parameters: `21.3k`, `46.2M`."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def passes(cost: float) -> str:
    """Forward plus backward passes per example attacked, `9,767`; a dash for NaN."""
    return NOTHING if math.isnan(cost) else f"{cost:,.0f}"


def radius(eps: str, eps_value: float) -> str:
    """A radius as it was given, and as a number when it was given as a fraction."""
    return f"{plain(eps)} ({eps_value:.4g})" if "/" in eps else plain(eps)


def threat(norm: str, eps: str, eps_value: float) -> str:
    """Norm and radius, as far as they are stated: `Linf eps=8/255 (0.03137)`."""
    return f"{plain(norm)} eps={radius(eps, eps_value)}" if eps else plain(norm)


def which_examples(key: GroupKey) -> str:
    """Which examples the rows of a group are over."""
    choice = plain(key.choice) or "listed" if key.examples_hash else ""
    return examples(key.first_example, key.n_examples, choice)


def short_hash(text: str) -> str:
    """The first 12 digits of a content hash, without the algorithm's name."""
    return shortened(plain(text.rpartition(":")[2]), 13) if len(text) > 20 else plain(text)


def headings(keys: Sequence[GroupKey]) -> list[str]:
    """One line per group; hashes are added where two groups would read the same."""
    lines = [
        " · ".join(
            filter(
                None,
                (
                    f"{plain(key.dataset)} {plain(key.split)}",
                    threat(key.norm, key.eps, key.eps_value),
                    plain(key.protocol_id),
                    which_examples(key),
                ),
            )
        )
        for key in keys
    ]
    seen = Counter(lines)
    return [
        f"{line} · data {short_hash(key.dataset_hash)}, protocol {short_hash(key.protocol_hash)}"
        + (f", examples {short_hash(key.examples_hash)}" if key.examples_hash else "")
        if seen[line] > 1
        else line
        for line, key in zip(lines, keys, strict=True)
    ]
