"""A comparison of two results for people and programs: terminal, Markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.results.examples import examples
from robustbench_lite.leaderboard.results.records import Result
from robustbench_lite.leaderboard.statistics.comparison import Comparison, Pair
from robustbench_lite.leaderboard.table.markdown_latex import markdown_row, markdown_text
from robustbench_lite.leaderboard.table.text import (
    aligned,
    interval,
    percent,
    plain,
    shortened,
)

HEADINGS = ("", "A", "95% interval", "B", "95% interval", "A - B", "only A", "only B", "p")
NAME_WIDTH = 60
SHOWN_IDS = 20
CAPTION = "p: two-sided exact McNemar test on the same examples; * separated at 5%."
CLASSES = "Classes: worst case by label; * separated at 5%, Holm-corrected over the classes."
NO_CLASSES = "No classes: the labels are neither in result.json nor in an examples.parquet beside."
OTHER_TERMS = "Not a ranking of two networks: the evaluations differ in "


def render_comparison(comparison: Comparison, *, format: str) -> str:
    """A comparison as text.

    Args:
        comparison: what `compare` gave.
        format: `terminal` or `markdown`, with percent and at most 20 ids; or `json`, with
            fractions and all ids.

    Returns:
        The text, ending with a newline.

    Raises:
        ResultError: for an unknown format.
    """
    renderers: Mapping[str, Callable[[Comparison], str]] = {
        "json": _json,
        "markdown": _markdown,
        "terminal": _terminal,
    }
    if format not in renderers:
        raise ResultError(f"unknown format {format!r}; available: {', '.join(renderers)}")
    return renderers[format](comparison)


def _row(pair: Pair, title: str) -> list[str]:
    star = "*" if pair.separated else " "
    return [
        shortened(plain(title), NAME_WIDTH),
        percent(pair.a.value),
        interval(*pair.a.interval),
        percent(pair.b.value),
        interval(*pair.b.interval),
        f"{100 * pair.difference:+.2f}",
        str(pair.only_a),
        str(pair.only_b),
        f"{pair.p_value:.2g} {star}",
    ]


def _rows(comparison: Comparison) -> list[list[str]]:
    rows = [_row(pair, pair.title) for pair in comparison.pairs]
    classes = [_row(pair, f"class {pair.title}, n={pair.a.n}") for pair in comparison.classes]
    return rows + classes


def _heads(comparison: Comparison) -> list[str]:
    """What was compared: one line each."""
    a, b = comparison.a, comparison.b
    where = f"{plain(a.dataset.name)} {plain(a.dataset.split)}"
    which = _which(comparison)
    protocol = " and ".join(dict.fromkeys((plain(a.protocol.id), plain(b.protocol.id))))
    return [f"A: {_name(a)}", f"B: {_name(b)}", f"{where} · {protocol} · {which}"]


def _which(comparison: Comparison) -> str:
    """The examples that both have; no range where they do not follow each other."""
    ids, n = comparison.ids, len(comparison.ids)
    one, other = comparison.a.examples, comparison.b.examples
    if ids[-1] - ids[0] == n - 1:
        return examples(int(ids[0]), n)
    return one.text if one.digest == other.digest else f"n={n} (those that both have)"


def _name(result: Result) -> str:
    return shortened(plain(result.name), NAME_WIDTH)


def _notes(comparison: Comparison) -> list[str]:
    notes = [CAPTION, CLASSES if comparison.classes else NO_CLASSES]
    if comparison.terms:
        notes.append(OTHER_TERMS + "; ".join(map(plain, comparison.terms)) + ".")
    for letter, ids in (("A", comparison.only_a), ("B", comparison.only_b)):
        notes.append(f"Only {letter} resists {len(ids)} examples{_ids(ids)}")
    return notes


def _ids(ids: Sequence[int]) -> str:
    if not ids:
        return "."
    more = f" and {len(ids) - SHOWN_IDS} more (--format json)" if len(ids) > SHOWN_IDS else ""
    return f": {', '.join(map(str, ids[:SHOWN_IDS]))}{more}."


def _terminal(comparison: Comparison) -> str:
    numbers = [True] * (len(HEADINGS) - 1)
    lines, rule = aligned([HEADINGS, *_rows(comparison)], right=[False, *numbers])
    parts = [*_heads(comparison), rule, lines[0], rule, *lines[1:], rule, *_notes(comparison)]
    return "\n".join(parts) + "\n"


def _markdown(comparison: Comparison) -> str:
    rows = [[markdown_text(title), *numbers] for title, *numbers in _rows(comparison)]
    rule = ["---", *["---:"] * (len(HEADINGS) - 1)]
    table = [markdown_row(row) for row in (HEADINGS, rule, *rows)]
    heads = [f"- {markdown_text(head)}" for head in _heads(comparison)]
    notes = [f"{markdown_text(note)}\n" for note in _notes(comparison)]
    return "\n".join([*heads, "", *table, "", *notes])


def _json(comparison: Comparison) -> str:
    a, b = comparison.a, comparison.b
    data = {
        "a": _about(a),
        "b": _about(b),
        "dataset": a.dataset.name,
        "split": a.dataset.split,
        "dataset_hash": a.dataset.hash,
        "first_example": int(comparison.ids[0]),
        "n": len(comparison.ids),
        "examples": _which(comparison),
        "different_terms": list(comparison.terms),
        "columns": [{"title": pair.title, **_record(pair)} for pair in comparison.pairs],
        "classes": [{"label": int(pair.title), **_record(pair)} for pair in comparison.classes],
        "only_a_resists": list(comparison.only_a),
        "only_b_resists": list(comparison.only_b),
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _about(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "model_hash": result.model.hash,
        "protocol_id": result.protocol.id,
        "status": result.status,
    }


def _record(pair: Pair) -> dict[str, object]:
    return {
        "n": pair.a.n,
        "a": pair.a.value,
        "a_interval": list(pair.a.interval),
        "b": pair.b.value,
        "b_interval": list(pair.b.interval),
        "difference": pair.difference,
        "only_a": pair.only_a,
        "only_b": pair.only_b,
        "p_value": pair.p_value,
        "separated": pair.separated,
    }
