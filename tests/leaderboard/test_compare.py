"""`rbl compare`: worked numbers, what may be paired, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_leaderboard_builder import HOSTILE, Outcomes, content, first, protocol, simple, store
from test_per_class import write

from robustbench_lite.cli import main
from robustbench_lite.leaderboard import ResultError, load_result, mcnemar_exact
from robustbench_lite.leaderboard.statistics.accuracy import pack_labels
from robustbench_lite.leaderboard.statistics.comparison import Comparison, compare
from robustbench_lite.leaderboard.table.comparison import render_comparison

N = 60
LABELS = np.arange(N) % 3


def result(
    folder: Path, name: str, attacks: dict[str, Outcomes], labels: bool = True, **changes: Any
) -> Path:
    data = content(name, first(N, N), attacks, **changes)
    if labels:
        data["outcomes"]["labels"] = pack_labels(LABELS)
    return store(folder / name, data).parent


def two(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """A resists 0..39, B resists 12..44: 12 examples only A, 5 only B, per attack and in all."""
    ids = np.arange(N)
    a = result(folder, "a", {"pgd20_ce": ids < 40, "aa_standard": (ids < 50)})
    b = result(
        folder, "b", {"pgd20_ce": (ids >= 12) & (ids < 45), "aa_standard": ids < 55}, **changes
    )
    return a, b


def compared(a: Path, b: Path, labels: bool = False) -> Comparison:
    return compare(load_result(a), load_result(b), labels=LABELS.astype("<u2") if labels else None)


def test_pairs_have_counts_of_who_resists_alone_and_the_exact_test(tmp_path: Path) -> None:
    comparison = compared(*two(tmp_path))
    pairs = {pair.title: pair for pair in comparison.pairs}
    assert list(pairs) == ["Clean", "PGD-20", "AutoAttack", "Worst case"]
    ids = np.arange(N)
    for title, ours, theirs in (
        ("Clean", ids >= 0, ids >= 0),
        ("PGD-20", ids < 40, (ids >= 12) & (ids < 45)),
        ("AutoAttack", ids < 50, ids < 55),
        ("Worst case", ids < 40, (ids >= 12) & (ids < 45)),
    ):
        pair = pairs[title]
        assert (pair.only_a, pair.only_b) == ((ours & ~theirs).sum(), (theirs & ~ours).sum())
        assert (pair.a.correct, pair.b.correct) == (ours.sum(), theirs.sum())
        assert pair.p_value == pytest.approx(mcnemar_exact(ours, theirs))
        assert pair.separated == (pair.p_value <= 0.05)
        assert pair.difference == pytest.approx((ours.sum() - theirs.sum()) / N)
    assert comparison.only_a == tuple(range(12))
    assert comparison.only_b == tuple(range(40, 45))
    assert comparison.terms == ()


def test_a_and_b_exchanged_exchange_everything(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    one, other = compared(a, b, labels=True), compared(b, a, labels=True)
    assert (one.only_a, one.only_b) == (other.only_b, other.only_a)
    for pair, mirror in zip(one.pairs + one.classes, other.pairs + other.classes, strict=True):
        assert (pair.a, pair.only_a, pair.p_value) == (mirror.b, mirror.only_b, mirror.p_value)


def test_classes_add_up_to_the_whole_and_are_corrected_together(tmp_path: Path) -> None:
    ids = np.arange(N)
    # Class 0: 6 examples only A, p = 0.031: separated alone, not among three (Holm).
    b = (LABELS != 0) | (ids >= 18)
    a = result(tmp_path, "a", {"pgd20_ce": ids >= 0})
    comparison = compared(a, result(tmp_path, "b", {"pgd20_ce": b}), labels=True)
    assert [pair.title for pair in comparison.classes] == ["0", "1", "2"]
    assert [pair.only_a for pair in comparison.classes] == [6, 0, 0]
    assert comparison.classes[0].p_value == 0.03125
    assert not comparison.classes[0].separated
    assert comparison.pairs[-1].separated
    (worst,) = (pair for pair in comparison.pairs if pair.title == "Worst case")
    assert sum(pair.a.n for pair in comparison.classes) == worst.a.n
    assert sum(pair.b.correct for pair in comparison.classes) == worst.b.correct


def test_results_of_different_length_are_paired_on_what_both_have(tmp_path: Path) -> None:
    ids = np.arange(40)
    a = result(tmp_path, "a", {"pgd20_ce": np.arange(N) < 30})
    clean, outcomes = first(40, 40), {"pgd20_ce": ids < 12}
    later = content("b", clean, outcomes, examples={"first": 10, "count": 40})
    b = store(tmp_path / "b", later)
    comparison = compared(a, b, labels=True)
    assert comparison.ids.tolist() == list(range(10, 50))
    # Of examples 10 to 49 the first resists 10 to 29, the second 10 to 21.
    assert comparison.only_a == tuple(range(22, 30))
    assert comparison.pairs[-1].a.correct == 20
    assert sum(pair.a.n for pair in comparison.classes) == 40
    assert [pair.a.n for pair in comparison.classes] == [
        int((LABELS[10:50] == label).sum()) for label in range(3)
    ]
    assert compared(b, a).only_b == tuple(range(22, 30))
    shifted = compare(
        load_result(b), load_result(a), labels=LABELS[10:50].astype("<u2"), labels_of=load_result(b)
    )
    assert [pair.a.n for pair in shifted.classes] == [pair.a.n for pair in comparison.classes]


def test_attacks_that_only_one_has_are_left_out_and_the_terms_are_told(tmp_path: Path) -> None:
    plan = protocol(["pgd20_ce"], version=2, id="linf_standard@0.1.v2")
    a = result(tmp_path, "a", {"pgd20_ce": first(30, N), "aa_standard": first(29, N)})
    b = result(tmp_path, "b", {"pgd20_ce": first(20, N)}, protocol=plan, seed=7)
    comparison = compared(a, b)
    assert [pair.title for pair in comparison.pairs] == ["Clean", "PGD-20", "Worst case"]
    assert comparison.terms == (
        "protocol: linf_standard@0.1.v1 and linf_standard@0.1.v2",
        f"protocol content: {load_result(a).protocol.hash} and {plan['hash']}",
        "seed: 0 and 7",
    )
    for format in ("terminal", "markdown"):
        assert "Not a ranking of two networks" in render_comparison(comparison, format=format)


def test_two_attacks_of_one_title_are_paired_by_name(tmp_path: Path) -> None:
    plan = protocol(["x", "y"])
    for spec in plan["attacks"]:
        spec["title"] = "Worst case"
    a = result(tmp_path, "a", {"x": first(30, N), "y": first(20, N)}, protocol=plan)
    pairs = compared(a, a).pairs
    assert [(pair.title, pair.a.correct) for pair in pairs] == [
        ("Clean", N), ("Worst case (x)", 30), ("Worst case (y)", 20), ("Worst case", 20)
    ]  # fmt: skip


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    other = {"name": "digits", "split": "test", "hash": "sha256:other", "canonical": True}
    third = result(tmp_path, "third", {"pgd20_ce": first(3, N)}, dataset=other)
    with pytest.raises(ResultError, match="hash 'sha256:data', third on 'sha256:other'"):
        compared(a, third)
    later = result(tmp_path, "later", {"pgd20_ce": first(3, N)}, examples={"first": N, "count": N})
    with pytest.raises(ResultError, match="a has examples 0 to 59, later 60 to 119: none"):
        compared(a, later)
    data = simple("silent", 30)
    del data["outcomes"]
    with pytest.raises(ResultError, match="silent: .* stores no outcomes"):
        compared(store(tmp_path / "silent", data), b)
    with pytest.raises(ResultError, match="unknown format 'csv'; available: json, markdown"):
        render_comparison(compared(a, b), format="csv")


def test_terminal_and_markdown_hold_every_number(tmp_path: Path) -> None:
    comparison = compared(*two(tmp_path), labels=True)
    text = render_comparison(comparison, format="terminal")
    line = next(line for line in text.splitlines() if line.startswith("Worst case"))
    assert line.split() == [
        *("Worst", "case", "66.67", "[54.1,", "77.3]", "55.00", "[42.5,", "66.9]"),
        *("+11.67", "12", "5", "0.14"),
    ]
    assert "class 2, n=20" in text
    assert "Only A resists 12 examples: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11." in text
    assert "Only B resists 5 examples: 40, 41, 42, 43, 44." in text
    rows = render_comparison(comparison, format="markdown").splitlines()
    table = [row for row in rows if row.startswith("|")]
    assert len(table) == 2 + len(comparison.pairs) + len(comparison.classes)
    assert len({row.count("|") for row in table}) == 1
    assert "No classes" in render_comparison(compared(*two(tmp_path)), format="terminal")


def test_json_holds_all_ids_where_people_see_twenty(tmp_path: Path) -> None:
    a = result(tmp_path, "a", {"pgd20_ce": first(50, N)})
    b = result(tmp_path, "b", {"pgd20_ce": first(5, N)})
    comparison = compared(a, b, labels=True)
    assert "and 25 more (--format json)" in render_comparison(comparison, format="terminal")
    data = json.loads(render_comparison(comparison, format="json"))
    assert data["only_a_resists"] == list(range(5, 50))
    assert data["only_b_resists"] == []
    assert data["columns"][-1]["difference"] == 0.75
    assert [one["label"] for one in data["classes"]] == [0, 1, 2]
    assert (data["a"]["name"], data["b"]["name"], data["n"]) == ("a", "b", N)


@pytest.mark.parametrize("format", ["terminal", "markdown"])
def test_hostile_names_stay_text(tmp_path: Path, format: str) -> None:
    for i, text in enumerate(HOSTILE):
        plan = protocol(["pgd20_ce"])
        plan["attacks"][0]["title"] = text
        data = simple(text, 3, protocol=plan)
        shown = render_comparison(
            compared(store(tmp_path / str(i), data), tmp_path / str(i)), format=format
        )
        assert not any(ch in shown for ch in "\x1b\x07\u202e\u2066\u200f")
        if format == "markdown":
            assert "<script>" not in shown.replace("\\<", "")
            assert "](" not in shown.replace("\\]", "")


def test_the_command_takes_labels_from_the_result_or_the_examples_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = np.arange(N)
    a, b = two(tmp_path)
    assert main(["compare", str(a), str(b)]) == 0
    inside = capsys.readouterr().out
    assert "class 2, n=20" in inside
    b = result(tmp_path, "b", {"pgd20_ce": ids < 45})
    beside = write(tmp_path / "beside", LABELS, ids >= 0, {"pgd20_ce": ids < 40})
    assert main(["compare", str(beside), str(b), "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["classes"]) == 3
    assert main(["compare", str(b), str(beside), "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["classes"]) == 3
    (beside / "examples.parquet").unlink()
    assert main(["compare", str(beside), str(b)]) == 0
    assert "class 2, n=20" in capsys.readouterr().out, "the other one's labels"
    silent = result(tmp_path, "silent", {"pgd20_ce": ids < 9}, labels=False)
    assert main(["compare", str(beside), str(silent)]) == 0
    assert "No classes" in capsys.readouterr().out
    (beside / "examples.parquet").write_bytes(b"not parquet")
    assert main(["compare", str(beside), str(b)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["compare", str(a), str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_examples_beside_that_are_another_evaluation_s_are_refused(tmp_path: Path) -> None:
    from robustbench_lite.leaderboard.statistics.per_class import stored_labels

    ids = np.arange(N)
    folder = write(tmp_path / "x", LABELS, ids >= 0, {"pgd20_ce": ids < 40})
    store(folder, simple("other", 30))
    with pytest.raises(ResultError, match="its labels are not those of the result.json"):
        stored_labels(folder, load_result(folder))
