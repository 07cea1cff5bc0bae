"""`kill -9` in the middle, with real processes: the same command ends with the same bytes."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from robustbench_lite.cli import main

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
SAFETY = 900  # seconds: only turns a hang into a failure


def start(arguments, folder, before=None, **stop):
    """Start `rbl`; `stop` is when it stops itself (`stop_hook/sitecustomize.py`)."""
    paths = [TESTS.parent, TESTS / "stop_hook"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    environment |= {f"STOP_{name.upper()}": value for name, value in stop.items()}
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
    out, err = process.communicate(timeout=SAFETY)
    assert process.returncode == 0, err
    return out


def killed(arguments, folder, at):
    """Run until SIGKILL at a step."""
    process = start(arguments, folder, at=at, by="SIGKILL")
    _, err = process.communicate(timeout=SAFETY)
    assert process.returncode == -signal.SIGKILL, err


def same(whole, broken, names):
    for name in names:
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name


COMMON = ["--protocol", "linf_quick", "--eps", "0.1", "--n", "360", "--threads", "1"]
COMMON += ["--chunk-size", "30", "--batch-size", "30", "--out"]


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    """The result folder of an evaluation that nobody disturbed."""
    out = tmp_path_factory.mktemp("unbroken") / "whole"
    assert main(["evaluate", str(checkpoint), *COMMON, str(out)]) == 0
    return out


def test_an_evaluation_killed_twice_ends_with_the_same_bytes(checkpoint, whole, tmp_path):
    command = ["evaluate", str(checkpoint), *COMMON, "broken"]
    broken = tmp_path / "broken"
    killed(command, tmp_path, "replace .parquet 2")
    assert len(parts_of(broken)) == 1
    killed(command, tmp_path, "replace .parquet 6")
    done = {path: path.stat().st_mtime_ns for path in parts_of(broken)}
    assert len(done) == 6
    assert not (broken / "result.json").exists(), "killed before the end"
    finish(command, tmp_path)
    assert all(path.stat().st_mtime_ns == then for path, then in done.items()), "nothing redone"
    parts = [str(path.relative_to(broken)) for path in parts_of(broken)]
    assert len(parts) == 12 * 3
    same(whole, broken, ["result.json", "examples.parquet", "header.json", *parts])


def parts_of(folder):
    return list(folder.glob("parts/*/*.parquet"))


def test_two_workers_write_the_same_bytes_also_after_one_was_killed(checkpoint, whole, tmp_path):
    command = ["evaluate", str(checkpoint), *COMMON, "broken", "--workers", "2"]
    broken, pipe = tmp_path / "broken", tmp_path / "pipe"
    os.mkfifo(pipe)
    # Each has a part at the same time; the second writes its own, and dies at its next.
    at = "replace .parquet 2"
    process = start(command, tmp_path, at=at, by="SIGKILL", rank="1", pipe=str(pipe))
    _, err = process.communicate(timeout=SAFETY)
    assert process.returncode == 2
    assert err.startswith("rbl: error: worker ")
    assert err.endswith(
        "killed by SIGKILL; finished parts are kept: run the same command again to resume\n"
    )
    assert err.count("\n") == 1
    assert not (broken / "result.json").exists(), "killed before the end"
    assert (broken / "timing-1.json").exists(), "the second worker finished a part"
    done = {path: path.stat().st_mtime_ns for path in parts_of(broken)}
    assert done
    assert finish(command, tmp_path).count("result: broken/result.json") == 1
    assert all(path.stat().st_mtime_ns == then for path, then in done.items()), "nothing redone"
    parts = [str(path.relative_to(broken)) for path in parts_of(broken)]
    assert len(parts) == 12 * 3
    names = ["result.json", "examples.parquet", "header.json", "checks.json"]
    same(whole, broken, [*names, *parts])


def test_what_is_wrong_for_all_workers_is_said_once(checkpoint, tmp_path):
    command = ["evaluate", str(checkpoint), *COMMON, "r", "--workers", "2", "--n", "100000"]
    process = start(command, tmp_path)
    _, err = process.communicate(timeout=SAFETY)
    assert (process.returncode, err) == (
        2, "rbl: error: n=100000: digits test has 1 to 364 examples to take\n"
    )  # fmt: skip


def test_a_killed_training_ends_with_the_same_bytes(tmp_path):
    command = ["train", "digits_pgd_at", "--threads", "1", "--training.epochs", "3"]
    command += ["--defense.crafting.steps", "3", "--validation.every", "1", "--out"]
    finish([*command, "whole"], tmp_path)
    broken = tmp_path / "broken"
    killed([*command, "broken"], tmp_path, "replace metrics.jsonl 2")
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
    _, err = process.communicate(timeout=SAFETY)
    assert process.returncode == 2
    assert err.startswith("rbl: error: cannot write r/state.safetensors: File too large")
    assert err.count("\n") == 1
    left = [path.name for path in (tmp_path / "r").iterdir()]
    assert sorted(left) == ["best", "recipe.json"], "nothing half-written, the best kept"
    finish(command, tmp_path)
    assert (tmp_path / "r" / "last" / "model.safetensors").exists()


def test_a_sample_killed_twice_also_with_workers_ends_with_the_same_bytes(checkpoint, tmp_path):
    command = ["evaluate", str(checkpoint), *COMMON[: COMMON.index("--n")], "--sample", "90"]
    command += [*COMMON[COMMON.index("--n") + 2 :]]
    assert main([*command, str(tmp_path / "whole")]) == 0
    killed([*command, "broken"], tmp_path, "replace .parquet 2")
    killed([*command, "broken"], tmp_path, "replace .parquet 3")
    assert len(parts_of(tmp_path / "broken")) == 3
    finish([*command, "broken", "--workers", "2"], tmp_path)
    names = ["result.json", "examples.parquet", "header.json", "checks.json"]
    same(tmp_path / "whole", tmp_path / "broken", names)
