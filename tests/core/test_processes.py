"""One process at a time in a folder, and what happens to a second one."""

import contextlib
import fcntl
import subprocess
import sys

import pytest
import torch
from test_evaluation import CPU, factory, run

import robustbench_lite.core.processes as processes
from robustbench_lite.core.errors import InputError, LedgerMismatchError
from robustbench_lite.core.processes import alone_in
from robustbench_lite.datasets import load_split
from robustbench_lite.training.loop import train
from robustbench_lite.training.recipe import load_recipe
from robustbench_lite.training.run_folder import OLD_STATE_FILE, STATE_FILE
from robustbench_lite.training.state import read_state, state_bytes


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 0.0)


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "test")


def linear(seed):
    torch.manual_seed(seed)
    return factory(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), f"net {seed}")


def test_a_second_process_is_refused_and_nothing_is_left_behind(tmp_path, impatient):
    with alone_in(tmp_path / "r"):
        refused = pytest.raises(InputError, match="another process is at work in .*/r")
        with refused, alone_in(tmp_path / "r"):
            raise AssertionError("two at once")
        with alone_in(tmp_path / "other"):
            pass
    with alone_in(tmp_path / "r"):
        assert list((tmp_path / "r").iterdir()) == []


def test_a_killed_process_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 900.0)  # of a hang, not of a test
    code = (
        "import signal, sys; from pathlib import Path\n"
        "from robustbench_lite.core.processes import alone_in\n"
        "with alone_in(Path(sys.argv[1])):\n"
        "    print('held', flush=True); signal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    process.kill()
    with alone_in(tmp_path / "r"):  # within its patience
        pass
    process.communicate()


def test_a_file_system_without_locks_is_worked_on_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_in(tmp_path / "r"), alone_in(tmp_path / "r"):
        pass


def test_a_place_that_is_no_folder_is_left_to_who_writes_there(tmp_path):
    (tmp_path / "file").write_text("precious")
    with alone_in(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "precious"


def test_evaluation_and_training_hold_their_folders(tmp_path, digits, impatient):
    with alone_in(tmp_path / "r"):
        with pytest.raises(InputError, match="another process"):
            run(linear(0), digits, tmp_path / "r")
        with pytest.raises(InputError, match="another process"):
            train(
                load_recipe("digits_standard"),
                load_split("digits", "train"),
                out=tmp_path / "r",
                device=CPU,
            )
    assert list((tmp_path / "r").iterdir()) == []


def test_parts_of_another_evaluation_are_refused_where_there_are_no_locks(
    tmp_path, digits, monkeypatch
):
    monkeypatch.setattr(processes, "_lock", lambda *_: None)
    run(linear(0), digits, tmp_path / "a", n=40)
    run(linear(1), digits, tmp_path / "b", n=40)
    part = "parts/pgd20_ce/00001.parquet"
    (tmp_path / "b" / part).write_bytes((tmp_path / "a" / part).read_bytes())
    with pytest.raises(InputError, match="part of another evaluation"):
        run(linear(1), digits, tmp_path / "b", n=40)
    # Both begin; the first one's parts come after the second one's header.
    (tmp_path / "a" / "header.json").write_bytes((tmp_path / "b" / "header.json").read_bytes())
    with pytest.raises(InputError, match="part of another evaluation"):
        run(linear(1), digits, tmp_path / "a", n=40)


class Stop(Exception):
    pass


def stop_after(epochs):
    def stop(progress):
        if progress.epoch == epochs and progress.metrics is not None:
            raise Stop

    return stop


def test_a_state_of_another_run_is_refused(tmp_path):
    def go(seed, out):
        overrides = ["--training.epochs", "1", "--training.seed", str(seed)]
        recipe = load_recipe("digits_standard", overrides)
        return train(recipe, load_split("digits", "train"), out=out, device=CPU, threads=1)

    go(0, tmp_path / "a")
    go(1, tmp_path / "b")
    first, second = (tmp_path / run / STATE_FILE for run in "ab")
    second.write_bytes(first.read_bytes())
    with pytest.raises(LedgerMismatchError, match=r"state.safetensors is of another run"):
        go(1, tmp_path / "b")
    state = read_state(first.read_bytes(), CPU)
    for key in ("networks", "epoch", "terms", "optimizer"):
        first.write_bytes(state_bytes({k: v for k, v in state.items() if k != key}))
        with pytest.raises(InputError, match=r"state.safetensors is damaged"):
            go(0, tmp_path / "a")


def test_a_state_of_an_older_version_is_resumed_and_replaced(tmp_path):
    def go(epochs):
        recipe = load_recipe("digits_standard", ["--training.epochs", "2"])
        data = load_split("digits", "train")
        stop = stop_after(epochs) if epochs < 2 else None
        with contextlib.suppress(Stop):
            train(recipe, data, out=tmp_path / "r", device=CPU, threads=1, progress=stop)

    go(1)
    new, old = tmp_path / "r" / STATE_FILE, tmp_path / "r" / OLD_STATE_FILE
    state = read_state(new.read_bytes(), CPU)
    torch.save(state, old)
    new.unlink()
    go(2)
    assert not old.exists()
    assert read_state(new.read_bytes(), CPU)["epoch"] == 2


def test_a_worker_ends_with_who_started_it():
    child = (
        "import os, signal\n"
        "from robustbench_lite.core.processes import end_with_parent\n"
        "end_with_parent(); print('runs', flush=True); signal.pause()\n"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "runs\n"
    process.kill()
    rest, _ = process.communicate(timeout=900)  # returns when the worker has closed the pipe
    assert rest == ""
