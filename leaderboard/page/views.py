"""What the page shows of each table and row: every number as text, everything from outside safe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from robustbench_lite.core.flag_rules import OF_GRADIENTS
from robustbench_lite.leaderboard.page.evaluate_command import reproduce_command
from robustbench_lite.leaderboard.page.interval_bars import Axis
from robustbench_lite.leaderboard.published.reported import ReportedRow
from robustbench_lite.leaderboard.results.records import (
    Accuracy,
    ProtocolAttack,
    RaisedFlag,
    Result,
)
from robustbench_lite.leaderboard.table.columns import PREFIX, Column, columns_for, counts_text
from robustbench_lite.leaderboard.table.row import Row, Section
from robustbench_lite.leaderboard.table.text import (
    NOTHING,
    count,
    interval,
    passes,
    percent,
    plain,
    radius,
    shortened,
    which_examples,
)

View = dict[str, object]

OPTION_WIDTH = 48  # characters of a name in a filter's list
MANY_ATTACKS = 3  # above it a table scrolls sideways in its own frame
CANONICAL = {True: "yes", False: "no", None: "unknown"}
EXTRA_DATA = {True: "yes", False: "none", None: "not stated"}
BESIDE_NAME = ("defense", "architecture", "params", "extra_data")  # no columns of their own here
CLASSES = {  # of the columns, by key, in the style sheet
    "rank": "rank",
    "name": "model",
    "clean": "number clean",
    "attack": "number",
    "robust": "number robust",
    "interval": "bar-cell",
    "worst_class": "number worst-class",
    "cost": "number cost",
    "status": "status-cell",
}


def table_view(section: Section, number: int) -> View:
    """One table.

    Args:
        section: its rows, best first.
        number: of the table on the page, from 1.
    """
    key = section.key
    columns = [
        column
        for column in columns_for(section, always=("rank", "status"))
        if column.key not in BESIDE_NAME
    ]
    axis = None
    if section.measured:
        axis = Axis.around([(row.interval_lo, row.interval_hi) for row in section.rows])
    return {
        "id": f"table-{number}",
        "heading": section.heading,
        "dataset": plain(key.dataset),
        "norm": plain(key.norm),
        "radius": radius(key.eps, key.eps_value) if key.eps else "not stated",
        "about": _about(section),
        "terms": _terms(section),
        "columns": [_column_view(column) for column in columns],
        "wide": len(section.attacks) > MANY_ATTACKS,
        "axis": axis,
        "ties": section.has_ties,
        "prefix": PREFIX if any(row.of_prefix for row in section.rows) else "",
        "counts": counts_text(section) if section.measured else "",
        "rows": [_row_view(row, columns, axis) for row in section.rows],
    }


def _column_view(column: Column) -> View:
    return {
        "key": column.key,
        "heading": "Model" if column.key == "name" else plain(column.heading),
        "classes": CLASSES[column.key],
        "meaning": column.meaning,
    }


def _about(section: Section) -> list[tuple[str, str, str]]:
    """The line below a table's heading: label, text, and a badge."""
    key, row = section.key, section.rows[0]
    if isinstance(row.origin, ReportedRow):
        return [
            ("Reported in", plain(row.source), ""),
            ("Table", plain(row.origin.key.source), ""),
            ("Split", plain(key.split), ""),
        ]
    return [
        ("Protocol", plain(key.protocol_id), ""),
        ("Split", f"{plain(key.split)}, {which_examples(key)}", ""),
        ("Data", *_canonical({row.canonical for row in section.rows})),
    ]


def _terms(section: Section) -> list[tuple[str, str]]:
    """What fixes the numbers of a table: engine, hashes and the parameters of each attack."""
    origin = section.rows[0].origin
    if not isinstance(origin, Result):
        return []
    return [
        ("Engine", plain(origin.protocol.engine_text)),
        ("Data", plain(section.key.dataset_hash)),
        ("Protocol", plain(section.key.protocol_hash)),
        *(
            (plain(title), _parameters(attack))
            for title, attack in zip(section.attacks, origin.protocol.attacks, strict=True)
        ),
    ]


def _canonical(known: set[bool | None]) -> tuple[str, str]:
    """What to say of a table's data, and a badge when they are other pixels."""
    if False in known:
        return "not comparable with published numbers", "not canonical"
    return ("no canonical hash known" if None in known else "canonical"), ""


def filter_views(groups: Sequence[View]) -> list[View]:
    """The lists to choose from: data sets, norms, architectures and statuses that occur."""
    rows = [row for group in groups for row in group["rows"]]  # type: ignore[attr-defined]
    found = {
        "dataset": ("data set", {str(group["dataset"]) for group in groups}),
        "norm": ("norm", {str(group["norm"]) for group in groups}),
        "architecture": ("architecture", {str(row["architecture"]) for row in rows}),
        "status": ("status", {str(row["status"]) for row in rows}),
    }
    return [
        {
            "name": name,
            "label": label,
            "options": [(value, shortened(value, OPTION_WIDTH)) for value in sorted(values - {""})],
        }
        for name, (label, values) in found.items()
    ]


def _row_view(row: Row, columns: Sequence[Column], axis: Axis | None) -> View:
    bounds = row.interval_lo, row.interval_hi
    return {
        **{name: plain(getattr(row, name)) for name in ("name", "defense", "architecture")},
        "parameters": "" if row.params is None else f"{count(row.params)} params",
        "extra_data": row.extra_data if row.measured else False,
        "cells": [column.cell(row) + _mark(row, column) for column in columns],
        "low": f"{row.interval_lo:.6f}",
        "bar": axis and axis.bar(row.worst_case, bounds),
        "status": row.status,
        **(_measured(row.origin) if isinstance(row.origin, Result) else _reported(row.origin)),
    }


def _mark(row: Row, column: Column) -> str:
    """What stands behind a published number, such as ` (memory)`."""
    if not isinstance(row.origin, ReportedRow) or column.key not in ("clean", "attack"):
        return ""
    printed = dict(zip(row.attacks, row.origin.attacks, strict=True))
    clean = column.key == "clean"
    heading = row.origin.clean_heading if clean else printed.get(column.heading, "")
    return row.origin.cell_marks.get(heading, "")


def _measured(result: Result) -> View:
    """What lies below a measured row: its flags, and its panel."""
    return {
        "id": f"row-{result.file_hash.rpartition(':')[2][:16]}",
        "flags": [_flag_view(flag) for flag in result.flags],
        "missing": "; ".join(map(plain, result.missing)),
        "attack_rows": [_accuracy_view("Clean images", result.clean_accuracy), *_attacks(result)],
        "facts": _facts(result),
        "command": reproduce_command(result),
        "no_command": "These examples do not begin at the first of the split: no command evaluates "
        "them.",
    }


def _reported(row: ReportedRow | None) -> View:
    """What lies below a published row: its panel."""
    assert row is not None, "the page shows rows of `build_rows`, which know their origin"
    digest = hashlib.sha256(repr(row).encode()).hexdigest()
    return {
        "id": f"row-{digest[:16]}",
        "flags": [],
        "missing": "",
        "attack_rows": [],
        "facts": [
            ("As printed", [(plain(name), plain(text), False) for name, text in row.shown.items()]),
            (
                "Source",
                [
                    ("Paper", plain(row.paper), False),
                    ("Table", plain(row.key.source), True),
                    ("Checked", plain(row.marks) or "read at the source", False),
                    ("Note", plain(row.note) or NOTHING, False),
                ],
            ),
        ],
        "command": [],
        "no_command": "Reported only: nothing was measured here. rbl reproduce compares a network "
        "of yours with it.",
    }


def _attacks(result: Result) -> Iterator[View]:
    """The attacks of a row in order, each with its stages below it, and what all of them leave."""
    for spec in result.protocol.attacks:
        attack = result.attacks[spec.name]
        yield _accuracy_view(
            plain(spec.title),
            attack.accuracy,
            kind="composite" if attack.stages else "",
            name=plain(spec.name),
            parameters=_parameters(spec),
            forwards=passes(attack.forwards),
            backwards=passes(attack.backwards),
        )
        for stage, accuracy in attack.stages:
            yield _accuracy_view(f"after {plain(stage)}", accuracy, kind="stage")
    yield _accuracy_view("Worst case", result.robust_accuracy, kind="total")


def _accuracy_view(title: str, accuracy: Accuracy, **more: str) -> View:
    return {
        **dict.fromkeys(("name", "parameters", "forwards", "backwards", "kind"), ""),
        "title": title,
        "value": percent(accuracy.value),
        "correct": f"{accuracy.correct:,} of {accuracy.n:,}",
        "interval": interval(*accuracy.interval),
        **more,
    }


def _parameters(attack: ProtocolAttack) -> str:
    return " · ".join(f"{plain(name)} {plain(text)}" for name, text in attack.parameters)


def _facts(result: Result) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Blocks of the detail panel: title, then label, text, and whether the text is a code."""
    model, data, protocol = result.model, result.dataset, result.protocol
    seeds = [("Seed", str(result.seed), False)]
    settings = [(_label(name), _text(value), False) for name, value in result.settings.items()]
    return [
        (
            "Model",
            [
                ("Defense", plain(result.defense) or "not stated", False),
                ("Architecture", plain(result.architecture) or "not stated", False),
                ("Parameters", f"{result.parameters:,}", False),
                ("Extra data", EXTRA_DATA[result.extra_data], False),
                ("Source", plain(model.source) or model.kind, False),
                ("Epoch chosen by", plain(model.selection or "") or "not stated", False),
                ("Weights", plain(model.hash), True),
            ],
        ),
        (
            "Protocol",
            [
                ("Id", plain(protocol.id), True),
                ("Threat model", f"{plain(protocol.norm)}, ε = {_radius(result)}", False),
                ("Engine", plain(protocol.engine_text), False),
                ("Content", plain(protocol.hash), True),
            ],
        ),
        (
            "Data",
            [
                ("Data set", f"{plain(data.name)}, {plain(data.split)}", False),
                ("Examples", result.examples.choice or result.examples.text, False),
                ("Canonical", CANONICAL[data.canonical], False),
                ("Content", plain(data.hash), True),
            ],
        ),
        ("Checks", [(_label(name), _check_of(result, name), False) for name in result.checks]),
        ("Run", [*seeds, *settings, *_versions(result), ("Result file", result.file_hash, True)]),
    ]


def _radius(result: Result) -> str:
    return radius(result.protocol.eps, result.protocol.eps_value)


def _versions(result: Result) -> list[tuple[str, str, bool]]:
    """Versions, device and commit; one level of nesting is written out."""
    lines = []
    for name, value in result.environment.items():
        if isinstance(value, Mapping):
            pairs = [f"{plain(str(key))} {_text(one)}" for key, one in value.items()]
            lines.append((_label(name), ", ".join(pairs), False))
        else:
            lines.append((_label(name), _text(value), False))
    return [*lines, ("Commit", plain(result.git_commit) or "not stated", True)]


def _label(name: str) -> str:
    text = plain(name).replace("_", " ")
    return text[:1].upper() + text[1:]


def _text(value: object) -> str:
    if isinstance(value, str):
        return plain(value)
    return plain(json.dumps(value, ensure_ascii=False))


def _check_of(result: Result, name: str) -> str:
    """What a check of a result measured, or why it could not."""
    if result.gives_no_gradient and name in OF_GRADIENTS:
        return "no gradient"
    return _check(result.checks[name])


def _check(stored: object) -> str:
    """A check's value, and on how many examples it was measured where that is stored."""
    if isinstance(stored, Mapping) and set(stored) == {"value", "points"}:
        return f"{_check(stored['value'])}, on {_text(stored['points'])}"
    return f"{stored:.3g}" if isinstance(stored, float) else _text(stored)


def _flag_view(flag: RaisedFlag) -> View:
    return {
        "name": plain(flag.name),
        "value": None if flag.value is None else f"{flag.value:.4g}",
        "threshold": None if flag.threshold is None else f"{flag.threshold:.4g}",
        "meaning": plain(flag.meaning),
        "follow_up": plain(flag.follow_up),
    }
