"""`rbl classes`: accuracies and errors by class. Needs no torch."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.plain_text import csv_cell

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.statistics.per_class import ClassSet, PerClass

HEADINGS = (
    *("Classes", "Images", "Clean", "95% interval", "Robust", "95% interval"),
    *("Clean err", "Robust err"),
)
TITLE_WIDTH = 28
CAPTIONS = (
    "In percent, with 95% Wilson intervals. Robust: correct and broken by no attack.",
    "Rows of several classes are over all images of those classes.",
)
CLASS_MEANS = "Class mean: of the classes' own values, because their numbers of images differ."


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl classes`."""
    parser.add_argument("results", nargs="+", metavar="RESULT", help="folders or result.json files")
    parser.add_argument(
        "--under",
        metavar="LABELS",
        help="under-represented classes, such as 5,6,7,8,9 (default: the last half)",
    )
    parser.add_argument(
        "--format", default="terminal", choices=("terminal", "markdown", "csv", "json")
    )


def run(arguments: argparse.Namespace) -> None:
    """Print one table of all the results."""
    from robustbench_lite.leaderboard import load_readable
    from robustbench_lite.leaderboard.statistics.per_class import load_per_class

    under = None if arguments.under is None else _labels(arguments.under)

    def load(path: Path) -> PerClass:
        return load_per_class(path, num_classes=number_of_classes(path), under=under)

    results = load_readable(arguments.results, load)
    if not results:
        raise InputError(f"{', '.join(arguments.results)}: no result.json there or below")
    render = {"terminal": _terminal, "markdown": _markdown, "csv": _csv, "json": _json}
    print(render[arguments.format](results), end="")


def number_of_classes(path: Path) -> int:
    """Of the data set of a stored result; of data that are not registered, to its largest label.

    Raises:
        ResultError: when the result cannot be read or its data set is not known.
    """
    from robustbench_lite.datasets.catalogue import dataset_info, is_registered
    from robustbench_lite.leaderboard import ResultError, load_result
    from robustbench_lite.leaderboard.statistics.per_class import stored_labels

    result = load_result(path)
    try:
        if is_registered(result.dataset.name):
            return dataset_info(result.dataset.name).num_classes
        labels = stored_labels(path, result)
        if labels is None:
            raise InputError(f"it has no labels, and {result.dataset.name} is not registered")
        return max(int(labels.max()) + 1, 2)
    except InputError as error:
        raise ResultError(f"{path}: {error}") from None


def _labels(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--under {text!r} is no list of labels such as 5,6,7,8,9") from None


def _sets(result: PerClass) -> Iterator[tuple[str, ClassSet]]:
    """The sets of classes below the single ones, each with its title."""
    yield "Overall", result.overall
    if result.well is not None:
        yield f"Well ({_ranges(result.well.labels)})", result.well
    yield f"Under ({_ranges(result.under.labels)})", result.under


def _ranges(labels: Sequence[int]) -> str:
    """(0, 1, 2, 5) to "0-2, 5"."""
    from robustbench_lite.leaderboard.table.text import shortened

    runs: list[list[int]] = []
    for label in labels:
        if runs and label == runs[-1][-1] + 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return shortened(text, TITLE_WIDTH)


def _class_title(result: PerClass, one: ClassSet) -> str:
    """A label, and its name where that says more."""
    from robustbench_lite.datasets.catalogue import class_names

    (label,) = one.labels
    name = class_names(result.result.dataset.name, label + 1)[label]
    return str(label) if name == str(label) else f"{label} {name}"


def _grid(result: PerClass) -> list[list[str]]:
    """The rows of one result, as text."""
    from robustbench_lite.leaderboard.table.text import percent

    rows = [_row(_class_title(result, one), one) for one in result.classes]
    for title, one in _sets(result):
        rows.append(_row(title, one))
        if not result.equal_sizes:
            clean, robust = one.clean_class_mean, one.robust_class_mean
            numbers = [percent(clean), "", percent(robust), "", percent(1 - clean)]
            rows.append(["  class mean", "", *numbers, percent(1 - robust)])
    rows.append(_row(f"Worst: {_class_title(result, result.worst)}", result.worst))
    return rows


def _row(title: str, one: ClassSet) -> list[str]:
    from robustbench_lite.leaderboard.table.text import interval, percent

    cells = [title, str(one.clean.n)]
    for accuracy in (one.clean, one.robust):
        cells += [percent(accuracy.value), interval(*accuracy.interval)]
    return [*cells, percent(one.clean_error), percent(one.robust_error)]


def _heading(result: PerClass) -> str:
    """What was measured: one line."""
    from robustbench_lite.leaderboard.table.text import plain, shortened

    about = result.result
    name = shortened(plain(about.name), TITLE_WIDTH)
    where = f"{plain(about.dataset.name)} {plain(about.dataset.split)}"
    which = about.examples.text
    return " · ".join([name, where, plain(about.protocol.id), which])


def _captions(results: Sequence[PerClass]) -> list[str]:
    """How to read the table."""
    equal = all(result.equal_sizes for result in results)
    return [*CAPTIONS] if equal else [*CAPTIONS, CLASS_MEANS]


def _terminal(results: Sequence[PerClass]) -> str:
    """One table, aligned throughout, with a heading above the rows of each result."""
    from robustbench_lite.leaderboard.table.text import aligned

    grids = [_grid(result) for result in results]
    everything = [HEADINGS, *(row for grid in grids for row in grid)]
    (head, *rest), rule = aligned(everything, right=[False, *[True] * (len(HEADINGS) - 1)])
    lines = []
    for result, grid in zip(results, grids, strict=True):
        rows, rest = rest[: len(grid)], rest[len(grid) :]
        lines += [_heading(result), rule, head, rule, *rows, rule]
    return "\n".join([*lines, *_captions(results)]) + "\n"


def _markdown(results: Sequence[PerClass]) -> str:
    from robustbench_lite.leaderboard.table.markdown_latex import markdown_row as line

    lines = [line(["Result", *HEADINGS]), line(["---", "---", *["---:"] * (len(HEADINGS) - 1)])]
    for result in results:
        name = _code(result.result.name)
        lines += [line([name, row[0].strip(), *row[1:]]) for row in _grid(result)]
    headings = [f"- {_code(_heading(result))}" for result in results]
    return "\n".join([*lines, "", *headings, "", *_captions(results)]) + "\n"


def _code(text: str) -> str:
    """Text from outside as a code span, which shows it as it is, in a table too."""
    from robustbench_lite.leaderboard.table.text import plain

    return "`" + plain(text).replace("`", "'").replace("|", "\\|") + "`"


def _records(result: PerClass) -> list[dict[str, Any]]:
    """One flat record per class and per set; fractions, never percent."""
    about = result.result
    single = [("class", one) for one in result.classes]
    several = [(title.partition(" ")[0].lower(), one) for title, one in _sets(result)]
    return [
        {
            "result": about.name,
            "dataset": about.dataset.name,
            "split": about.dataset.split,
            "protocol_id": about.protocol.id,
            "model_hash": about.model.hash,
            "set": title,
            "labels": list(one.labels),
            "n": one.clean.n,
            "clean_accuracy": one.clean.value,
            "clean_lo": one.clean.interval[0],
            "clean_hi": one.clean.interval[1],
            "robust_accuracy": one.robust.value,
            "robust_lo": one.robust.interval[0],
            "robust_hi": one.robust.interval[1],
            "clean_error": one.clean_error,
            "robust_error": one.robust_error,
            "clean_class_mean": one.clean_class_mean,
            "robust_class_mean": one.robust_class_mean,
            "attacks": {name: accuracy.value for name, accuracy in one.attacks.items()},
        }
        for title, one in [*single, *several, ("worst", result.worst)]
    ]


def _json(results: Sequence[PerClass]) -> str:
    rows = [row for result in results for row in _records(result)]
    return json.dumps({"rows": rows}, indent=2, allow_nan=False) + "\n"


def _csv(results: Sequence[PerClass]) -> str:
    """One flat table; each attack that any result has is a column, under its registered name."""
    rows: list[dict[str, object]] = []
    for result in results:
        for record in _records(result):
            attacks = record.pop("attacks")
            row = {**record, "labels": " ".join(map(str, record["labels"])), **attacks}
            rows.append({str(csv_cell(key)): csv_cell(value) for key, value in row.items()})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
