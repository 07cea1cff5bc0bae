"""A value of a wrong type anywhere in a published table is one line, never a traceback."""

from __future__ import annotations

import copy
import datetime
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite.leaderboard import (
    ResultError,
    build_table,
    check_published,
    load_published,
    render,
    render_page,
)
from robustbench_lite.leaderboard.published.formats import (
    render_findings,
    render_list,
    render_table,
)
from robustbench_lite.leaderboard.published.reported import reported_rows

TABLE: dict[str, Any] = {
    "title": "T", "paper": "P", "where": "W", "repository": "https://x.test", "note": "N",
    "provenance": "verified", "dataset": "cifar10", "split": "test", "part": "", "n": 10000,
    "norm": "Linf", "eps_printed": "8/255", "eps": "8/255", "model": "WRN-34-10",
    "protocol": "aa_standard", "attack": "", "basis": "B", "unit": "percent",
    "trends": ["it falls"],
    "columns": [
        {"metric": "clean", "key": "clean", "title": "Clean", "quantity": "accuracy"},
        {"metric": "aa", "title": "AA", "union": True, "n": 1000, "unit": "percent"},
        {"metric": "pgd", "title": "PGD", "protocols": {"Linf": "pgd20_ce", "L2": "pgd20_l2"}},
    ],
    "rows": [
        {
            "id": "r", "method": "M", "printed": "R", "recipe": "x", "small_scale": "y",
            "selection": "best", "weights": "sha256:0", "note": "N", "values": ["90", "50", "51"],
            "cells": {"aa": {"note": "N", "also": ["50.1"], "eps": "0.031", "n": 500}},
        },
        {"id": "s", "method": "O", "values": ["91", "49 ± 0.2", ""], "norm": "L2", "n": 100},
    ],
    "changes": [{"row": "t", "note": "changed"}],
    "relations": [{"metric": "aa", "above": "r", "below": "s", "source": "Sec. 4"}],
    "csv": {
        "file": "t.csv", "id": "{name}", "fields": {"method": "kind", "printed": "name"},
        "values": {"clean": "acc", "aa": "aa"},
    },
}  # fmt: skip
CSV = "name,kind,acc,aa\nt,M,88,47\n"
WRONG: list[Any] = [
    *(3, -1, 10**30, 0.5, math.inf, math.nan, True, False, "", "text", "{", "{0}", "{name.x}"),
    *("{name!r:>9999999999}", "\x00", "9" * 400, "1e400", "\x1b[2J", "../../../etc/passwd"),
    *([], ["a"], [1], [[]], [{}], {}, {"a": 1}, {"a": {}}, {"aa": {"a": "b"}}),
    *(datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 2, 3), datetime.time(1, 2)),
]


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
        )
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def write(folder: Path, data: dict[str, Any]) -> str:
    (folder / "t.csv").write_text(CSV)
    path = folder / "t.toml"
    path.write_text("\n".join(f"{key} = {toml(value)}" for key, value in data.items()))
    return str(path)


def places(data: Any) -> Iterator[list[Any]]:
    """The path of every value of a table, whole lists and objects too."""
    pairs = list(data.items() if isinstance(data, dict) else enumerate(data))
    for key, value in pairs:
        yield [key]
        if isinstance(value, dict | list):
            for rest in places(value):
                yield [key, *rest]


def replaced(data: dict[str, Any], path: list[Any], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    parent: Any = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return changed


def use(name: str) -> None:
    """Everything that the commands do with a published table."""
    table = load_published(name)
    for format in ("terminal", "markdown", "json"):
        text = render_table(table, table.rows, format=format)
        text += render_findings(check_published([table]), format=format)
        text += render_list([table], format=format)
        assert "\x1b" not in text
    rows = reported_rows([table])
    for format in ("terminal", "csv", "json"):
        render(build_table([], rows), format)
    render_page([], title="t", reported=rows)


def test_the_table_is_sound(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE)
    use(path)
    assert [row.id for row in load_published(path).rows] == ["r", "s", "t"]


@pytest.mark.parametrize("place", list(places(TABLE)), ids=lambda place: ".".join(map(str, place)))
def test_a_value_of_another_type_is_one_line(tmp_path: Path, place: list[Any]) -> None:
    for value in WRONG:
        path = write(tmp_path, replaced(TABLE, place, value))
        try:
            use(path)
        except ResultError as error:
            message = str(error)
            assert path in message, (value, message)
            assert "\n" not in message, (value, message)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "9" * 5000,
        "a = " + "[" * 5000,
        "a" + ".a" * 5000 + " = 1",
        "\x00",
        "a = 1\na = 2",
    ],
)
def test_text_that_is_no_toml_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(ResultError) as error:
        load_published(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe", b"name\n\x00", b"name,kind,acc,aa\nt,M\n", b"name,kind,acc,aa\nt,M,1,2,3,4\n",
        b'name,kind\n"' + b"x" * 200_000, b"", b"name,name,kind,acc,aa\nt,u,M,88,47\n",
        b"name,kind,acc,aa\n,,,\n",
    ],
)  # fmt: skip
def test_a_damaged_csv_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, TABLE)
    (tmp_path / "t.csv").write_bytes(content)
    with suppress(ResultError):  # whose message is one line
        use(path)
