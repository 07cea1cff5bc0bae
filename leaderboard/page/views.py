"""What the page shows of each table and row: every number as text, everything from outside safe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from robustbench_lite.leaderboard.page.evaluate_command import reproduce_command
from robustbench_lite.leaderboard.page.interval_bars import Axis
from robustbench_lite.leaderboard.results.records import Accuracy, AttackSpec, Flag, Result
from robustbench_lite.leaderboard.statistics.ranking import RankedResult, RankGroup
from robustbench_lite.leaderboard.table.columns import counts_text
from robustbench_lite.leaderboard.table.text import (
    count,
    examples,
    interval,
    passes,
    percent,
    plain,
    radius,
    shortened,
)

View = dict[str, object]

OPTION_WIDTH = 48  # characters of a name in a filter's list
MANY_ATTACKS = 3  # above it a table scrolls sideways in its own frame
CANONICAL = {True: "yes", False: "no", None: "unknown"}
EXTRA_DATA = {True: "yes", False: "none", None: "not stated"}


def group_view(group: RankGroup, heading: str, number: int) -> View:
    """One table.

    Args:
        group: its rows, best first.
        heading: the line that tells it from the other tables.
        number: of the table on the page, from 1.
    """
    first = group.rows[0].result
    key, titles = group.key, group.attack_titles()
    axis = Axis.around([row.result.robust_accuracy.interval for row in group.rows])
    attacks = first.protocol.attacks
    return {
        "id": f"table-{number}",
        "heading": heading,
        "dataset": plain(key.dataset),
        "norm": plain(key.norm),
        "radius": radius(key.eps, key.eps_value),
        "about": [
            ("Protocol", plain(key.protocol_id), ""),
            ("Split", f"{plain(key.split)}, {examples(key.first_example, key.n_examples)}", ""),
            ("Data", *_canonical({row.result.dataset.canonical for row in group.rows})),
        ],
        "attacks": [plain(titles[attack.name]) for attack in attacks],
        "terms": [
            ("Engine", plain(first.protocol.engine_text)),
            ("Data", plain(key.dataset_hash)),
            ("Protocol", plain(key.protocol_hash)),
            *((plain(titles[attack.name]), _parameters(attack)) for attack in attacks),
        ],
        "n_columns": 7 + len(attacks),
        "wide": len(attacks) > MANY_ATTACKS,
        "axis": axis,
        "ties": any(row.rank.endswith("=") for row in group.rows),
        "counts": counts_text(row.result.status for row in group.rows),
        "rows": [_row_view(row, axis) for row in group.rows],
    }


def _canonical(known: set[bool | None]) -> tuple[str, str]:
    """What to say of a table's data, and a badge when they are other pixels."""
    if False in known:
        return "not comparable with published numbers", "not canonical"
    return ("no canonical hash known" if None in known else "canonical"), ""


def n_rows(group: View) -> int:
    """How many rows a table has."""
    return len(group["rows"])  # type: ignore[arg-type]


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


def _row_view(row: RankedResult, axis: Axis) -> View:
    result = row.result
    robust = result.robust_accuracy
    attacks = [result.attacks[attack.name].accuracy.value for attack in result.protocol.attacks]
    return {
        "id": f"row-{result.file_hash.rpartition(':')[2][:16]}",
        "rank": row.rank,
        "name": plain(result.name),
        "defense": plain(result.defense),
        "architecture": plain(result.architecture),
        "parameters": f"{count(result.parameters)} params",
        "extra_data": result.extra_data,
        "clean": percent(result.clean_accuracy.value),
        "attacks": [percent(value) for value in attacks],
        "robust": percent(robust.value),
        "interval": interval(*robust.interval),
        "low": f"{robust.interval[0]:.6f}",
        "bar": axis.bar(robust.value, robust.interval),
        "status": result.status,
        "flags": [_flag_view(flag) for flag in result.flags],
        "missing": "; ".join(map(plain, result.missing)),
        "cost": passes(result.cost),
        "attack_rows": [_accuracy_view("Clean images", result.clean_accuracy), *_attacks(result)],
        "facts": _facts(result),
        "command": reproduce_command(result),
        "no_command": "These examples do not begin at the first of the split: no command evaluates "
        "them.",
    }


def _attacks(result: Result) -> Iterator[View]:
    """The attacks of a row in order, each with its stages below it, and what all of them leave."""
    for spec in result.protocol.attacks:
        attack = result.attacks[spec.name]
        yield {
            **_accuracy_view(plain(spec.title), attack.accuracy),
            "kind": "composite" if attack.stages else "",
            "name": plain(spec.name),
            "parameters": _parameters(spec),
            "forwards": passes(attack.forwards),
            "backwards": passes(attack.backwards),
        }
        for stage, accuracy in attack.stages:
            yield {**_accuracy_view(f"after {plain(stage)}", accuracy), "kind": "stage"}
    yield {**_accuracy_view("Worst case", result.robust_accuracy), "kind": "total"}


def _accuracy_view(title: str, accuracy: Accuracy) -> View:
    return {
        "title": title,
        "name": "",
        "parameters": "",
        "forwards": "",
        "backwards": "",
        "kind": "",
        "value": percent(accuracy.value),
        "correct": f"{accuracy.correct:,} of {accuracy.n:,}",
        "interval": interval(*accuracy.interval),
    }


def _parameters(attack: AttackSpec) -> str:
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
                ("Source", model.kind, False),
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
                ("Examples", examples(result.first_example, result.n_examples), False),
                ("Canonical", CANONICAL[data.canonical], False),
                ("Content", plain(data.hash), True),
            ],
        ),
        ("Checks", [(_label(name), _check(value), False) for name, value in result.checks.items()]),
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


def _check(stored: object) -> str:
    """A check's value, and on how many examples it was measured where that is stored."""
    if isinstance(stored, Mapping) and set(stored) == {"value", "points"}:
        return f"{_check(stored['value'])}, on {_text(stored['points'])}"
    return f"{stored:.3g}" if isinstance(stored, float) else _text(stored)


def _flag_view(flag: Flag) -> View:
    return {
        "name": plain(flag.name),
        "value": None if flag.value is None else f"{flag.value:.4g}",
        "threshold": None if flag.threshold is None else f"{flag.threshold:.4g}",
        "meaning": plain(flag.meaning),
        "follow_up": plain(flag.follow_up),
    }
