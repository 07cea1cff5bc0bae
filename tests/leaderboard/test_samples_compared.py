"""Rows of random samples: ranked and paired only on equal images, and said to be samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_leaderboard_builder import Outcomes, content, first, simple, store

from robustbench_lite.core.drawn_ids import ids_sha256, sample_of_split
from robustbench_lite.leaderboard import build_table, load_result, render
from robustbench_lite.leaderboard.page.evaluate_command import reproduce_command
from robustbench_lite.leaderboard.statistics.comparison import compare
from robustbench_lite.leaderboard.table.columns import PREFIX
from robustbench_lite.leaderboard.table.comparison import render_comparison

N, SIZE = 40, 300


def drawn(seed: int, n: int = N) -> dict[str, Any]:
    ids = sample_of_split(n, SIZE, seed)
    about = {"chosen": "random", "seed": seed, "of": SIZE, "count": n}
    return {**about, "sha256": ids_sha256(ids), "ids": list(ids)}


def listed(ids: tuple[int, ...], file: str = "hard.txt") -> dict[str, Any]:
    about = {"chosen": "subset", "file": file, "of": SIZE, "count": len(ids)}
    return {**about, "sha256": ids_sha256(ids), "ids": list(ids)}


def table(folder: Path, *contents: dict[str, Any]) -> Any:
    stored = [store(folder / str(i), data) for i, data in enumerate(contents)]
    return build_table([load_result(path) for path in stored])


def test_only_rows_on_the_same_images_share_a_rank(tmp_path: Path) -> None:
    rows = [
        simple("prefix", 30),
        simple("a", 30, examples=drawn(0)),
        simple("b", 10, examples=drawn(0)),
        simple("c", 20, examples=drawn(1)),
        simple("d", 5, examples=listed(sample_of_split(N, SIZE, 1))),
        simple("e", 9, examples=listed(tuple(range(1, N + 1)))),
    ]
    ranks = dict(table(tmp_path, *rows)[["name", "rank"]].itertuples(index=False))
    # d has the very images of c, listed in a file instead of drawn.
    assert ranks == {"prefix": "1", "a": "1", "b": "2", "c": "1", "d": "2", "e": "1"}


def test_tables_say_how_the_images_were_chosen(tmp_path: Path) -> None:
    of = {"first": 0, "count": N, "of": SIZE}
    cases: list[tuple[dict[str, Any], str, str]] = [
        (drawn(7), "random 40 of 300 (seed 7)", "n=40 (random 40 of 300 (seed 7))"),
        (listed((3, *range(5, 44))), "subset hard.txt", "n=40 (subset hard.txt)"),
        (of, "first 40 of 300", "n=40\n"),
        ({**of, "of": N}, "all 40", "n=40\n"),
        ({"first": 0, "count": N}, "", "n=40\n"),
    ]
    for i, (examples, words, heading) in enumerate(cases):
        rows = table(tmp_path / str(i), simple("x", 30, examples=examples))
        (group,) = json.loads(render(rows, "json"))["groups"]
        assert group["examples"] == words
        for format in ("terminal", "markdown", "latex"):
            text = render(rows, format)
            assert (PREFIX in text) == words.startswith("first"), "once, and of a prefix alone"
        assert heading in render(rows, "terminal")


def test_old_and_new_results_on_the_same_first_images_are_ranked_together(tmp_path: Path) -> None:
    new = simple("new", 10, examples={"first": 0, "count": N, "of": SIZE})
    ranks = list(table(tmp_path, simple("old", 30), new)["rank"])
    assert ranks == ["1", "2"]


def bits(ids: tuple[int, ...], robust: set[int]) -> dict[str, Outcomes]:
    return {"pgd20_ce": np.array([one in robust for one in ids])}


def test_a_comparison_pairs_the_images_that_both_have_by_their_ids(tmp_path: Path) -> None:
    one, other = sample_of_split(N, SIZE, 0), tuple(range(100, 200))
    shared = sorted(set(one) & set(other))
    assert 5 < len(shared) < N, "otherwise the test says little"
    theirs = set(shared[::2])
    a = store(tmp_path / "a", content("a", first(N, N), bits(one, set(one)), examples=drawn(0)))
    b = store(
        tmp_path / "b",
        content("b", first(100, 100), bits(other, theirs), examples={"first": 100, "count": 100}),
    )
    labels = (np.array(other) % 3).astype("<u2")
    found = compare(load_result(a), load_result(b), labels=labels, labels_of=load_result(b))
    assert found.ids.tolist() == shared
    assert found.only_a == tuple(shared[1::2])
    assert found.only_b == ()
    counts = {int(pair.title): pair.a.n for pair in found.classes}
    assert counts == {c: n for c in range(3) if (n := sum(i % 3 == c for i in shared))}
    assert f"n={len(shared)} (those that both have)" in render_comparison(found, format="terminal")


@pytest.mark.parametrize(
    ("examples", "options"),
    [
        (drawn(3), ["--sample", "40", "--sample-seed", "3"]),
        (listed((3, *range(5, 44))), ["--subset", "hard.txt"]),
        ({"first": 0, "count": N}, ["--n", "40"]),
    ],
)
def test_the_command_of_a_row_takes_the_same_images(
    tmp_path: Path, examples: dict[str, Any], options: list[str]
) -> None:
    path = store(tmp_path / "r", simple("x", 30, examples=examples))
    words = reproduce_command(load_result(path))
    place = words.index(options[0])
    assert words[place : place + len(options)] == options
