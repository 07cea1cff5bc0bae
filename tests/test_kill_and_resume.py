"""`kill -9` in the middle, with real processes: the same command ends with the same bytes."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def start(arguments, folder, before=None):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "robustbench_lite", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def finish(arguments, folder):
    process = start(arguments, folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def kill_when(arguments, folder, ready):
    """Start, wait until `ready()`, SIGKILL; fails if the process ended by itself before that."""
    process = start(arguments, folder)
    deadline = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing to kill appeared"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def same(whole, broken, names):
    for name in names:
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name


COMMON = ["--protocol", "linf_quick", "--eps", "0.1", "--n", "360", "--threads", "1"]
COMMON += ["--chunk-size", "30", "--batch-size", "30", "--out"]


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    """The result folder of an evaluation that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    finish(["evaluate", str(checkpoint), *COMMON, "whole"], folder)
    return folder / "whole"


@pytest.mark.parametrize("after", [1, 6])
def test_a_killed_evaluation_ends_with_the_same_bytes(checkpoint, whole, tmp_path, after):
    command = ["evaluate", str(checkpoint), *COMMON]
    broken = tmp_path / "broken"
    kill_when(
        [*command, "broken"],
        tmp_path,
        lambda: len(list(broken.glob("parts/*/*.parquet"))) >= after,
    )
    assert not (broken / "result.json").exists(), "killed before the end"
    done = {path: path.stat().st_mtime_ns for path in broken.glob("parts/*/*.parquet")}
    finish([*command, "broken"], tmp_path)
    assert all(path.stat().st_mtime_ns == then for path, then in done.items()), "nothing redone"
    parts = [str(p.relative_to(broken)) for p in broken.glob("parts/*/*.parquet")]
    assert len(parts) == 12 * 3
    same(whole, broken, ["result.json", "examples.parquet", "header.json", *parts])


def test_two_workers_write_the_same_bytes_also_after_one_was_killed(checkpoint, whole, tmp_path):
    command = ["evaluate", str(checkpoint), *COMMON, "broken", "--workers", "2"]
    broken = tmp_path / "broken"
    process = start(command, tmp_path)
    deadline = time.monotonic() + 200
    while len(list(broken.glob("parts/*/*.parquet"))) < 6:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing to kill appeared"
        time.sleep(0.005)
    os.kill(_children(process.pid)[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("rbl: error: worker ")
    assert err.endswith(
        "killed by SIGKILL; finished parts are kept: run the same command again to resume\n"
    )
    assert err.count("\n") == 1
    assert not (broken / "result.json").exists(), "killed before the end"
    done = {path: path.stat().st_mtime_ns for path in broken.glob("parts/*/*.parquet")}
    assert finish(command, tmp_path).count("result: broken/result.json") == 1
    assert all(path.stat().st_mtime_ns == then for path, then in done.items()), "nothing redone"
    assert (broken / "timing-1.json").exists(), "the second worker did some"
    parts = [str(p.relative_to(broken)) for p in broken.glob("parts/*/*.parquet")]
    assert len(parts) == 12 * 3
    names = ["result.json", "examples.parquet", "header.json", "checks.json"]
    same(whole, broken, [*names, *parts])


def test_what_is_wrong_for_all_workers_is_said_once(checkpoint, tmp_path):
    command = ["evaluate", str(checkpoint), *COMMON, "r", "--workers", "2", "--n", "100000"]
    process = start(command, tmp_path)
    _, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (
        2, "rbl: error: n=100000: digits test has 1 to 364 examples to take\n"
    )  # fmt: skip


def _children(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def test_a_killed_training_ends_with_the_same_bytes(tmp_path):
    command = ["train", "digits_pgd_at", "--threads", "1", "--training.epochs", "3"]
    command += ["--defense.crafting.steps", "3", "--validation.every", "1", "--out"]
    finish([*command, "whole"], tmp_path)
    broken = tmp_path / "broken"
    kill_when([*command, "broken"], tmp_path, (broken / "metrics.jsonl").exists)
    assert not (broken / "last").exists(), "killed before the end"
    finish([*command, "broken"], tmp_path)
    names = ["model.safetensors", "card.json"]
    same(
        tmp_path / "whole",
        broken,
        ["metrics.jsonl", *(f"{kind}/{name}" for kind in ("best", "last") for name in names)],
    )


def test_a_disk_that_fills_up_ends_in_one_line_and_training_goes_on_after(tmp_path):
    """A real failing write: no file may grow beyond 100 kB, and the state is larger than that."""

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = ["train", "digits_standard", "--threads", "1", "--training.epochs", "1", "--out", "r"]
    process = start(command, tmp_path, before=small_files)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2
    assert err.startswith("rbl: error: cannot write r/state.safetensors: File too large")
    assert err.count("\n") == 1
    left = [path.name for path in (tmp_path / "r").iterdir()]
    assert sorted(left) == ["best", "recipe.json"], "nothing half-written, the best kept"
    finish(command, tmp_path)
    assert (tmp_path / "r" / "last" / "model.safetensors").exists()
