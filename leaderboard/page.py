"""The leaderboard as one HTML file: readable without JavaScript, asks for nothing from outside."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from robustbench_lite.leaderboard.display import (
    count,
    examples,
    headings,
    interval,
    passes,
    percent,
    plain,
    radius,
    short_hash,
)
from robustbench_lite.leaderboard.interval_bars import Axis
from robustbench_lite.leaderboard.ranking import RankedResult, RankGroup, rank_results
from robustbench_lite.leaderboard.records import Flag, Result

View = dict[str, object]


def render_page(results: Iterable[Result], *, title: str) -> str:
    """The whole leaderboard as HTML.

    A pure function of its arguments: the same results in any order give the same text. Everything
    that came from a result file is escaped, and stripped of control and bidi characters.

    Args:
        results: in any order; duplicates collapse as in `build_table`.
        title: heading of the page and title of the window.

    Returns:
        A complete HTML document.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_packaged("page.html.j2"))
    groups = rank_results(results)
    lines = headings([group.key for group in groups])
    views = [
        _group_view(group, heading, number)
        for number, (group, heading) in enumerate(zip(groups, lines, strict=True), start=1)
    ]
    n_rows = sum(len(group.rows) for group in groups)
    css = Markup(_packaged("page.css"))  # ours, not from a result
    return template.render(title=plain(title), css=css, groups=views, n_rows=n_rows) + "\n"


def _packaged(name: str) -> str:
    return files("robustbench_lite.leaderboard").joinpath(name).read_text(encoding="utf-8")


def write_page(path: str | Path, results: Iterable[Result], *, title: str) -> Path:
    """Write the page so that a reader sees the old file or the whole new one.

    Args:
        path: the HTML file; its folder is made when missing.
        results: in any order.
        title: heading of the page.

    Returns:
        The path written.

    Raises:
        OSError: when the folder or file cannot be written.
    """
    target = Path(path)
    text = render_page(results, title=title)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _group_view(group: RankGroup, heading: str, number: int) -> View:
    first = group.rows[0].result
    key, titles = group.key, group.attack_titles()
    canonical = {row.result.dataset.canonical for row in group.rows}
    axis = Axis.around([row.result.robust_accuracy.interval for row in group.rows])
    return {
        "id": f"group-{number}",
        "heading": heading,
        "dataset": plain(key.dataset),
        "split": plain(key.split),
        "norm": plain(key.norm),
        "radius": radius(key.eps, key.eps_value),
        "protocol": plain(key.protocol_id),
        "examples": examples(key.first_example, key.n_examples),
        "canonical": "no" if False in canonical else "unknown" if None in canonical else "yes",
        "engine": plain(first.protocol.engine),
        "hashes": [
            ("Data", plain(key.dataset_hash)),
            ("Protocol", plain(key.protocol_hash)),
        ],
        "attacks": [
            {
                "title": plain(titles[attack.name]),
                "name": plain(attack.name),
                "parameters": [(plain(name), plain(text)) for name, text in attack.parameters],
            }
            for attack in first.protocol.attacks
        ],
        "axis": axis,
        "ties": any(row.rank.endswith("=") for row in group.rows),
        "rows": [_row_view(row, axis) for row in group.rows],
    }


def _row_view(row: RankedResult, axis: Axis) -> View:
    result = row.result
    robust = result.robust_accuracy
    attacks = [result.attacks[attack.name].accuracy.value for attack in result.protocol.attacks]
    return {
        "rank": row.rank,
        "name": plain(result.name),
        "defense": plain(result.defense),
        "architecture": plain(result.architecture),
        "parameters": count(result.parameters),
        "extra_data": result.extra_data,
        "clean": percent(result.clean_accuracy.value),
        "attacks": [percent(value) for value in attacks],
        "robust": percent(robust.value),
        "interval": interval(*robust.interval),
        "bar": axis.bar(robust.value, robust.interval),
        "verified": result.verified,
        "flags": [_flag_view(flag) for flag in result.flags],
        "cost": passes(result.cost),
        "model_kind": result.model.kind,
        "model_hash": short_hash(result.model.hash),
        "selection": plain(result.model.selection),
        "seed": str(result.seed),
        "commit": plain(result.git_commit)[:12],
        "environment": ", ".join(
            f"{plain(name)} {plain(str(value))}" for name, value in result.environment.items()
        ),
    }


def _flag_view(flag: Flag) -> View:
    return {
        "name": plain(flag.name),
        "value": None if flag.value is None else f"{flag.value:.4g}",
        "threshold": None if flag.threshold is None else f"{flag.threshold:.4g}",
        "meaning": plain(flag.meaning),
        "follow_up": plain(flag.follow_up),
    }
