"""Evaluations of a sample: the verdicts of the full run, and no mixing with other images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch

import robustbench_lite.evaluation.evaluate as harness
from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.cli import main
from robustbench_lite.core.errors import LedgerMismatchError
from robustbench_lite.core.integrity import with_checksum
from robustbench_lite.datasets import load_split
from robustbench_lite.datasets.selection import Selection, first_images, random_images
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.leaderboard import ResultError, load_result

COMMON = ["--protocol", "linf_quick", "--eps", "0.1", "--threads", "1", "--chunk-size", "20"]


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "test")


@pytest.fixture
def source(checkpoint):
    return resolve_model(str(checkpoint), allow_code=False, device="cpu")


def run(source, data, out, images, **changes):
    return evaluate(
        source,
        data,
        changes.pop("protocol", None) or load_protocol("linf_quick", eps="0.1"),
        out=out,
        n=None,
        images=images,
        seed=0,
        settings=Settings(batch_size=20, chunk_size=20, threads=1),
        device=torch.device("cpu"),
    )


def test_the_verdicts_of_an_image_are_those_of_the_full_run(source, digits, tmp_path):
    sample = random_images(50, len(digits), 3)
    result = run(source, digits, tmp_path / "sample", sample)
    run(source, digits, tmp_path / "all", first_images(None, len(digits), what="digits test"))
    key = ["attack", "example_id"]
    part, whole = (
        pandas.read_parquet(tmp_path / name / "examples.parquet").set_index(key)
        for name in ("sample", "all")
    )
    assert part.loc["clean"].index.tolist() == list(sample.ids)
    columns = ["label", "clean_prediction", "broken", "prediction"]
    expected = whole[whole.index.get_level_values(1).isin(sample.ids)]
    assert part[columns].equals(expected[columns].loc[part.index])
    assert 5 < part.broken.loc["pgd20_ce"].sum() < 50, "otherwise the test says little"
    loaded = load_result(tmp_path / "sample")
    assert loaded.examples.choice == f"random 50 of {len(digits)} (seed 3)"
    assert loaded.examples.ids == sample.ids
    assert result["examples"] == {**sample.identity, "of": len(digits)}
    assert load_result(tmp_path / "all").examples.choice == f"all {len(digits)}"


def test_what_broke_copies_is_named_by_its_id_in_the_split(source, digits, tmp_path, monkeypatch):
    sample, measure, places = random_images(30, len(digits), 0), harness.measure_flags, []

    def measured(*arguments, **options):
        found = measure(*arguments, **options)
        places.extend(found.crafted_broken)
        return found

    monkeypatch.setattr(harness, "measure_flags", measured)
    run(source, digits, tmp_path / "r", sample)
    stored = json.loads((tmp_path / "r" / "checks.json").read_text())
    assert places, "otherwise the test says little"
    broken = stored["crafted_on_copies"]["broken"]
    assert broken == [sample.ids[place] for place in places] != places


def test_an_interrupted_sample_ends_with_the_same_bytes(source, digits, tmp_path):
    sample = random_images(50, len(digits), 0)
    for name in ("whole", "broken"):
        run(source, digits, tmp_path / name, sample)
    for lost in ("parts/pgd20_ce/00001.parquet", "parts/clean/00002.parquet", "result.json"):
        (tmp_path / "broken" / lost).unlink()
    run(source, digits, tmp_path / "broken", sample)
    for name in ("result.json", "examples.parquet", "parts/pgd20_ce/00001.parquet"):
        whole, broken = (tmp_path / folder / name for folder in ("whole", "broken"))
        assert whole.read_bytes() == broken.read_bytes(), name


@pytest.fixture(scope="module")
def thirty(checkpoint, digits, tmp_path_factory):
    """The result folder of 30 images drawn with seed 0, which tests copy."""
    out = tmp_path_factory.mktemp("thirty") / "r"
    network = resolve_model(str(checkpoint), allow_code=False, device="cpu")
    run(network, digits, out, random_images(30, len(digits), 0))
    return out


def test_another_sample_never_goes_on_in_a_folder(source, digits, tmp_path, thirty):
    size = len(digits)
    shutil.copytree(thirty, tmp_path / "r")
    before = (tmp_path / "r" / "result.json").read_bytes()
    with pytest.raises(LedgerMismatchError, match=r"examples.seed: 0 there, 1 now") as error:
        run(source, digits, tmp_path / "r", random_images(30, size, 1))
    assert "\n" not in str(error.value)
    for other in (
        first_images(30, size, what=""),
        random_images(31, size, 0),
        Selection("subset", tuple(range(1, 31)), size),
    ):
        with pytest.raises(LedgerMismatchError, match="holds another evaluation"):
            run(source, digits, tmp_path / "r", other)
    assert (tmp_path / "r" / "result.json").read_bytes() == before


def test_a_header_with_other_ids_is_refused(source, digits, tmp_path, thirty):
    sample = random_images(30, len(digits), 0)
    shutil.copytree(thirty, tmp_path / "r")
    path = tmp_path / "r" / "header.json"
    header = json.loads(path.read_text())
    ids = header["identity"]["examples"]["ids"]
    ids[0] = next(i for i in range(len(digits)) if i not in ids)
    path.write_text(with_checksum(header))
    with pytest.raises(LedgerMismatchError, match="examples.ids"):
        run(source, digits, tmp_path / "r", sample)


def _edited(examples, **changes):
    return {**examples, **changes}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: _edited(e, ids=[e["ids"][1], *e["ids"][1:]]), "ascending ids, each once"),
        (lambda e: _edited(e, ids=e["ids"][:-1]), "examples.ids is 'a list of 29'"),
        (lambda e: _edited(e, seed=1), "what seed 1 draws of 364"),
        (lambda e: _edited(e, of=363), "examples.ids"),
        (lambda e: _edited(e, sha256="sha256:" + "0" * 64), "examples.sha256"),
        (lambda e: _edited(e, of=10**12), "examples.of is 1000000000000"),
        (lambda e: {"count": 30}, "missing key examples.first"),
        (lambda e: {"first": 0, "count": 30, "ids": e["ids"]}, "missing key examples.chosen"),
        (lambda e: {"first": 340, "count": 30, "of": 364}, "at most 364"),
        (lambda e: {k: v for k, v in e.items() if k != "of"}, "missing key examples.of"),
    ],
)
def test_a_result_that_lies_about_its_images_is_refused(tmp_path, thirty, change, words):
    shutil.copytree(thirty, tmp_path / "r")
    path = tmp_path / "r" / "result.json"
    data = json.loads(path.read_text())
    data["examples"] = change(data["examples"])
    path.write_text(with_checksum(data))
    with pytest.raises(ResultError) as error:
        load_result(path)
    assert words in str(error.value)


def test_the_command_takes_samples_and_lists_and_says_so(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("hard.txt").write_text("5\n9\n11\n")
    command = ["evaluate", str(checkpoint), *COMMON]
    assert main([*command, "--sample", "30"]) == 0
    assert "n=30 (random 30 of 364 (seed 0))" in capsys.readouterr().out
    assert main([*command, "--sample", "30", "--sample-seed", "1"]) == 0
    assert main([*command, "--subset", "hard.txt"]) == 0
    assert "n=3 (subset hard.txt)" in capsys.readouterr().out
    assert main([*command, "--sample", "1000"]) == 0
    folders = sorted(path.parent.name for path in Path("results").rglob("result.json"))
    assert [name.partition("test")[2] for name in folders] == [
        "364-seed0",
        "random30-sample0-seed0",
        "random30-sample1-seed0",
        f"subset3-{random_word()}-seed0",
    ]
    capsys.readouterr()
    assert main(["leaderboard", "results", "--format", "json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert sorted(group["examples"] for group in groups) == [
        "all 364",
        "random 30 of 364 (seed 0)",
        "random 30 of 364 (seed 1)",
        "subset hard.txt",
    ]


def random_word():
    """The digest of ids 5, 9 and 11 in a folder's name."""
    import hashlib

    return hashlib.sha256(b"5,9,11").hexdigest()[:8]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--n", "3", "--sample", "3"], "not allowed with"),
        (["--subset", "x", "--sample", "3"], "not allowed with"),
        (["--sample", "0"], "--sample 0 must be at least 1"),
        (["--sample-seed", "3"], "--sample-seed belongs to --sample N"),
        (["--sample", "3", "--sample-seed", "-1"], "--sample-seed -1"),
        (["--subset", "nowhere"], "--subset nowhere cannot be read"),
    ],
)
def test_wrong_choices_are_one_line(checkpoint, capsys, arguments, words):
    assert main(["evaluate", str(checkpoint), *COMMON, *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one(checkpoint, tmp_path):
    command = ["evaluate", str(checkpoint), *COMMON, "--sample", "50", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    process = subprocess.run(
        [sys.executable, "-m", "robustbench_lite", *command, "two", "--workers", "2"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    for name in ("header.json", "checks.json", "result.json", "examples.parquet"):
        one, two = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), name
