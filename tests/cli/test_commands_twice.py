"""Every command run twice gives the same bytes: what it prints, and every file it leaves."""

import hashlib
import json
from pathlib import Path

import pytest
from submission_cases import edit, from_checkpoint

from robustbench_lite.attacks.protocol import protocol_files
from robustbench_lite.cli import main
from robustbench_lite.leaderboard import load_result

FAST = ["--threads", "1", "--n", "12"]
EPS = ["--eps", "0.15"]
TRAIN = [
    *("train", "digits_pgd_at", "--threads", "1", "--training.epochs", "1"),
    *("--defense.crafting.steps", "1", "--training.batch_size", "600"),
    *("--validation.steps", "1"),
]
TABLE = """
title = "T"
paper = "P"
where = "W"
provenance = "verified"
dataset = "digits"
norm = "Linf"
eps_printed = "0.15"
model = "small_cnn"
columns = [
  { metric = "clean", title = "Clean" },
  { metric = "pgd20", title = "PGD-20", protocol = "linf_quick", attack = "pgd20_ce" },
  { metric = "fgsm", title = "FGSM", protocol = "fgsm" },
]

[[rows]]
id = "tiny"
method = "M"
values = ["90.00", "53.00", "50.00"]
"""
HEAD = """
id = "a_first"
version = 1
norm = "Linf"
engine = "ours"
passes = 1
summary = "A protocol whose results sort before the others"

"""


@pytest.mark.slow
def test_every_command(tmp_path, checkpoint, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("table.toml").write_text(TABLE)
    mine = from_checkpoint(Path("mine"), checkpoint, clean=0.0, robust=0.0)
    edit(mine, "examples", 12)
    run = ["submit", "run", "mine", "--threads", "1"]
    assert main(run) == 0
    result = load_result(mine / "entry")
    edit(mine, "clean_accuracy", 100 * result.clean_accuracy.value)
    edit(mine, "robust_accuracy", 100 * result.robust_accuracy.value)
    best = "runs/digits_pgd_at/best"
    results = ["results"]
    network = ["--dataset", "digits", *FAST]
    commands = [
        TRAIN,
        ["evaluate", best, "--protocol", "linf_quick", *EPS, *FAST, "--evidence", "int8"],
        ["evaluate", str(checkpoint), "--protocol", "linf_quick", *EPS, *FAST],
        [
            *("transfer", "--source", best, "--target", str(checkpoint)),
            *("--protocol", "linf_quick", "--attack", "pgd20_ce", *EPS, *network),
        ],
        ["detect", best, "--outliers", "rademacher", *("--eps", "3/255"), *FAST],
        ["reproduce", "table.toml", "--checkpoint", best, *FAST, "--format", "json"],
        run,
        ["submit", "check", "mine", "--examples", "8", "--threads", "1"],
        ["verify", "mine/entry", "--k", "3", "--seed", "1", "--threads", "1"],
        *(
            ["leaderboard", *results, "mine/entry", "--format", each, "--out", f"board.{each}"]
            for each in ("terminal", "markdown", "csv", "latex", "html", "json")
        ),
        ["leaderboard", *results, "mine/entry"],
    ]
    capsys.readouterr()
    for command in commands:
        check_twice(command, capsys)
    for command in comparisons():
        check_twice(command, capsys)


def check_twice(command, capsys):
    first = ended(command, capsys)
    before = files()
    assert ended(command, capsys) == first, command
    assert files() == before, command


def comparisons():
    """Commands on results that lie there once the others have run."""
    found = sorted(str(path) for path in Path("results").rglob("*linf_quick*/result.json"))
    assert len(found) == 2
    (with_images,) = (path for path in found if (Path(path).parent / "evidence").is_dir())
    return [
        ["compare", *found],
        ["compare", *found, "--format", "json"],
        ["classes", *(str(Path(path).parent) for path in found)],
        ["plot", "gallery", str(Path(with_images).parent), "--out", "gallery.svg"],
        ["plot", "training", "runs/digits_pgd_at", "--out", "training.svg"],
        ["plot", "classes", *(str(Path(path).parent) for path in found), "--out", "classes.png"],
    ]


def ended(command, capsys):
    """Exit code of a command that works, and what it prints on stdout."""
    code = main(command)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert code in (0, 1), (command, err)
    return code, out


def files():
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path().rglob("*"))
        if path.is_file()
    }


def reproduced(capsys, *arguments):
    assert main(["reproduce", "table.toml", *arguments, *FAST, "--format", "json"]) == 0
    return capsys.readouterr().out


def protocols(text):
    return {
        cell["title"]: cell["ours"]["runs"][0]["protocol_id"] for cell in json.loads(text)["cells"]
    }


def test_reproduce_takes_each_number_from_its_own_protocol(
    tmp_path, monkeypatch, checkpoint, capsys
):
    """The results of the first call are all there in the second, and change no choice."""
    monkeypatch.chdir(tmp_path)
    Path("table.toml").write_text(TABLE)
    first = reproduced(capsys, "--checkpoint", str(checkpoint))
    found = protocols(first)
    assert found["Clean"] == found["PGD-20"] == "linf_quick@0.15.v1"
    assert found["FGSM"].startswith("fgsm@")
    assert reproduced(capsys, "--checkpoint", str(checkpoint)) == first


def test_reproduce_chooses_after_it_has_measured(tmp_path, monkeypatch, checkpoint, capsys):
    """A stored result serves the first cells, and a later one measures what serves them better."""
    monkeypatch.chdir(tmp_path)
    union = '  { metric = "worst", title = "Worst", protocol = "linf_quick", union = true },\n]\n'
    text = TABLE.replace("]\n\n[[rows]]", union + "\n[[rows]]")
    Path("table.toml").write_text(text.replace('"50.00"]', '"50.00", "40.00"]'))
    pgd20 = protocol_files()["linf_quick"].read_text().split("[[attacks]]")[1]
    Path("a_first.toml").write_text(f"{HEAD}[[attacks]]{pgd20}")
    evaluate = ["evaluate", str(checkpoint), "--protocol", "a_first.toml", *EPS, *FAST]
    assert main(evaluate) == 0
    capsys.readouterr()
    first = reproduced(capsys, "--checkpoint", str(checkpoint))
    assert protocols(first)["PGD-20"] == "linf_quick@0.15.v1"
    assert reproduced(capsys, "--checkpoint", str(checkpoint)) == first
