"""`rbl evaluate` with several networks and radii: a result each, and no error costs another."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from robustbench_lite.cli import build_parser, main
from robustbench_lite.cli.several import finish_each, one_by_one
from robustbench_lite.core.errors import InputError

NETWORKS = """
import torch
from torch import nn
def make(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def first():
    return make(0)
def second():
    return make(1)
def random():
    torch.seed()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def broken():
    raise RuntimeError("no weights here")
"""
TERMS = ["--allow-code", "--dataset", "digits", "--protocol", "linf_quick", "--n", "3"]
TERMS += ["--threads", "1"]


@pytest.fixture(autouse=True)
def _networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("n.py").write_text(NETWORKS)


def results(folder="results"):
    found = [json.loads(path.read_text()) for path in sorted(Path(folder).rglob("result.json"))]
    return sorted((one["name"], one["protocol"]["eps"]) for one in found)


def parsed(*words):
    arguments = build_parser().parse_args(["evaluate", *words])
    return [(job.checkpoint, job.model, job.eps) for job in one_by_one(arguments)]


def test_every_network_meets_every_radius_in_the_order_given():
    assert parsed("a", "b", "--eps", "4/255", "2/255") == [
        ("a", None, "4/255"),
        ("a", None, "2/255"),
        ("b", None, "4/255"),
        ("b", None, "2/255"),
    ]
    assert parsed("--eps", "0.1", "--model", "x:f", "--eps", "0.2", "--model", "y:f") == [
        (None, "x:f", "0.1"),
        (None, "x:f", "0.2"),
        (None, "y:f", "0.1"),
        (None, "y:f", "0.2"),
    ]
    assert parsed("a", "--eps", "2/255", "4/510", "2/255") == [("a", None, "2/255")]
    assert parsed() == [(None, None, None)]


def test_a_checkpoint_after_the_radii_is_no_radius():
    Path("2nd/best").mkdir(parents=True)
    assert parsed("--eps", "8/255", "runs/x/best") == [("runs/x/best", None, "8/255")]
    assert parsed("--eps", ".1", ".2", "2nd/best", "./c") == [
        ("2nd/best", None, ".1"),
        ("2nd/best", None, ".2"),
        ("./c", None, ".1"),
        ("./c", None, ".2"),
    ]


def test_several_radii_are_a_result_each_and_one_curve(capsys):
    radii = ["--eps", "2/255", "4/255"]
    assert main(["evaluate", "--model", "n.py:first", *TERMS, *radii, "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert results("out") == [("n.py:first", "2/255"), ("n.py:first", "4/255")]
    assert out.count("result: out/n.py_first/digits-linf_quick@") == 2
    (curve,) = Path("out/n.py_first").glob("curve-*.svg")
    assert out.endswith(f"curve: {curve}\n")
    assert "4/255" in curve.read_text()


def test_a_curve_given_as_a_result_is_refused_by_what_it_is(capsys):
    Path("curve-digits.svg").write_text("<svg/>")
    for command in (["plot", "eps"], ["classes"], ["leaderboard"]):
        assert main([*command, "curve-digits.svg"]) == 2
        error = capsys.readouterr().err
        assert "curve-digits.svg: a picture, no result; give a result.json or a folder" in error


def test_each_result_is_that_of_a_call_of_its_own():
    both = ["--model", "n.py:first", "--model", "n.py:second"]
    assert main(["evaluate", *both, *TERMS, "--eps", "2/255", "0.1", "--out", "many"]) == 0
    assert len(list(Path("many").glob("curve-*.svg"))) == 1, "one curve for both networks"
    assert main(["evaluate", "--model", "n.py:second", *TERMS, "--eps", "0.1", "--out", "own"]) == 0
    (folder,) = Path("many/n.py_second").glob("*@0.1.v*")
    for file in ("result.json", "examples.parquet", "header.json"):
        assert (folder / file).read_bytes() == Path("own", file).read_bytes()


def test_the_same_call_again_finds_its_results(capsys, monkeypatch):
    command = ["evaluate", "--model", "n.py:first", *TERMS, "--eps", "2/255", "4/255"]
    assert main(command) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(
        "robustbench_lite.evaluation.evaluate.run_attack", lambda *_, **__: pytest.fail("again")
    )
    assert main(command) == 0
    assert capsys.readouterr().out == first


def test_an_error_in_one_is_a_line_and_the_others_are_finished(capsys):
    networks = [word for name in ("broken", "first") for word in ("--model", f"n.py:{name}")]
    command = ["evaluate", "gone", *networks, *TERMS, "--eps", "2/255", "4/255"]
    assert main(command) == 2
    captured = capsys.readouterr()
    gone, broken = captured.err.splitlines()  # not once more for the second radius
    assert gone.startswith("rbl: error: gone at eps 2/255: no checkpoint folder gone")
    assert broken.startswith("rbl: error: n.py:broken at eps 2/255: ")
    assert "no weights here" in broken
    assert results() == [("n.py:first", "2/255"), ("n.py:first", "4/255")]
    assert "curve: results/n.py_first/curve-" in captured.out


def test_a_factory_that_draws_new_weights_each_time_has_no_second_radius(capsys):
    radii = ["--eps", "2/255", "4/255"]
    assert main(["evaluate", "--model", "n.py:random", *TERMS, *radii]) == 2
    assert "at eps 4/255: it has other weights than at eps 2/255" in capsys.readouterr().err
    assert results() == [("n.py:random", "2/255")]


@pytest.mark.parametrize(("alone", "done"), [(True, 2), (False, 0)])
def test_with_other_workers_the_first_error_ends_the_call(alone, done):
    """They would wait for a result that does not come."""
    arguments = build_parser().parse_args(["evaluate", "gone", "a", "b", "--eps", "0.1"])
    seen = []

    def evaluate(job):
        if job.checkpoint == "gone":
            raise InputError("no checkpoint folder gone")
        seen.append(job.checkpoint)
        return Path(job.checkpoint)

    with nullcontext() if alone else pytest.raises(InputError, match="no checkpoint folder gone"):
        finish_each(one_by_one(arguments), evaluate, lambda line: None, alone=alone)
    assert len(seen) == done


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eps", "0.1", "--eps", "4/x"], "eps='4/x' is no number"),
        (["--eps", "0.1", "8"], "did you mean 8/255?"),
        (["--eps"], "--eps: expected at least one argument"),
        (["--model", "n.py:second", "--eps", "0.1", "--name", "mine"], "--name 'mine' is for one"),
        (["--eps", "0.1", "--speed=9"], "unrecognized arguments: --speed=9"),
    ],
)
def test_what_is_wrong_for_all_is_refused_before_the_first(capsys, words, message):
    assert main(["evaluate", "--model", "n.py:first", *TERMS, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert results() == []


def test_checkpoints_may_stand_between_the_options(capsys):
    assert main(["evaluate", "a", "--n", "4", "b", "--eps", "0.1", "c"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["a", "b", "c"]


def test_a_plan_of_several_radii_is_made_once_a_network(capsys):
    both = ["--model", "n.py:first", "--model", "n.py:second"]
    assert main(["evaluate", *both, *TERMS, "--eps", "2/255", "0.1", "--plan"]) == 0
    out = capsys.readouterr().out
    assert out.count("for each of 2 radii:") == 2
    assert out.count("pgd20_ce") == 2
    assert results() == []


@pytest.mark.slow
def test_several_workers_share_each_evaluation():
    command = ["evaluate", "--model", "n.py:first", *TERMS, "--eps", "2/255", "4/255"]
    done = subprocess.run(
        [sys.executable, "-m", "robustbench_lite", *command, "--workers", "2", "--out", "two"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert main([*command, "--out", "one"]) == 0
    for one in Path("one").rglob("result.json"):
        assert one.read_bytes() == Path("two", *one.parts[1:]).read_bytes()
    assert results("one") == results("two") == [("n.py:first", "2/255"), ("n.py:first", "4/255")]
