"""Lines that a user reads: bounded, with the file's name and what to do."""

import logging
from pathlib import Path

import pytest

from robustbench_lite.cli import main
from robustbench_lite.core.describe_diff import describe_difference
from robustbench_lite.core.messages import LONGEST, OneLine, one_line, shortened


def test_short_texts_stay_as_they_are():
    text = "eps=8 is larger than 1: inputs are in [0, 1]; did you mean 8/255?"
    assert shortened(text) == text
    assert shortened("x" * LONGEST) == "x" * LONGEST
    assert len(shortened("x" * (LONGEST + 1))) <= LONGEST


def test_long_words_and_texts_lose_their_middle():
    path = "/" + "/".join(["folder"] * 80) + "/weights.pt"
    text = f"{path} is damaged: fetch it again"
    assert shortened(text).endswith("folder/weights.pt is damaged: fetch it again")
    assert len(shortened(f"{path} holds {'many words ' * 200}; fetch it again")) <= LONGEST
    line = shortened(f"{path} holds {'many words ' * 200}; fetch it again")
    assert "weights.pt holds many" in line
    assert line.endswith("; fetch it again")


def test_nothing_reaches_the_terminal_but_one_line():
    assert one_line("a\n\tb\x1b[31m\u202e c") == "a b?[31m? c"


def test_log_messages_are_lines_too():
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", ("a\n" * 1000,), None)
    text = OneLine("rbl: %(message)s").format(record)
    assert "\n" not in text
    assert len(text) <= LONGEST


def test_of_many_differences_the_shortest_are_told_first():
    there = {"a": {"long": "z" * 500, "eps": "0.2"}, "b": 2}
    now = {"a": {"long": "x" * 500, "eps": "0.1"}, "b": 1}
    text = describe_difference(there, now)
    assert text.startswith("b: 2 there, 1 now; a.eps: 0.2 there, 0.1 now; a.long: zzz")
    assert len(text) < 300


LONG = "x" * 3000


@pytest.mark.parametrize(
    "arguments",
    [
        [LONG],
        ["evaluate", LONG, "--protocol", "linf_quick", "--eps", "0.1"],
        ["evaluate", "/".join(["x" * 100] * 30), "--protocol", "linf_quick", "--eps", "0.1"],
        ["evaluate", "x", "--protocol", LONG, "--eps", "0.1"],
        ["evaluate", "x", "--protocol", LONG + ".toml", "--eps", "0.1"],
        ["evaluate", "x", "--protocol", "linf_quick", "--eps", LONG],
        ["evaluate", "x", "--protocol", "linf_quick", "--eps", "9" * 3000],
        ["evaluate", "x", "--protocol", "linf_quick", "--eps", "0.1", "--device", LONG],
        ["evaluate", "x", "--protocol", "linf_quick", "--eps", "0.1", "--dataset", LONG],
        ["evaluate", "x", "--protocol", "linf_quick", "--eps", "0.1", "--" + LONG],
        ["evaluate", "--model", LONG + ".py:net", "--protocol", "linf_quick", "--eps", "0.1"],
        ["train", LONG],
        ["train", "digits_trades", f"--training.{LONG}", "1"],
        ["train", "digits_trades", "--training.epochs", LONG],
        ["leaderboard", LONG],
        ["compare", LONG, LONG],
        ["submit", "check", LONG],
        ["verify", LONG],
        ["reproduce", LONG],
        ["import", LONG, *("--arch", LONG, "--dataset", "x", "--normalization", "none")],
    ],
)
def test_long_names_and_values_give_short_lines(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("rbl: error: ")
    assert err.count("\n") == 1
    assert len(err) <= LONGEST + 1


def test_the_name_of_a_file_deep_down_is_told(capsys, tmp_path):
    folder = tmp_path
    for _ in range(8):
        folder = folder / ("deep" * 12)
    folder.mkdir(parents=True)
    path = folder / "my_protocol.toml"
    Path(path).write_text(f"{LONG} = 1")
    assert main(["evaluate", "x", "--protocol", str(path), "--eps", "0.1"]) == 2
    err = capsys.readouterr().err
    assert "my_protocol.toml" in err
    assert "key" in err
    assert len(err) <= LONGEST + 1
