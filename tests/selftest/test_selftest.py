"""The gate passes a sound engine, fails crippled ones, and says in one line what it cannot use."""

import json
from fractions import Fraction

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.selftest import run as run_module
from robustbench_lite.selftest.case import compared, known_case
from robustbench_lite.selftest.cases import short_cases, staircase_case, unlikely_case
from robustbench_lite.selftest.engines import APGD_ONLY, ENGINE, ONE_TARGET, broken_by
from robustbench_lite.selftest.published import present, published_cases
from robustbench_lite.selftest.run import CRIPPLED, Row
from robustbench_lite.selftest.table import as_json, line, summary

CPU, LINF = torch.device("cpu"), ThreatModel("Linf", Fraction(1, 10))
ROW = Row("a", 200, 152, 153, 153, True, False, "proof", 1.0)
CLOSED = [name for name in short_cases(0) if "digits" not in name]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_form_knows_every_image_and_has_some_on_both_sides(name, seed):
    case = short_cases(seed)[name]()
    assert case.name == name
    assert case.lower == case.upper
    assert 8 <= case.lower <= len(case.x) - 8
    assert (case.unbreakable ^ case.breakable).all()
    with torch.no_grad():
        assert (case.model(case.x).argmax(dim=1) == case.y).all()
    assert case.x.min() >= 0.0
    assert case.x.max() <= 1.0


@pytest.mark.parametrize(
    ("make", "engine"), [(unlikely_case, ONE_TARGET), (staircase_case, APGD_ONLY)]
)
@pytest.mark.slow
def test_only_the_crippled_engine_leaves_images_that_can_be_broken(make, engine):
    case = make(3)
    assert compared(case, broken_by(ENGINE, case, device=CPU, seed=3)) == (case.upper, True)
    ours, agrees = compared(case, broken_by(engine, case, device=CPU, seed=3))
    assert not agrees
    assert ours > case.upper


@pytest.mark.slow
def test_a_ball_that_is_too_wide_breaks_what_cannot_be_broken():
    case = short_cases(3)["linear, 2 classes, Linf"]()
    broken = broken_by(ENGINE, case, device=CPU, seed=3, wider=Fraction(103, 100))
    ours, agrees = compared(case, broken)
    assert not agrees
    assert ours < case.lower


def test_the_right_number_of_the_wrong_images_is_a_failure():
    case = short_cases(0)["linear, 2 classes, Linf"]()
    assert compared(case, case.breakable) == (case.upper, True)
    assert compared(case, case.unbreakable) == (case.upper, False)


@pytest.mark.parametrize("known", ["unbreakable", "breakable"])
def test_one_wrong_image_is_a_failure_where_only_bounds_of_the_number_are_known(known):
    """The other images are not known, so the number alone would pass."""
    none = torch.zeros(4, dtype=torch.bool)
    one = torch.tensor([True, False, False, False])
    facts = {"unbreakable": none, "breakable": none} | {known: one}
    case = known_case(
        "a", nn.Identity(), (torch.zeros(4), torch.zeros(4)), LINF, proof="made", **facts
    )
    right, wrong = (~one, one) if known == "unbreakable" else (one, ~one)
    assert case.lower <= 1 <= case.upper
    assert case.lower <= 3 <= case.upper
    assert compared(case, right)[1]
    assert not compared(case, wrong)[1]


def test_a_crippled_engine_is_run_on_a_case_that_exists():
    assert set(CRIPPLED) <= set(short_cases(0))
    assert len(CRIPPLED) >= 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW, "ok"),
        (Row("a", 200, 152, 155, 153, False, False, "p", 1.0), "FAILED: images are left"),
        (Row("a", 200, 152, 151, 153, False, False, "p", 1.0), "FAILED: images are called"),
        (Row("a", 200, 152, 153, 153, False, False, "p", 1.0), "FAILED: the right number"),
        (Row("x: a", 200, 152, 155, 153, True, True, "p", 1.0), "must fail: failed as it must"),
        (Row("x: a", 200, 152, 153, 153, False, True, "p", 1.0), "must fail: PASSED"),
    ],
)
def test_a_line_says_what_happened(row, said):
    assert said in line(row)
    assert f"{row.ours / 2:.2f}" in line(row)
    assert json.loads(as_json([row], {"seed": 0}))["passed"] is row.ok
    assert ("FAILED" in summary([row], 1.0)) is not row.ok


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_all_agree(monkeypatch, capsys, ok, code):
    rows = [ROW, Row("b", 10, 1, 1, 1, ok, False, "p", 1.0)]
    monkeypatch.setattr(run_module, "run_selftest", lambda **_: iter(rows))
    assert main(["selftest"]) == code
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["selftest", "--format", "json"]) == code
    assert json.loads(capsys.readouterr().out)["rows"][0]["ours"] == 153


def test_rubbish_is_one_line(tmp_path, capsys):
    damaged, empty = tmp_path / "damaged", tmp_path / "empty"
    damaged.mkdir()
    empty.mkdir()
    (damaged / published_cases()[0].file).write_bytes(b"no weights")
    for words, said in (
        (["--weights", str(tmp_path / "none")], "is not a folder"),
        (["--weights", str(empty)], "holds none of"),
        (["--weights", str(damaged)], "is damaged or another file"),
        (["--data-dir", str(empty)], "--weights"),
        (["--threads", "0"], "at least 1"),
        (["--seed", "-1"], "seed"),
        (["--device", "abacus"], "unknown"),
    ):
        assert main(["selftest", *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert len(error) <= 301


def test_published_facts_are_complete_and_ordered():
    rows = published_cases()
    assert len({row.name for row in rows}) == len(rows) >= 3
    for row in rows:
        assert 0 < row.lower <= row.upper <= 100
        assert len(row.sha256) == 64
        assert row.source
    assert any(row.crippled for row in rows)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds none of"):
        present(tmp_path)
