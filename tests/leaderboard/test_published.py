"""Published numbers as shipped: complete, marked, and held to rules that hand-made tables test."""

import csv
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from robustbench_lite.attacks.protocol import load_protocol, protocol_files
from robustbench_lite.datasets import DATASETS
from robustbench_lite.leaderboard import ResultError, check_published, load_published
from robustbench_lite.leaderboard.published.consistency import KINDS
from robustbench_lite.leaderboard.published.formats import (
    render_findings,
    render_list,
    render_table,
)
from robustbench_lite.leaderboard.published.load import published_folder, published_names
from robustbench_lite.leaderboard.published.records import PROVENANCES, QUANTITIES
from robustbench_lite.training.recipe import recipe_files

ELSEWHERE = {"imagenet", "imagenet64", ""}  # data sets of published numbers that are not here
NAMES = published_names()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables():
    return {name: load_published(name) for name in NAMES}


@pytest.fixture(scope="module")
def findings(tables):
    return check_published(list(tables.values()))


def cell_of(table, row, key):
    (found,) = [one for one in table.cells if (one.row, one.key) == (row, key)]
    return found


def write(tmp_path, text, name="t"):
    path = tmp_path / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


HEAD = """
title = "T"
paper = "P"
where = "W"
provenance = "verified"
dataset = "cifar10"
norm = "Linf"
eps_printed = "8/255"
model = "WRN-34-10"
columns = [
  { metric = "clean", title = "Clean" },
  { metric = "pgd20", title = "PGD-20", protocol = "pgd20_ce_last" },
  { metric = "aa", title = "AutoAttack", protocol = "aa_standard" },
  { metric = "external", title = "External" },
]
"""


def row_text(values, method="M", name="r", **more):
    lines = [f'{key} = "{text}"' for key, text in more.items()]
    head = f'[[rows]]\nid = "{name}"\nmethod = "{method}"\n'
    return "\n".join([head, *lines, f"values = {json.dumps(values)}\n"])


def found(tmp_path, *rows, head=HEAD):
    table = load_published(write(tmp_path, head + "\n".join(rows)))
    return [(one.kind, one.rows) for one in check_published([table])]


# -- what is shipped -----------------------------------------------------------------------------


def test_robustbench_has_its_188_rows_by_data_set_and_norm(tables):
    rows = tables["robustbench"].rows
    assert len(rows) == 188
    assert Counter(row.id.rpartition("/")[0] for row in rows) == {
        "cifar10/L2": 21,
        "cifar10/Linf": 99,
        "cifar100/Linf": 38,
        "imagenet/Linf": 30,
    }
    assert len(tables["robustbench"].cells) == 188 + 185 + 188 + 25


def test_robustbench_is_shown_as_the_source_prints_it(tables):
    with (published_folder() / "robustbench.csv").open(encoding="utf-8", newline="") as file:
        facts = list(csv.DictReader(file))
    fields = {"clean": "clean_acc", "reported": "reported_robust_acc", "aa": "autoattack_acc"}
    for row, fact in zip(tables["robustbench"].rows, facts, strict=True):
        assert row.facts == fact
        texts = {cell.key: cell.text for cell in row.cells}
        assert all(texts.get(key, "") == fact[name] for key, name in fields.items())
        assert {cell.eps_printed for cell in row.cells} == {fact["eps"]}


def test_the_tables_hold_what_the_sources_hold(tables):
    cells = {name: len(table.cells) for name, table in tables.items()}
    assert sum(len(table.cells) for table in tables.values()) == 1608
    assert cells["lbgat_2020_tables1_3"] == 44
    assert cells["gairat_2021_readme"] == 24
    assert cells["azizmalayeri_2022_table1"] == 13 * 8
    assert cells["atom_2020_table2"] == 16 * 8
    assert cells["outlier_exposure_logs"] == 3 * 16
    assert cells["encouraging_loss_mnist"] == 8 * 7
    assert cells["taet_2025_figure"] == 6 * 10
    assert cells["rice_2020_logs"] == 18 + 8
    assert cells["results_cpu_mnist"] == 24 * 4


ANCHORS = [
    ("lbgat_2021_readme", "lbgat0_wrn34_10_cifar10", "aa", "52.86", "0.031", "aa_standard"),
    ("lbgat_2021_readme", "lbgat6_wrn34_20_cifar100", "aa", "30.20", "0.031", "aa_standard"),
    (
        "lbgat_2021_readme",
        "lbgat_awp_star_wrn34_10_cifar100",
        "aa",
        "31.20",
        "8/255",
        "aa_standard",
    ),
    ("lbgat_2021_readme", "trades6_wrn34_10_cifar10", "aa", "52.64", "", "aa_standard"),
    ("lbgat_2020_table2", "lbgat_cifar10", "pgd20", "56.60", "0.031", "pgd20_ce_a003"),
    ("lbgat_2020_tables1_3", "lbgat_alp_cifar100", "cw20", "31.97", "0.031", "cwinf20_k50_a003"),
    ("trades_2019_readme", "trades6", "pgd20", "56.61", "0.031", "pgd20_ce_a003"),
    ("trades_2019_mnist", "trades1_mnist", "aa", "92.81", "0.3", "aa_standard"),
    ("madry_2018_challenge", "madry", "pgd20", "47.04", "8/255", ""),
    ("gairat_2021_readme", "gairat_best", "pgd20", "57.81 ± 0.54", "0.031", "pgd20_ce_last"),
    ("gairat_2021_readme", "at_last", "pgd_plus", "46.08 ± 0.07", "0.031", "pgd_plus"),
    ("rice_2020_logs", "cifar10_preact18_linf_best", "pgd10", "46.51", "8/255", "pgd10_ce"),
    ("rice_2020_logs", "svhn_preact18_linf_best", "pgd10", "38.96", "8/255", "pgd10_ce_a8"),
    ("rice_2020_logs", "cifar100_preact18_l2_best", "pgd10", "56.85", "128/255", "pgd10_ce_l2_a15"),
    ("robustbench", "cifar10/Linf/Zhang2019Theoretically", "aa", "53.08", "0.031", "aa_standard"),
    ("robustbench", "cifar10/L2/Rice2020Overfitting", "aa", "67.68", "0.5", "aa_standard_l2"),
    ("robustbench", "cifar10/Linf/Rice2020Overfitting", "reported", "58", "8/255", ""),
]


@pytest.mark.parametrize("anchor", ANCHORS, ids=lambda anchor: f"{anchor[1]}-{anchor[2]}")
def test_an_anchor_is_as_printed_with_its_radius_and_protocol(tables, anchor):
    table, row, key, text, eps, protocol = anchor
    cell = cell_of(tables[table], row, key)
    assert (cell.text, cell.eps, cell.protocol) == (text, eps, protocol)
    assert cell.provenance == "verified"
    assert cell.value == Fraction(text.split()[0]) / 100


def test_secondary_and_own_numbers_are_not_called_verified(tables):
    for table, row, key, text, provenance in (
        ("lbgat_2021_table5", "lbgat6_wrn34_10_cifar10", "aa", "53.14", "secondary"),
        ("rpat_table4", "gairat", "aa", "41.80", "secondary"),
        ("azizmalayeri_2022_table1", "aloe_msp_cifar10", "in_out", "0.287", "secondary"),
        ("results_cpu_mnist", "mnist_pgd_at", "worst", "94.70", "this project"),
    ):
        cell = cell_of(tables[table], row, key)
        assert (cell.text, cell.provenance) == (text, provenance)
    aloe = cell_of(tables["azizmalayeri_2022_table1"], "aloe_msp_cifar10", "in_out")
    assert aloe.value == Fraction(287, 1000)


RECALLED = {"advgan_2018": 10, "l2rw_2018": 1, "mail_2021": 25, "mart_2020": 6}


def test_exactly_the_recalled_numbers_are_from_memory(tables):
    memory = Counter(
        cell.table
        for table in tables.values()
        for cell in table.cells
        if cell.provenance == "memory"
    )
    assert memory == {**RECALLED, "reprogramming_2019": 6}


@pytest.mark.parametrize("name", [*RECALLED, "reprogramming_2019"])
def test_a_number_from_memory_is_no_target_and_is_marked_wherever_it_is_shown(tables, name):
    table = tables[name]
    recalled = [cell for cell in table.cells if cell.provenance == "memory"]
    assert not any(cell.is_target for cell in recalled)
    for kind in ("terminal", "markdown"):
        text = render_table(table, table.rows, format=kind)
        assert text.count("(memory)") >= len(recalled)
        for cell in recalled:
            assert f"{cell.text} (memory)" in text
    shown = json.loads(render_table(table, table.rows, format="json"))["cells"]
    by_place = {(one["row"], one["title"]): one for one in shown}
    for cell in recalled:
        one = by_place[cell.row, cell.title]
        assert (one["provenance"], one["published"]["target"]) == ("memory", False)


def test_every_number_is_whole_and_names_only_what_is_there(tables):
    own = {path.stem: path for path in (published_folder() / "protocols").glob("*.toml")}
    assert not set(own) & set(protocol_files())
    for cell in (cell for table in tables.values() for cell in table.cells):
        assert cell.provenance in PROVENANCES
        assert cell.quantity in QUANTITIES
        assert 0 <= cell.value <= 1
        assert cell.rounding > 0
        assert cell.basis
        assert cell.is_target == (cell.provenance != "memory")
        assert cell.norm in ("Linf", "L2", "")
        assert cell.dataset in ELSEWHERE or cell.dataset in DATASETS
        if cell.protocol:
            path = str(own[cell.protocol]) if cell.protocol in own else cell.protocol
            protocol = load_protocol(path, eps=cell.eps or "8/255")
            assert protocol.threat.norm == cell.norm
            names = [spec.name for spec in protocol.attacks]
            assert cell.union or len(names) == 1 or cell.attack in names


def test_every_recipe_and_small_scale_recipe_named_is_shipped(tables):
    shipped = recipe_files()
    for row in (row for table in tables.values() for row in table.rows):
        assert row.recipe in ("", *shipped)
        assert row.small_scale in ("", *shipped)
        assert row.recipe == "" or row.recipe.startswith(row.dataset)


def test_every_recipe_of_a_published_row_is_named_by_a_table(tables):
    own = ("mnist_", "digits_", "cifar10_short_")
    of_papers = {name for name in recipe_files() if not name.startswith(own)} | {
        "mnist_trades_zhang"
    }
    without_numbers = {
        *("cifar10_srat", "cifar10_aloe", "cifar10_random_mask", "cifar10_balanced_softmax"),
        *("cifar10_n_fgsm", "cifar10_free_at", "cifar10_hat_helper"),
    }
    named = {row.recipe for table in tables.values() for row in table.rows}
    assert of_papers - named == without_numbers


def test_tables_that_could_not_be_read_have_no_numbers_and_say_so(tables):
    for name in ("srat_2021", "lrat_2021", "random_mask_2018"):
        assert tables[name].cells == ()
        assert "could" in tables[name].note or "No table" in tables[name].note
    assert len(tables["lrat_2021"].relations) == 5


def test_the_radius_meant_is_kept_beside_the_one_printed(tables):
    corrected = {
        row.id.rpartition("/")[2]
        for row in tables["robustbench"].rows
        if {cell.eps for cell in row.cells} != {cell.eps_printed for cell in row.cells}
    }
    assert corrected == {
        "Cui2020Learnable_34_10_LBGAT0",
        "Cui2020Learnable_34_10_LBGAT6",
        "Cui2020Learnable_34_20_LBGAT6",
        "Zhang2020Geometry",
    }
    cell = cell_of(tables["robustbench"], "cifar100/Linf/Cui2020Learnable_34_10_LBGAT0", "aa")
    assert (cell.eps_printed, cell.eps, cell.protocol_id) == (
        "8/255",
        "0.031",
        "aa_standard@0.031",
    )


def test_the_list_has_every_table_with_its_provenance(tables):
    text = render_list(list(tables.values()), format="terminal")
    assert all(name in text for name in NAMES)
    (line,) = [line for line in text.splitlines() if line.startswith("mail_2021")]
    assert "memory" in line
    listed = json.loads(render_list(list(tables.values()), format="json"))["tables"]
    assert [one["table"]["id"] for one in listed] == NAMES


def test_the_page_counts_what_is_there(tables):
    text = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
    cells = [cell for table in tables.values() for cell in table.cells]
    assert f"{len(tables)} tables, {len(cells):,} numbers" in text
    for provenance, number in Counter(cell.provenance for cell in cells).items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {provenance} |")]
        assert f"| {number} |" in line


# -- reading -------------------------------------------------------------------------------------


def test_rounding_is_half_a_unit_of_the_last_digit_printed(tmp_path):
    rows = row_text(["58", "62.5", "53.10 ± 0.21", "0.0"])
    table = load_published(write(tmp_path, HEAD + rows))
    roundings = [cell.rounding for cell in table.cells]
    assert roundings == [
        Fraction(1, 200),
        Fraction(1, 2000),
        Fraction(1, 20000),
        Fraction(1, 2000),
    ]
    assert [cell.spread for cell in table.cells] == [None, None, Fraction(21, 10000), None]


def test_a_missing_value_is_left_out_and_never_zero(tmp_path):
    table = load_published(write(tmp_path, HEAD + row_text(["58", "", "0.00", ""])))
    assert [cell.key for cell in table.cells] == ["clean", "aa"]


def test_the_nearest_level_decides(tmp_path):
    rows = row_text(["58", "50", "40", "39"], eps_printed="0.031", provenance="secondary")
    rows += 'cells = { aa = { eps = "8/255", note = "N", provenance = "memory" } }\n'
    cells = {cell.key: cell for cell in load_published(write(tmp_path, HEAD + rows)).cells}
    assert (cells["pgd20"].eps, cells["pgd20"].provenance) == ("0.031", "secondary")
    assert (cells["aa"].eps_printed, cells["aa"].eps) == ("0.031", "8/255")
    assert (cells["aa"].provenance, cells["aa"].note) == ("memory", "N")
    assert cells["clean"].protocol == ""


def test_an_error_is_turned_into_an_accuracy_for_comparing_only(tables):
    cell = cell_of(tables["rice_2020_logs"], "cifar10_preact18_linf_best", "pgd10")
    assert (cell.value, cell.accuracy) == (Fraction(4651, 10**4), Fraction(5349, 10**4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text + "[[rows", "no valid TOML"),
        (
            lambda text: text.replace('"verified"', '"certain"'),
            "provenance is 'certain'; need one",
        ),
        (lambda text: text.replace('title = "T"', ""), "missing key title"),
        (
            lambda text: text.replace("paper =", "papers ="),
            "unknown key papers; did you",
        ),
        (
            lambda text: text.replace('"8/255"', '"8/0"'),
            "eps_printed is '8/0'; need",
        ),
        (lambda text: text.replace('"8/255"', "8"), "eps_printed is 8; need a string"),
        (lambda text: text.replace('metric = "aa"', 'metric = "clean"'), "is there twice"),
        (
            lambda text: text.replace('title = "External"', 'unit = "points"'),
            "unit is 'points'; need",
        ),
        (lambda text: text + row_text(["1", "2"]), "values must be a list of 4 texts"),
        (
            lambda text: text + row_text(["1", "2", "3", "x"]),
            "rows[0].external is 'x'; need",
        ),
        (
            lambda text: text + row_text(["1", "2", "3", "-4"]),
            "rows[0].external is '-4'; need",
        ),
        (lambda text: text + row_text(["1", "2", "3", "101"]), "more than everything"),
        (lambda text: text + row_text([1, 2, 3, 4]), "rows[0].values[0] is 1; need a string"),
        (lambda text: text + 2 * row_text(["1"] * 4), "row id 'r' is there twice"),
        (
            lambda text: text + row_text(["1"] * 4, method=""),
            "rows[0].method is ''; need",
        ),
        (lambda text: text + row_text(["1"] * 4) + "cells = { cw = { eps = '1' } }", "column 'cw'"),
        (lambda text: text + row_text(["1"] * 4, recip="x"), "did you mean recipe?"),
        (
            lambda text: text.replace("columns = [", "columns = [ 3,"),
            "columns[0] is 3; need",
        ),
        (
            lambda text: (
                text + '[[relations]]\nmetric = "aa"\nabove = "x"\nbelow = "y"\nsource = ""'
            ),
            "relations[0].above is 'x'; need a row's id",
        ),
        (lambda text: text + '[csv]\nfile = "no.csv"\nid = "a"', "cannot be read"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line_with_its_place(tmp_path, change, words):
    with pytest.raises(ResultError) as error:
        load_published(write(tmp_path, change(HEAD)))
    assert words in str(error.value)
    assert "t.toml" in str(error.value)


def test_unknown_tables_and_rows_get_near_names(tables):
    with pytest.raises(ResultError, match="did you mean lbgat_2021_readme"):
        load_published("lbgat_2021_readmi")
    with pytest.raises(ResultError, match="did you mean .*lbgat0_wrn34_10_cifar10 or"):
        tables["lbgat_2021_readme"].choose(["lbgat0_wrn34_10"])


def test_rows_are_chosen_by_id_last_part_or_glob_in_the_tables_order(tables):
    table = tables["robustbench"]
    assert len(table.choose([])) == 188
    chosen = table.choose(["Zhang2019Theoretically", "cifar100/Linf/Cui2020*"])
    assert next(row.id.rpartition("/")[2] for row in chosen) == "Zhang2019Theoretically"
    assert len(chosen) == 5


# -- the checks ----------------------------------------------------------------------------------


def rows_of(findings, kind, table="robustbench"):
    chosen = [one for one in findings if (one.kind, one.table) == (kind, table)]
    return [row.rpartition("/")[2] for one in chosen for row in one.rows]


def test_on_robustbench_the_checks_find_the_radii_that_contradict_the_authors(tables):
    others = [table for name, table in tables.items() if name != "robustbench"]
    found = check_published([tables["robustbench"]], beside=others)
    assert {one.table for one in found} == {"robustbench"}
    assert sorted(rows_of(found, "radius_conflict")) == [
        "Cui2020Learnable_34_10_LBGAT0",
        "Cui2020Learnable_34_10_LBGAT6",
        "Cui2020Learnable_34_20_LBGAT6",
        "Zhang2020Geometry",
    ]
    assert all(
        "printed 8/255 here, 0.031" in f.message for f in found if f.kind == "radius_conflict"
    )


def test_on_robustbench_the_checks_find_what_the_numbers_contradict(findings):
    assert rows_of(findings, "unreliable") == ["Kang2021Stable", "Xiao2020Enhancing"]
    above = rows_of(findings, "above_weaker")
    assert above.count("Bai2024MixedNUTS") == 3
    assert len(above) == 13
    # 65.88 against 65.87 and 66.11 against 66.10 may both be rounding
    assert not {"Gowal2020Uncovering_70_16_extra", "Gowal2021Improving_70_16_ddpm_100m"} & set(
        above
    )
    assert rows_of(findings, "external_above") == []
    assert rows_of(findings, "above_clean") == []
    assert len(rows_of(findings, "external_below")) == 8
    unmarked = [f for f in findings if f.kind == "external_below" and "not marked" in f.message]
    assert len(unmarked) == 6
    assert "Chan2020Jacobian" in rows_of(findings, "refuted")
    assert len(rows_of(findings, "radius_mixed")) == 6
    assert len(rows_of(findings, "markup")) == 3
    empty = {f.message.partition(":")[0]: len(f.rows) for f in findings if f.kind == "empty"}
    assert empty == {"external_acc": 163, "unreliable": 41, "reported_robust_acc": 3}


def test_the_checks_find_slips_in_other_sources_too(findings):
    assert rows_of(findings, "repeated", "awp_2020_readme") == [
        "at_awp_cifar10",
        "trades_awp_cifar10",
    ]
    assert rows_of(findings, "rises", "encouraging_loss_mnist_l2") == ["block_2"]
    assert rows_of(findings, "rises", "encouraging_loss_mnist") == ["el_fgsm_at_3_fgsm"]
    assert len(rows_of(findings, "printed_twice", "lbgat_2020_tables1_3")) == 3
    messages = [one.message for one in findings if one.kind == "sources_differ"]
    assert any("52.64 here, 53.08 in robustbench" in message for message in messages)
    assert any("83.07 (memory)" in message for message in messages)  # marked here too


def test_sound_rows_are_left_alone(tmp_path):
    assert found(tmp_path, row_text(["90.00", "60.00", "55.00", "54.50"])) == []


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        (["54.99", "55.00", "50.00", ""], []),  # 0.01 is what two roundings explain
        (["54.98", "55.00", "50.00", ""], ["above_clean"]),
        (["90.00", "55.00", "55.01", ""], []),
        (["90.00", "55.00", "55.02", ""], ["above_weaker"]),
        (["90.00", "55", "55.50", ""], []),  # 55 may be 55.5
        (["90.00", "55", "55.51", ""], ["above_weaker"]),
        (["90.00", "60.00", "55.00", "55.02"], ["external_above"]),
        (["90.00", "60.00", "55.00", "54.00"], []),
        (["90.00", "60.00", "55.00", "53.99"], ["external_below"]),
        (["90.00", "65.00", "55.00", ""], []),
        (["90.00", "65.01", "55.00", ""], ["refuted"]),
        (["40.00", "", "55.00", ""], ["above_clean"]),
    ],
)
def test_the_order_of_the_numbers_of_a_row_is_checked_beyond_rounding(tmp_path, values, kinds):
    assert [kind for kind, _ in found(tmp_path, row_text(values))] == kinds


def test_numbers_at_another_radius_are_not_ordered(tmp_path):
    rows = (
        row_text(["90.00", "50.00", "55.00", ""]) + 'cells = { pgd20 = { eps_printed = "0.05" } }'
    )
    assert "above_weaker" not in dict(found(tmp_path, rows))


def test_the_order_of_errors_is_that_of_accuracies(tmp_path):
    head = HEAD.replace('title = "Clean" }', 'title = "Clean", quantity = "error" }')
    assert found(tmp_path, row_text(["30.00", "69.00", "", ""]), head=head) == []
    assert dict(found(tmp_path, row_text(["32.00", "69.00", "", ""]), head=head)) == {
        "above_clean": ("r",)
    }


def test_near_radii_in_one_list_are_found_and_far_ones_are_not(tmp_path):
    rows = [row_text([f"9{i}.00", "", f"5{i}.00", ""], name=f"r{i}") for i in range(3)]
    near = row_text(["89.00", "", "49.00", ""], name="near", eps_printed="0.031")
    far = row_text(["88.00", "", "70.00", ""], name="far", eps_printed="4/255")
    assert found(tmp_path, *rows, near, far) == [("radius_mixed", ("near",))]


def test_same_numbers_and_repeated_numbers_are_found(tmp_path):
    one = row_text(["90.00", "60.00", "55.00", ""], name="a", method="A")
    same = row_text(["90.00", "60.00", "55.00", ""], name="b", method="A")
    other = row_text(["90.00", "61.00", "56.00", ""], name="c", method="C")
    assert found(tmp_path, one, same) == [("same_numbers", ("a", "b"))]
    assert found(tmp_path, one, other) == [("repeated", ("a", "c"))]
    # over 100 images equal numbers are no wonder
    assert found(tmp_path, one, other, head="n = 100\n" + HEAD) == []
    assert found(tmp_path, one, other, head="n = 20000\n" + HEAD) == [("repeated", ("a", "c"))]


def test_an_unknown_radius_and_a_number_printed_twice_are_found(tmp_path):
    assert found(tmp_path, row_text(["90.00", "", "55.00", ""], eps_printed="")) == [
        ("radius_unknown", ("r",))
    ]
    twice = row_text(["90.00", "", "", ""]) + 'cells = { clean = { also = ["90.10"] } }'
    assert found(tmp_path, twice) == [("printed_twice", ("r",))]


def test_an_accuracy_that_rises_with_the_radius_is_found(tmp_path):
    head = HEAD.partition("columns")[0] + "columns = [\n"
    for eps in ("0", "0.1", "0.2"):
        head += f'{{ key = "e{eps}", metric = "pgd", title = "{eps}", eps_printed = "{eps}" }},\n'
    assert found(tmp_path, row_text(["90.00", "80.00", "70.00"]), head=head + "]\n") == []
    assert found(tmp_path, row_text(["90.00", "70.00", "70.02"]), head=head + "]\n") == [
        ("rises", ("r",))
    ]


def test_two_sources_are_held_against_each_other(tmp_path):
    def load(name, *rows):
        return load_published(write(tmp_path, HEAD + "\n".join(rows), name))

    ours = load("a", row_text(["90.00", "", "55.00", ""], name="x"))
    same = load("b", row_text(["90.00", "", "55.00", ""], name="y", model="WideResNet-34-10"))
    assert check_published([ours], beside=[same]) == []
    radius = load("c", row_text(["90.00", "", "55.00", ""], name="y", eps_printed="0.031"))
    assert [
        (one.kind, one.table, one.rows) for one in check_published([ours], beside=[radius])
    ] == [("radius_conflict", "a", ("x",))]
    value = load("d", row_text(["90.00", "", "54.00", ""], name="y"))
    assert [one.kind for one in check_published([ours], beside=[value])] == ["sources_differ"]
    for other in (
        row_text(["90.00", "", "54.00", ""], name="y", method="other method"),
        row_text(["90.00", "", "54.00", ""], name="y", model="ResNet-18"),
        row_text(["90.00", "", "54.00", ""], name="y", eps_printed="16/255"),
    ):
        assert check_published([ours], beside=[load("e", other)]) == []
    best = load("f", row_text(["90.00", "", "55.00", ""], name="x", selection="best"))
    last = load("g", row_text(["89.00", "", "54.00", ""], name="y", selection="last"))
    assert check_published([best], beside=[last]) == []


def test_findings_are_shown_by_kind_in_every_format(findings):
    text = render_findings(findings, format="terminal")
    assert text.startswith(f"{len(findings)} findings; nothing was changed.\n")
    assert "radius_conflict (4): two sources print the same numbers at different radii" in text
    markdown = render_findings(findings, format="markdown")
    assert "\n- robustbench, cifar10/Linf/Kang2021Stable: Clean 93.73" in markdown
    data = json.loads(render_findings(findings, format="json"))
    assert data["kinds"] == KINDS
    assert len(data["findings"]) == len(findings)
    assert {one["kind"] for one in data["findings"]} <= set(KINDS)


def test_markup_in_a_source_is_shown_as_text(tmp_path):
    text = HEAD.replace('title = "T"', 'title = "<script>alert(1)</script> | x"')
    table = load_published(write(tmp_path, text + row_text(["90", "", "", ""], name="a|b")))
    shown = render_table(table, table.rows, format="markdown")
    assert "<script>" not in shown
    assert "a\\|b" in shown
