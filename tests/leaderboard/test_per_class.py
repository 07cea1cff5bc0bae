"""Accuracies and errors by class: worked numbers, what counts as an error, and `rbl classes`."""

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_leaderboard_builder import HOSTILE, content, store, wilson

from robustbench_lite.cli import main
from robustbench_lite.leaderboard import ResultError, load_result
from robustbench_lite.leaderboard.statistics.accuracy import pack_labels
from robustbench_lite.leaderboard.statistics.per_class import (
    last_half,
    load_per_class,
    stored_labels,
    worst_class,
)

ERRORS = [10, 20, 30, 20, 20, 50, 60, 70, 80, 90]  # percent, by class
UNDER = (5, 6, 7, 8, 9)


def write(folder, labels, clean, attacks, name="digits_pgd_at", **changes):
    """A result folder: result.json, and examples.parquet as an evaluation writes it."""
    store(folder, content(name, clean, attacks, **changes))
    rows = [
        (i, int(label), "clean", not bool(right))
        for i, (label, right) in enumerate(zip(labels, clean, strict=True))
    ]
    for name, robust in attacks.items():
        rows += [(i, int(labels[i]), name, not bool(robust[i])) for i in np.flatnonzero(clean)]
    write_rows(folder, rows)
    return folder


def write_rows(folder, rows, names=("example_id", "label", "attack", "broken")):
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), folder / "examples.parquet")


def shares(labels, errors):
    """Outcomes in which the first errors[c] percent of class c are wrong."""
    right = np.ones(len(labels), dtype=bool)
    for label, percent in enumerate(errors):
        places = np.flatnonzero(labels == label)
        right[places[: round(len(places) * percent / 100)]] = False
    return right


@pytest.fixture
def sheet(tmp_path):
    """Ten classes of ten images; robust errors as in ERRORS, clean errors half as large."""
    labels = np.tile(np.arange(10), 20)
    clean = shares(labels, [error / 2 for error in ERRORS])
    return write(tmp_path / "r", labels, clean, {"pgd20_ce": shares(labels, ERRORS)})


def percent(errors):
    return [round(100 * error, 9) for error in errors]


def test_the_four_errors_and_those_of_the_well_represented_classes(sheet):
    result = load_per_class(sheet, num_classes=10, under=UNDER)
    sets = (result.overall, result.well, result.under)
    assert percent(one.robust_error for one in result.classes) == ERRORS
    assert percent(one.robust_error for one in sets) == [45, 20, 70]
    assert percent(one.clean_error for one in sets) == [22.5, 10, 35]
    assert [one.labels for one in sets] == [tuple(range(10)), tuple(range(5)), UNDER]
    assert [one.clean.n for one in sets] == [200, 100, 100]
    assert result.worst.labels == (9,)
    assert result.equal_sizes
    assert percent(1 - one.robust_class_mean for one in sets) == [45, 20, 70]


def test_intervals_are_wilson_s_of_the_counts(sheet):
    result = load_per_class(sheet, num_classes=10, under=UNDER)
    for one in (*result.classes, result.overall, result.well, result.under):
        for accuracy in (one.clean, one.robust, one.attacks["pgd20_ce"]):
            assert accuracy.value == accuracy.correct / accuracy.n
            expected = wilson(accuracy.correct, accuracy.n)
            assert accuracy.interval == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("k", "expected"), [(10, UNDER), (2, (1,)), (5, (3, 4))])
def test_under_represented_classes_are_the_last_half(sheet, k, expected):
    assert last_half(k) == expected
    if k == 10:
        assert load_per_class(sheet, num_classes=10).under.labels == UNDER


def test_a_set_counts_its_images_and_the_class_mean_its_classes(tmp_path):
    labels = np.array([0] * 6 + [1] * 3 + [2] * 1)
    clean = np.array([1, 1, 1, 0, 0, 0, 1, 1, 1, 0], dtype=bool)
    robust = clean & np.array([1, 0, 0, 0, 0, 0, 1, 1, 0, 0], dtype=bool)
    write(tmp_path, labels, clean, {"pgd20_ce": robust})
    result = load_per_class(tmp_path, num_classes=3, under=[2, 1])
    assert not result.equal_sizes
    assert result.overall.clean.value == 6 / 10
    assert result.overall.clean_class_mean == pytest.approx((3 / 6 + 3 / 3 + 0) / 3)
    assert result.overall.robust_class_mean == pytest.approx((1 / 6 + 2 / 3 + 0) / 3)
    assert (result.under.labels, result.under.clean.value) == ((1, 2), 3 / 4)
    assert result.under.clean_class_mean == 0.5
    assert (result.well.robust.correct, result.well.robust.n) == (1, 6)


def test_misclassified_clean_images_are_robust_errors_and_attacks_join(tmp_path):
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    clean = np.array([0, 1, 1, 1, 1, 1, 1, 1], dtype=bool)
    attacks = {
        "pgd20_ce": clean & np.array([1, 0, 1, 1, 1, 1, 1, 1], dtype=bool),
        "aa_standard": clean & np.array([1, 1, 0, 1, 1, 1, 1, 0], dtype=bool),
    }
    write(tmp_path, labels, clean, attacks)
    zero, one = load_per_class(tmp_path, num_classes=2).classes
    assert (zero.clean.correct, zero.robust.correct) == (3, 1)
    assert (one.clean.correct, one.robust.correct) == (4, 3)
    assert {name: a.correct for name, a in zero.attacks.items()} == {
        "pgd20_ce": 2,
        "aa_standard": 2,
    }
    assert [one.attacks[name].correct for name in attacks] == [4, 3]


def test_the_order_of_the_rows_does_not_matter(sheet):
    before = load_per_class(sheet, num_classes=10)
    table = pq.read_table(sheet / "examples.parquet")
    order = np.random.default_rng(0).permutation(len(table))
    pq.write_table(table.take(order), sheet / "examples.parquet")
    assert load_per_class(sheet / "result.json", num_classes=10) == before


def test_the_worst_class_is_that_of_lowest_robust_then_clean_accuracy(tmp_path):
    labels = np.array([0, 0, 1, 1, 2, 2])
    clean = np.array([1, 1, 0, 1, 1, 1], dtype=bool)
    robust = np.array([0, 1, 0, 1, 1, 1], dtype=bool)
    write(tmp_path, labels, clean, {"pgd20_ce": robust})
    assert load_per_class(tmp_path, num_classes=3).worst.labels == (1,)


def test_labels_in_the_result_have_to_give_the_worst_class_of_the_examples(sheet):
    data = json.loads((sheet / "result.json").read_text())
    labels = np.tile(np.arange(10), 20)
    for stored, refused in ((labels, False), (9 - labels, True)):
        data["outcomes"]["labels"] = pack_labels(stored)
        store(sheet, data)
        if refused:
            with pytest.raises(ResultError, match="worst class is 9; by the result.json"):
                load_per_class(sheet, num_classes=10)
        else:
            assert load_per_class(sheet, num_classes=10).worst.labels == (9,)


def test_classes_without_images_are_left_out(tmp_path):
    labels, clean = np.array([0, 3, 3, 9]), np.ones(4, dtype=bool)
    write(tmp_path, labels, clean, {"pgd20_ce": clean})
    result = load_per_class(tmp_path, num_classes=10)
    assert [one.labels for one in result.classes] == [(0,), (3,), (9,)]
    assert (result.under.labels, result.well.labels) == ((9,), (0, 3))
    assert load_per_class(tmp_path, num_classes=10, under=[0, 3, 9]).well is None
    with pytest.raises(ResultError, match=r"none of its 4 examples .* \(4, 5\)"):
        load_per_class(tmp_path, num_classes=10, under=[5, 4])


@pytest.mark.parametrize(
    ("under", "words"),
    [
        ([10], "class 10 is none of the data set's: labels are 0 to 9"),
        ([-1], "class -1 is none"),
        ([], "at least one"),
        ([5, 5], "each named once"),
    ],
)
def test_sets_that_are_none_of_the_data_set_s_are_refused(sheet, under, words):
    with pytest.raises(ResultError, match=words):
        load_per_class(sheet, num_classes=10, under=under)


def test_labels_beyond_the_data_set_are_refused(sheet):
    with pytest.raises(ResultError, match="holds labels 0 to 9; digits has 0 to 8"):
        load_per_class(sheet, num_classes=9)


def drop_column(folder):
    table = pq.read_table(folder / "examples.parquet")
    pq.write_table(table.drop_columns(["label"]), folder / "examples.parquet")


def other_kind(folder):
    write_rows(folder, [(0, "cat", "clean", False)])


def without_value(folder):
    write_rows(folder, [(0, 1, "clean", None), (1, 2, "clean", True)])


def flip_one(folder):
    rows = pq.read_table(folder / "examples.parquet").to_pylist()
    rows[-1]["broken"] = not rows[-1]["broken"]
    write_rows(folder, [tuple(row.values()) for row in rows])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "examples.parquet").unlink(), "not found; accuracies by class"),
        (lambda folder: (folder / "examples.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (drop_column, "cannot be read: .*label"),
        (other_kind, "cannot be read"),
        (without_value, "column 'broken' has rows without a value"),
        (flip_one, "counts are not those of the result.json"),
        (lambda folder: write_rows(folder, [(0, 0, "clean", False)]), "counts are not those"),
    ],
)
def test_examples_that_do_not_belong_to_the_result_are_refused(sheet, damage, words):
    damage(sheet)
    with pytest.raises(ResultError, match=words):
        load_per_class(sheet, num_classes=10)


def test_the_counts_of_each_attack_are_checked_even_where_the_union_agrees(tmp_path):
    labels, clean = np.array([0, 1]), np.ones(2, dtype=bool)
    robust = np.array([False, True])
    write(tmp_path, labels, clean, {"pgd20_ce": robust, "aa_standard": robust})
    rows = pq.read_table(tmp_path / "examples.parquet").to_pylist()
    next(row for row in rows if row["attack"] == "pgd20_ce")["broken"] = False
    write_rows(tmp_path, [tuple(row.values()) for row in rows])
    with pytest.raises(ResultError, match="counts are not those"):
        load_per_class(tmp_path, num_classes=2)


# --- rbl classes


def printed(capsys, *arguments):
    assert main(["classes", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_terminal_table_is_aligned_and_has_every_class_and_set(sheet, capsys):
    lines = printed(capsys, sheet).splitlines()
    assert lines[0] == "digits_pgd_at · digits test · linf_standard@0.1.v1 · n=200"
    head, body = lines[2], lines[4:-3]
    assert [line.split()[0] for line in body[:10]] == [str(label) for label in range(10)]
    assert [line[: line.index("  ")] for line in body[10:]] == [
        "Overall",
        "Well (0-4)",
        "Under (5-9)",
        "Worst: 9",
    ]
    assert [line.split()[-2:] for line in body[10:13]] == [
        ["22.50", "45.00"],
        ["10.00", "20.00"],
        ["35.00", "70.00"],
    ]
    assert {len(line) for line in body} == {len(head)} == {len(lines[1])}
    assert all(line[head.index("Images") + 5].isdigit() for line in body)
    assert "Class mean" not in "\n".join(lines)


def test_unequal_classes_get_a_row_for_the_mean_over_classes(tmp_path, capsys):
    labels, clean = np.array([0, 0, 0, 9]), np.array([1, 1, 1, 0], dtype=bool)
    write(tmp_path, labels, clean, {"pgd20_ce": clean})
    out = printed(capsys, tmp_path)
    rows = [line.split() for line in out.splitlines()]
    place = next(i for i, row in enumerate(rows) if row[0] == "Overall")
    assert rows[place][-2:] == ["25.00", "25.00"]
    assert rows[place + 1] == ["class", "mean", "50.00", "50.00", "50.00", "50.00"]
    assert "Class mean: of the classes' own values" in out


def test_csv_and_json_hold_fractions_and_each_attack(sheet, capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, sheet, "--format", "csv"))))
    records = json.loads(printed(capsys, sheet, "--format", "json"))["rows"]
    sets = [row["set"] for row in rows]
    assert (
        sets
        == [one["set"] for one in records]
        == [
            *["class"] * 10,
            *("overall", "well", "under", "worst"),
        ]
    )
    for row, record in zip(rows, records, strict=True):
        assert float(row["robust_error"]) == record["robust_error"]
        assert float(row["pgd20_ce"]) == record["attacks"]["pgd20_ce"]
        assert row["labels"] == " ".join(map(str, record["labels"]))
        assert record["result"] == row["result"] == "digits_pgd_at"
    under = records[sets.index("under")]
    assert (under["labels"], under["robust_error"]) == ([5, 6, 7, 8, 9], pytest.approx(0.7))
    assert (under["clean_lo"], under["clean_hi"]) == pytest.approx(tuple(wilson(65, 100)))


def test_under_and_several_results_are_taken_from_the_command(sheet, tmp_path, capsys):
    labels = np.tile(np.arange(10), 2)
    clean = np.ones(20, dtype=bool)
    write(tmp_path / "s", labels, clean, {"aa_standard": clean}, name="other")
    text = printed(capsys, tmp_path, "--under", "1,3,4", "--format", "csv")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["set"] == "under"]
    assert [(row["result"], row["labels"]) for row in rows] == [
        ("digits_pgd_at", "1 3 4"),
        ("other", "1 3 4"),
    ]
    assert [(row["pgd20_ce"], row["aa_standard"]) for row in rows] == [("0.8", ""), ("", "1.0")]
    markdown = printed(capsys, tmp_path, "--under", "1,3,4", "--format", "markdown")
    assert "| `other` | Under (1, 3-4) | 6 | 100.00 |" in markdown
    assert "| `digits_pgd_at` | Well (0, 2, 5-9) | 140 |" in markdown


def test_classes_go_by_the_names_of_their_data_set(tmp_path, capsys):
    labels, clean = np.arange(10), np.arange(10) != 3
    dataset = {"name": "cifar10", "split": "test", "hash": "sha256:x", "canonical": None}
    write(tmp_path, labels, clean, {"pgd20_ce": clean}, dataset=dataset)
    out = printed(capsys, tmp_path)
    assert "5 dog " in out
    assert "Worst: 3 cat" in out


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_outside_can_neither_break_a_line_nor_a_table(tmp_path, capsys, name):
    labels, clean = np.arange(10), np.ones(10, dtype=bool)
    write(tmp_path, labels, clean, {"pgd20_ce": clean}, name=name)
    lines = printed(capsys, tmp_path).splitlines()
    assert len(lines) == 4 + 10 + 4 + 1 + 2
    assert "\x1b" not in lines[0]
    assert len(lines[0]) < 100
    rows = printed(capsys, tmp_path, "--format", "markdown").splitlines()[:16]
    assert {row.replace("\\|", "").count("|") for row in rows} == {10}
    assert all(row.count("`") == 2 for row in rows[2:])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--under", "5,x"], "--under '5,x' is no list of labels such as 5,6,7,8,9"),
        (["--under", "5,10"], "class 10 is none"),
        (["--format", "html"], "invalid choice: 'html'"),
    ],
)
def test_wrong_arguments_are_one_line(sheet, capsys, arguments, words):
    assert main(["classes", str(sheet), *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_a_folder_without_results_is_one_line(tmp_path, capsys):
    assert main(["classes", str(tmp_path)]) == 2
    assert "no result.json there or below" in capsys.readouterr().err


def test_classes_needs_no_torch(sheet):
    code = (
        "import sys; from robustbench_lite.cli import main\n"
        f"assert main(['classes', {str(sheet)!r}]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


FACTORY = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def test_what_an_evaluation_writes_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(FACTORY)
    command = ["evaluate", "--model", "net.py:make", "--allow-code", "--dataset", "digits"]
    command += ["--protocol", "linf_quick", "--eps", "0.02", "--n", "60", "--threads", "1"]
    assert main([*command, "--out", "r"]) == 0
    capsys.readouterr()
    records = json.loads(printed(capsys, "r", "--format", "json"))["rows"]
    stored = json.loads(Path("r/result.json").read_text())
    overall = next(row for row in records if row["set"] == "overall")
    assert overall["n"] == 60
    assert overall["robust_accuracy"] == stored["robust_accuracy"]["value"]
    assert list(overall["attacks"]) == list(stored["attacks"])
    (worst,) = [row for row in records if row["set"] == "worst"]
    assert worst_class(load_result("r")) == (worst["labels"][0], worst["robust_accuracy"])


def test_examples_other_than_those_the_result_was_written_with_are_refused(sheet):
    file = sheet / "examples.parquet"
    data = json.loads((sheet / "result.json").read_text())
    data["examples_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    store(sheet, data)
    assert load_per_class(sheet, num_classes=10).overall.clean.n == data["n_examples"]
    rows = pq.read_table(file)
    pq.write_table(rows.take(list(range(len(rows)))[::-1]), file)  # the same rows, other bytes
    with pytest.raises(ResultError, match="SHA-256 is another"):
        load_per_class(sheet, num_classes=10)
    with pytest.raises(ResultError, match="SHA-256 is another"):
        stored_labels(sheet, load_result(sheet))
