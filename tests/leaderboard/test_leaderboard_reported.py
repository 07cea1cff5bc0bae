from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from test_leaderboard_builder import HOSTILE, protocol, simple, store
from test_leaderboard_page import Page, words

from robustbench_lite.leaderboard import build_table, load_result, render, render_page
from robustbench_lite.leaderboard.published.records import Cell, PublishedRow, PublishedTable
from robustbench_lite.leaderboard.published.reported import group_reported, reported_rows


def cell(metric: str, text: str, **changes: Any) -> Cell:
    titles = {"clean": "Clean", "pgd20": "PGD-20", "aa": "AutoAttack"}
    start = Cell(
        table="paper_table1", row="r", key=metric, metric=metric, title=titles.get(metric, metric),
        quantity="accuracy", text=text, value=Fraction(text) / 100, rounding=Fraction(1, 20000),
        spread=None, also=(), method="trades", model="WRN-34-10", dataset="cifar10", split="test",
        part="", n=0, norm="Linf", eps_printed="8/255", eps="8/255", protocol="", attack="",
        union=False, provenance="verified", basis="", note="",
    )  # fmt: skip
    return replace(start, **changes)


def row(name: str, *cells: Cell, **changes: Any) -> PublishedRow:
    start = PublishedRow(
        id=name, printed=name, method="trades", model="WRN-34-10", dataset="cifar10", recipe="",
        small_scale="", selection="", weights="", note="", facts={}, cells=cells,
    )  # fmt: skip
    return replace(start, **changes)


def published(*rows: PublishedRow) -> PublishedTable:
    """A table with a row of verified numbers, one from memory, and one at another radius."""
    rows = rows or (
        row("TRADES", cell("clean", "84.92"), cell("pgd20", "56.61"), cell("aa", "53.08")),
        row("MART", cell("clean", "83.6"), cell("aa", "51.1", provenance="memory"), note="a note"),
        row("LBGAT", cell("clean", "88.22"), cell("aa", "52.86", eps="0.031")),
    )
    return PublishedTable(
        id="paper_table1", title="A table", paper="Somebody et al. 2019", where="Table 1",
        repository="", provenance="verified", note="", columns={}, rows=rows,
    )  # fmt: skip


def test_rows_are_grouped_by_data_and_radius_and_keep_the_order_of_the_source() -> None:
    groups = group_reported(reported_rows([published()]))
    assert [(key.eps, [one.name for one in rows]) for key, rows in groups.items()] == [
        ("0.031", ["LBGAT"]),
        ("8/255", ["TRADES", "MART"]),
    ]
    trades, mart = groups[list(groups)[1]]
    assert (trades.clean, trades.attacks) == (0.8492, {"PGD-20": 0.5661, "AutoAttack": 0.5308})
    assert (trades.marks, mart.marks) == ("", "memory")


def test_an_error_is_shown_as_an_accuracy_and_other_quantities_are_left_out() -> None:
    table = published(
        row("a", cell("pgd20", "40", quantity="error"), cell("auroc", "99", quantity="auroc")),
        row("b", cell("clean", "90")),
        row("c", cell("pgd20", "50", part="class 3")),
    )
    (only,) = reported_rows([table])
    assert only.attacks == {"PGD-20": 0.6}
    assert only.clean is None
    assert only.shown == {"PGD-20": "40"}


def test_rows_that_the_table_prints_alike_carry_their_ids() -> None:
    table = published(
        row("AT", cell("aa", "50"), id="at_best"), row("AT", cell("aa", "45"), id="at_last"),
        row("AT", cell("aa", "40"), model="other"),
    )  # fmt: skip
    assert [one.name for one in reported_rows([table])] == ["AT (at_best)", "AT (at_last)", "AT"]


def test_reported_rows_never_have_a_rank_nor_share_a_table_with_measured_ones(
    tmp_path: Path,
) -> None:
    dataset = {"name": "cifar10", "split": "test", "hash": "sha256:x", "canonical": True}
    plan = protocol(["pgd20_ce"], id="linf_standard@8/255.v1", eps="8/255", eps_value=8 / 255)
    result = load_result(store(tmp_path, simple("mine", 3, dataset=dataset, protocol=plan)))
    table = build_table([result], reported_rows([published()]))
    assert list(table["name"]) == ["mine", "LBGAT", "TRADES", "MART"]
    assert list(table["rank"]) == ["1", "–", "–", "–"]
    assert list(table["status"]) == ["measured", "reported", "reported", "reported"]
    assert list(table["flags"]) == ["", "", "", "memory"]
    assert math.isnan(table["worst_case"].iloc[2])
    groups = json.loads(render(table, "json"))["groups"]
    assert [[one["name"] for one in group["rows"]] for group in groups] == [
        ["mine"], ["LBGAT"], ["TRADES", "MART"]
    ]  # fmt: skip
    mart = groups[2]["rows"][1]
    assert mart["attacks"] == {"PGD-20": None, "AutoAttack": 0.511}
    assert (mart["worst_case"], mart["params"], mart["seed"]) == (None, None, None)
    assert mart["source"] == "Somebody et al. 2019"


def test_integers_stay_integers_beside_rows_that_have_none(tmp_path: Path) -> None:
    result = load_result(store(tmp_path, simple("mine", 30)))
    text = render(build_table([result], reported_rows([published()])), "csv")
    mine, *others = csv.DictReader(io.StringIO(text))
    assert (mine["params"], mine["n"], mine["seed"]) == ("21326", "40", "0")
    assert {(one["params"], one["n"], one["worst_case"]) for one in others} == {("", "", "")}


@pytest.mark.parametrize("format", ["terminal", "markdown", "latex"])
def test_tables_say_that_the_numbers_were_not_measured_here(format: str) -> None:
    text = render(build_table([], reported_rows([published()])), format)
    assert text.count("Reported only, not measured here: Somebody et al. 2019.") == 2
    assert "reported: memory" in text
    assert "nan" not in text.lower().replace("nant", "")
    assert "Worst" not in text.replace("Worst case:", "")


def test_a_radius_that_nobody_stated_is_not_invented() -> None:
    rows = reported_rows([published(row("a", cell("aa", "50", eps="")))])
    assert "cifar10 test · Linf · as reported" in render(build_table([], rows), "terminal")
    assert ",inf," not in render(build_table([], rows), "csv")
    assert json.loads(render(build_table([], rows), "json"))["groups"][0]["eps_value"] is None
    assert "ε = not stated" in words(Page(render_page([], title="t", reported=rows)))


def test_the_page_marks_numbers_from_memory_and_shows_them_as_printed() -> None:
    text = words(Page(render_page([], title="t", reported=reported_rows([published()]))))
    assert "51.10 (memory) reported" in text
    assert "84.92 56.61 53.08 reported" in text
    assert "As printed Clean 83.6 AutoAttack 51.1 (memory)" in text
    assert "Checked memory Note a note" in text
    assert "Reported in Somebody et al. 2019" in text
    assert "nothing was measured here" in text


def test_hostile_words_of_a_source_are_text_on_the_page() -> None:
    rows = [
        row(text, cell("aa", "50", title=text), method=text, model=text, note=text)
        for text in HOSTILE
    ]
    text = render_page([], title="t", reported=reported_rows([published(*rows)]))
    page = Page(text)
    assert text.count("<script") == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not any(ch in text for ch in "\x1b\x07\u202e\u2066\u200f")
    assert HOSTILE[0] in page.texts


def test_the_command_shows_a_published_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from robustbench_lite.cli import main

    store(tmp_path / "mine", simple("mine", 30))
    assert main(["leaderboard", str(tmp_path), "--reported", "lbgat_2021_readme"]) == 0
    shown = capsys.readouterr().out
    assert "LBGAT0" in shown
    assert "mine" in shown
    assert main(["leaderboard", str(tmp_path), "--reported", "no_such_table"]) == 2
    assert "no_such_table" in capsys.readouterr().err
