from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_leaderboard_builder import HOSTILE, demo, flagged, protocol, simple, store

from robustbench_lite.core.plain_text import csv_cell, plain
from robustbench_lite.leaderboard import ResultError, build_table, load_result, render, render_page
from robustbench_lite.leaderboard.published.formats import as_json

FORMATS = ["terminal", "markdown", "csv", "latex", "json"]


def shown(folder: Path, contents: list[dict[str, Any]], format: str) -> str:
    results = [load_result(store(folder / str(i), data)) for i, data in enumerate(contents)]
    return render(build_table(results), format)


def tiny() -> list[dict[str, Any]]:
    return [simple("a_b", 30, extra_data=True), simple("50%", 12), simple("c", 36, **flagged())]


MARKDOWN = r"""### digits test · Linf eps=0.1 · linf_standard@0.1.v1 · n=40

| Rank | Name | Defense | Architecture | Params | Extra data | Clean | PGD-20 | Worst case | 95% interval | Cost | Status |
| --- | --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |
| 1 | a_b | pgd_at | small_cnn | 21.3k | yes | 100.00 | 75.00 | 75.00 | [59.8, 85.8] | 40 | measured |
| 2 | 50% | pgd_at | small_cnn | 21.3k |  | 100.00 | 30.00 | 30.00 | [18.1, 45.4] | 40 | measured |
| – | c | pgd_at | small_cnn | 21.3k |  | 100.00 | 90.00 | 90.00 | [76.9, 96.0] | 40 | flagged: zero_gradients |

Ranked: 2 measured. Unranked: 1 flagged.

Engine: ours 1.

Accuracies in percent, with 95% Wilson intervals. Worst case: correct and broken by no attack. Cost: forward plus backward passes per example attacked.
"""  # noqa: E501

LATEX = r"""\begin{table}
\centering
\caption{digits test $\cdot$ Linf eps=0.1 $\cdot$ linf\_standard@0.1.v1 $\cdot$ n=40. Accuracies in percent, with 95\% Wilson intervals. Worst case: correct and broken by no attack. Cost: forward plus backward passes per example attacked. Ranked: 2 measured. Unranked: 1 flagged. Engine: ours 1.}
\begin{tabular}{llllrlrrrrrl}
\toprule
Rank & Name & Defense & Architecture & Params & Extra data & Clean & PGD-20 & Worst case & 95\% interval & Cost & Status \\
\midrule
1 & a\_b & pgd\_at & small\_cnn & 21.3k & yes & 100.00 & 75.00 & 75.00 & [59.8, 85.8] & 40 & measured \\
2 & 50\% & pgd\_at & small\_cnn & 21.3k &  & 100.00 & 30.00 & 30.00 & [18.1, 45.4] & 40 & measured \\
-- & c & pgd\_at & small\_cnn & 21.3k &  & 100.00 & 90.00 & 90.00 & [76.9, 96.0] & 40 & flagged: zero\_gradients \\
\bottomrule
\end{tabular}
\end{table}
"""  # noqa: E501


def test_markdown_is_as_agreed(tmp_path: Path) -> None:
    assert shown(tmp_path, tiny(), "markdown") == MARKDOWN


def test_latex_is_as_agreed(tmp_path: Path) -> None:
    assert shown(tmp_path, tiny(), "latex") == LATEX


def test_csv_is_as_agreed(tmp_path: Path) -> None:
    low, high = simple("a", 30)["robust_accuracy"]["interval"]
    header, row, *rest = shown(tmp_path, [simple("a,b", 30)], "csv").splitlines()
    assert rest == []
    assert header == (
        "rank,name,defense,architecture,params,clean,PGD-20,worst_case,interval_lo,interval_hi,n,"
        "worst_class,worst_class_label,protocol_id,engine,status,flags,extra_data,cost,dataset,split,norm,eps,eps_value,"
        "first_example,examples,examples_hash,seed,dataset_hash,canonical,protocol_hash,model_hash,source"
    )
    cells = next(csv.reader([row]))
    assert [float(cells[8]), float(cells[9])] == pytest.approx([low, high], abs=1e-12)
    assert len(cells[8]) > 12
    cells[8:10] = []
    plan = protocol(["pgd20_ce"])["hash"]
    assert "|".join(cells) == (
        "1|a,b|pgd_at|small_cnn|21326|1.0|0.75|0.75|40|||linf_standard@0.1.v1|ours 1|measured||"
        f"False|40.5|digits|test|Linf|0.1|0.1|0|||0|sha256:data|True|{plan}|"
        "sha256:model of a,b|"
    )


def test_terminal_demo_fits_a_hundred_columns(tmp_path: Path) -> None:
    text = shown(tmp_path, demo(), "terminal")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[2].split("  ")[0] == "Rank"
    rows = [line for line in lines if "digits_" in line]
    assert [row.split()[:2] for row in rows] == [
        ["1", "digits_pgd_at"], ["2", "digits_trades"], ["3", "digits_standard"]
    ]  # fmt: skip
    assert len({line.index("]") for line in rows}) == 1
    assert "89.00  [85.0, 92.1]" in text


def test_terminal_says_why_a_row_has_no_rank_and_what_a_tie_is(tmp_path: Path) -> None:
    text = shown(
        tmp_path, [simple("x", 30), simple("y", 29), simple("z", 3, **flagged())], "terminal"
    )
    assert "z: flagged: zero_gradients" in text
    assert "Rank with '='" in text
    assert "Rank with '='" not in shown(tmp_path, [simple("x", 30)], "terminal")


def test_json_holds_groups_of_fractions(tmp_path: Path) -> None:
    data = json.loads(shown(tmp_path, [*demo(), simple("x", 30)], "json"))
    assert [group["n"] for group in data["groups"]] == [40, 300]
    (row,) = data["groups"][0]["rows"]
    assert (row["name"], row["attacks"], row["worst_case"]) == ("x", {"PGD-20": 0.75}, 0.75)
    assert row["canonical"] is True
    assert [row["rank"] for row in data["groups"][1]["rows"]] == ["1", "2", "3"]


@pytest.mark.parametrize("format", ["terminal", "markdown"])
def test_groups_are_separate_tables_that_say_n(tmp_path: Path, format: str) -> None:
    later = simple("later", 30, examples={"first": 40, "count": 40})
    text = shown(tmp_path, [*demo(), simple("x", 30), later], format)
    assert text.count("Rank") == 3 + text.count("Ranked")
    for heading in ("· n=300\n", "· n=40\n", "· n=40 (examples 40 to 79)\n"):
        assert heading in text
    assert text.count("PGD-20") == 3
    assert text.count("CW-30") == 1


def test_headings_that_would_be_equal_carry_hashes(tmp_path: Path) -> None:
    other = {"name": "digits", "split": "test", "hash": "sha256:other", "canonical": False}
    text = shown(tmp_path, [simple("x", 30), simple("y", 30, dataset=other)], "terminal")
    assert "data sha256:data, protocol" in text
    assert "data sha256:other, protocol" in text
    assert "not comparable with published numbers" in text


def test_a_fraction_is_printed_with_its_value(tmp_path: Path) -> None:
    plan = protocol(["pgd20_ce"], id="linf_standard@8/255.v1", eps="8/255", eps_value=8 / 255)
    assert "eps=8/255 (0.03137)" in shown(tmp_path, [simple("x", 30, protocol=plan)], "terminal")


def hostile() -> list[dict[str, Any]]:
    return [
        simple(text, 30 - i, defense=text, architecture=text, **(flagged(text) if i % 2 else {}))
        for i, text in enumerate(HOSTILE)
    ]


@pytest.mark.parametrize("format", ["terminal", "markdown", "latex"])
def test_hostile_names_cannot_steer_a_terminal(tmp_path: Path, format: str) -> None:
    text = shown(tmp_path, hostile(), format)
    assert not any(ch in text for ch in "\x1b\x07\u202e\u2066\u200f")
    assert max(len(line) for line in text.splitlines()) < 3000


def test_hostile_names_stay_in_their_markdown_cell(tmp_path: Path) -> None:
    rows = [ln for ln in shown(tmp_path, hostile(), "markdown").splitlines() if ln[:1] == "|"]
    assert len(rows) == 2 + len(HOSTILE)
    bars = {row.replace("\\\\", "").replace("\\|", "").count("|") for row in rows}
    assert len(bars) == 1
    left = [re.sub(r"\\[!-/:-@\[-`{-~]", "", row) for row in rows]  # without what is escaped
    assert not any(mark in row for row in left for mark in ("](", "![", "<", ">", "`", "*"))


def test_hostile_names_are_plain_text_in_latex(tmp_path: Path) -> None:
    text = shown(tmp_path, hostile(), "latex")
    assert r"\textbackslash{}input\{/etc/passwd\} \$x\textasciicircum{}2\$ 100\% \#1 a\_b" in text
    assert r"\input{" not in text


def test_hostile_names_survive_csv_and_json(tmp_path: Path) -> None:
    table = csv.DictReader(io.StringIO(shown(tmp_path, hostile(), "csv"), newline=""))
    assert {row["name"] for row in table} == set(map(plain, HOSTILE))
    (group,) = json.loads(shown(tmp_path, hostile(), "json"))["groups"]
    assert {row["name"] for row in group["rows"]} == set(HOSTILE)


def test_wide_characters_keep_columns_aligned(tmp_path: Path) -> None:
    text = shown(tmp_path, [simple("対抗学習", 30), simple("cafe\u0301", 3)], "terminal")
    wide, accent = (ln for ln in text.splitlines() if "pgd_at" in ln)
    assert wide.index("pgd_at") + 4 == accent.index("pgd_at") - 1


@pytest.mark.parametrize("format", FORMATS)
def test_no_results_render(format: str) -> None:
    text = render(build_table([]), format)
    assert text.endswith("\n")
    assert "{}" not in text


def test_unknown_format_lists_all() -> None:
    with pytest.raises(
        ResultError, match="'html'; available: csv, json, latex, markdown, terminal"
    ):
        render(build_table([]), "html")


def test_extra_data_that_nobody_stated_is_not_called_none(tmp_path: Path) -> None:
    contents = [
        simple("with", 30, extra_data=True),
        simple("without", 20, extra_data=False),
        simple("silent", 10, extra_data=None),
    ]
    rows = {
        line.split("|")[2].strip(): line.split("|")[6].strip()
        for line in shown(tmp_path, contents, "markdown").splitlines()
        if line.startswith("| ") and line[2].isdigit()
    }
    assert rows == {"with": "yes", "without": "", "silent": "not stated"}
    page = render_page([load_result(tmp_path / str(i)) for i in range(3)], title="t")
    assert page.count("extra data: not stated") == 1
    for format in FORMATS:
        assert "silent" in render(build_table([load_result(tmp_path / "2")]), format), (
            "a table of such rows alone"
        )


FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\tx",
    "\r=1",
    "＝1+1",
    "\x1b]0;x\x07",
]


def test_csv_text_is_neither_a_formula_nor_an_escape_sequence(tmp_path: Path) -> None:
    contents = [
        simple(text, 30 - i, defense=text, architecture=text, git_commit=text, **flagged(text))
        for i, text in enumerate(FORMULAS)
    ]
    for data in contents:
        data["protocol"]["attacks"][0]["title"] = "=2+5"
    text = shown(tmp_path, contents, "csv")
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    for cell in (one for row in [header, *rows] for one in row):
        assert cell[:1] not in tuple("=+-@＝\t\r")
        assert cell == plain(cell)
    assert "'=2+5" in header
    assert [row[1] for row in rows][:3] == ["'=1+1", "'+cmd|' /C calc'!A0", "'-2+3"]
    assert [float(row[5]) for row in rows] == [1.0] * len(rows)  # numbers stay numbers


@pytest.mark.parametrize("value", [-0.5, -3, 1e-7, True, None])
def test_a_number_stays_a_number_in_csv(value: object) -> None:
    assert csv_cell(value) is value


def test_published_json_holds_no_raw_control_character() -> None:
    data = {"name": "a\x9b31m\u202eb\x1b[2J", "±": ["é", "\U000e0001"]}
    text = as_json(data)
    assert json.loads(text) == data
    assert text.replace("\n", "") == plain(text.replace("\n", ""))
    assert "±" in text
