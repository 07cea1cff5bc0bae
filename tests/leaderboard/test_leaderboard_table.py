from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_leaderboard_builder import content, demo, first, flagged, protocol, simple, store
from test_leaderboard_reported import published

from robustbench_lite.leaderboard import Result, build_table, load_result, render
from robustbench_lite.leaderboard.published.reported import reported_rows
from robustbench_lite.leaderboard.statistics.accuracy import pack_labels
from robustbench_lite.leaderboard.statistics.ranking import rank_results
from robustbench_lite.leaderboard.table.build import attack_columns, read_rows
from robustbench_lite.leaderboard.table.row import (
    AFTER_ATTACKS,
    BEFORE_ATTACKS,
    FIXED_COLUMNS,
    build_rows,
    split_groups,
)


def load_all(folder: Path, contents: list[dict[str, Any]]) -> list[Result]:
    return [load_result(store(folder / str(i), data)) for i, data in enumerate(contents)]


def ranks(folder: Path, contents: list[dict[str, Any]]) -> dict[str, str]:
    table = build_table(load_all(folder, contents))
    return dict(zip(table["name"], table["rank"], strict=True))


def without_outcomes(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != "outcomes"}


def test_table_has_the_columns_in_order(tmp_path: Path) -> None:
    table = build_table(load_all(tmp_path, demo()))
    assert list(table.columns) == [
        *BEFORE_ATTACKS, "PGD-20", "CW-30", "AutoAttack", *AFTER_ATTACKS
    ]  # fmt: skip
    assert len(table) == 3


def test_table_holds_fractions_of_the_results(tmp_path: Path) -> None:
    data = simple("a", 30)
    row = build_table(load_all(tmp_path, [data])).iloc[0]
    assert (row["clean"], row["PGD-20"], row["worst_case"]) == (1.0, 0.75, 0.75)
    assert [row["interval_lo"], row["interval_hi"]] == pytest.approx(
        data["robust_accuracy"]["interval"], abs=1e-12
    )
    assert (row["n"], row["cost"], row["canonical"], row["flags"]) == (40, 40.5, True, "")


def test_rows_are_sorted_by_worst_case_then_clean_whatever_the_input_order(tmp_path: Path) -> None:
    half = content("clean_lower", first(39, 40), {"pgd20_ce": first(20, 40)})
    results = load_all(tmp_path, [simple("low", 3), half, simple("high", 38), simple("half", 20)])
    names = ["high", "half", "clean_lower", "low"]
    assert list(build_table(results)["name"]) == names
    assert list(build_table(results[::-1])["name"]) == names


def test_ranks_separate_only_what_mcnemar_separates(tmp_path: Path) -> None:
    # Nested outcomes: c examples more, all discordant one way, p = 2 / 2^c; 6 give 0.031.
    # Two rows below the leader: Holm asks p <= 0.025 of the smaller one, so 7 are needed.
    assert ranks(tmp_path / "a", [simple("x", 30), simple("y", 24)]) == {"x": "1", "y": "2"}
    assert ranks(tmp_path / "b", [simple("x", 30), simple("y", 25)]) == {"x": "1=", "y": "1="}
    rows = [simple("x", 30), simple("y", 24), simple("z", 24)]
    assert set(ranks(tmp_path / "c", rows).values()) == {"1="}
    rows = [simple("x", 30), simple("y", 24), simple("z", 23)]
    assert ranks(tmp_path / "d", rows) == {"x": "1", "y": "2=", "z": "2="}


def test_ties_are_against_the_leader_not_the_neighbour(tmp_path: Path) -> None:
    # Each neighbour pair differs by 5 (p = 0.06), the leader and the third by 10 (p = 0.002).
    rows = [simple("x", 30), simple("y", 25), simple("z", 20)]
    assert ranks(tmp_path, rows) == {"x": "1=", "y": "1=", "z": "3"}


def test_equal_counts_on_other_examples_tie(tmp_path: Path) -> None:
    mirrored = content("y", first(40, 40), {"pgd20_ce": ~first(20, 40)})
    assert ranks(tmp_path, [simple("x", 20), mirrored]) == {"x": "1=", "y": "1="}


def test_rows_without_outcomes_have_no_rank(tmp_path: Path) -> None:
    rows = [without_outcomes(simple("x", 30)), simple("y", 24), without_outcomes(simple("z", 15))]
    assert ranks(tmp_path / "a", rows) == {"y": "1", "x": "–", "z": "–"}
    assert set(ranks(tmp_path / "b", rows[::2]).values()) == {"–"}


def test_flagged_rows_come_last_without_rank(tmp_path: Path) -> None:
    rows = [simple("flagged", 40, **flagged()), simple("x", 20), simple("y", 2)]
    assert ranks(tmp_path, rows) == {"x": "1", "y": "2", "flagged": "–"}
    table = build_table(load_all(tmp_path, rows))
    assert list(table["name"]) == ["x", "y", "flagged"]
    assert table["status"].iloc[2] == "flagged"
    assert table["flags"].iloc[2] == "zero_gradients"


DATA = {"name": "digits", "split": "test", "hash": "sha256:data", "canonical": True}
OTHER = {
    "data": {"dataset": {**DATA, "hash": "sha256:other"}},
    "split": {"dataset": {**DATA, "split": "validation"}},
    "examples": {"examples": {"first": 40, "count": 40}},
    "eps": {"protocol": protocol(["pgd20_ce"], id="linf_standard@1/10.v1", eps="1/10")},
    "version": {"protocol": protocol(["pgd20_ce"], id="linf_standard@0.1.v2", version=2)},
    "norm": {"protocol": protocol(["pgd20_ce"], norm="L2")},
    "content": {"protocol": protocol(["pgd20_ce"], engine_version="2")},
}


@pytest.mark.parametrize("difference", OTHER)
def test_rows_that_differ_in_protocol_or_data_never_share_a_rank(
    tmp_path: Path, difference: str
) -> None:
    rows = [simple("x", 30), simple("y", 3, **OTHER[difference])]
    assert ranks(tmp_path, rows) == {"x": "1", "y": "1"}


def test_another_attack_list_makes_a_group_of_its_own(tmp_path: Path) -> None:
    other = content("y", first(40, 40), {"aa_standard": first(3, 40)})
    assert ranks(tmp_path, [simple("x", 30), other]) == {"x": "1", "y": "1"}


def test_duplicates_collapse_to_the_least_favourable(tmp_path: Path) -> None:
    model = simple("a", 30)["model"]
    rows = [simple("a", 30), simple("a", 30), simple("b", 29, model=model)]
    assert ranks(tmp_path / "1", rows) == {"b": "1"}
    rows.append(simple("c", 33, model=model, **flagged()))
    assert ranks(tmp_path / "2", rows) == {"c": "–"}
    rows.append(simple("other seed", 30, model=model, seed=1))
    assert ranks(tmp_path / "3", rows) == {"c": "–", "other seed": "1"}


def test_attack_titles_never_hide_other_columns(tmp_path: Path) -> None:
    plan = protocol(["a", "b", "c"])
    for attack, title in zip(plan["attacks"], ("clean", "clean", "n"), strict=True):
        attack["title"] = title
    bits = {name: first(count, 40) for name, count in (("a", 9), ("b", 8), ("c", 7))}
    table = build_table(load_all(tmp_path, [content("x", first(40, 40), bits, protocol=plan)]))
    assert attack_columns(table) == ["clean (a)", "clean (b)", "n (c)"]
    assert table[attack_columns(table)].iloc[0].tolist() == [9 / 40, 8 / 40, 7 / 40]
    assert table["clean"].iloc[0] == 1.0


def test_attacks_of_other_protocols_are_nan(tmp_path: Path) -> None:
    other = content(
        "y", first(40, 40), {"fgsm": first(9, 40)},
        protocol=protocol(["fgsm"], id="fast@0.1.v1", name="fast"),
    )  # fmt: skip
    table = build_table(load_all(tmp_path, [simple("x", 30), other])).set_index("name")
    assert np.isnan(table.loc["x", "fgsm"])
    assert np.isnan(table.loc["y", "PGD-20"])
    assert table.loc["y", "fgsm"] == 9 / 40


def test_no_results_make_an_empty_table() -> None:
    assert list(build_table([]).columns) == [*BEFORE_ATTACKS, *AFTER_ATTACKS]
    assert rank_results([]) == []


def test_the_worst_class_is_that_of_the_lowest_worst_case(tmp_path: Path) -> None:
    labels = np.array([3] * 10 + [300] * 10 + [7] * 20)
    robust = np.array([1] * 9 + [0] + [1] * 6 + [0] * 4 + [1] * 15 + [0] * 5, dtype=bool)
    data = content("x", first(40, 40), {"pgd20_ce": robust})
    data["outcomes"]["labels"] = pack_labels(labels)
    plain = simple("no labels", 3)
    table = build_table(load_all(tmp_path, [data, plain])).set_index("name")
    assert table.loc["x", "worst_class_label"] == 300
    assert table.loc["x", "worst_class"] == 0.6
    assert table.loc["no labels", "worst_class_label"] is None
    assert np.isnan(table.loc["no labels", "worst_class"])
    for format in ("terminal", "markdown"):
        shown = render(table.reset_index(), format)
        assert "60.00 (300)" in shown
        assert "Worst class: the lowest worst case of a class" in shown


def test_of_two_worst_classes_the_one_of_lower_clean_accuracy_is_named(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [10, 10, 20])
    clean = np.array([1] * 10 + [0] + [1] * 29, dtype=bool)
    robust = clean & np.array(([1] * 5 + [0] * 5) + ([0] * 5 + [1] * 5) + [1] * 20, dtype=bool)
    data = content("x", clean, {"pgd20_ce": robust})
    data["outcomes"]["labels"] = pack_labels(labels)
    (row,) = build_rows(load_all(tmp_path, [data]))
    assert (row.worst_class_label, row.worst_class) == (1, 0.5)


def test_a_table_gives_back_the_rows_it_was_made_of(tmp_path: Path) -> None:
    other = content("y", first(40, 40), {"fgsm": first(9, 40)}, extra_data=None)
    results, printed = load_all(tmp_path, [simple("x", 30), other]), reported_rows([published()])
    rows, again = build_rows(results, printed), read_rows(build_table(results, printed))
    for row, read in zip(rows, again, strict=True):
        assert read.stated_attacks == list(row.attacks)
        assert read.key == row.key
        for name in FIXED_COLUMNS:
            value, same = getattr(row, name), getattr(read, name)
            assert value == same or (math.isnan(value) and math.isnan(same)), name
    assert [one.key for one in split_groups(rows)] == [one.key for one in split_groups(again)]
