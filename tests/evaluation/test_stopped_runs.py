"""Whole runs that are stopped: one line, finished parts kept, nothing left, and they resume."""

import os
import signal

import pytest
from submission_cases import CODE, with_code
from test_stopping import RESUME, SAYS, code_of, left_in, rbl

pytestmark = pytest.mark.slow

TRAIN = ["train", "digits_standard", "--threads", "1", "--training.epochs", "2"]
TRAIN += ["--validation.every", "1", "--out", "run"]
EVALUATE = ["--protocol", "linf_quick", "--eps", "0.1", "--n", "60", "--threads", "1"]
EVALUATE += ["--chunk-size", "15", "--batch-size", "15", "--out"]
PARTS = 4 * 3  # chunks, attacks


def parts(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("parts/*/*")}


def files(folder, names=("result.json", "examples.parquet", "header.json")):
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert rbl(["evaluate", checkpoint, *EVALUATE, "whole"], folder) == (0, "")
    return folder / "whole"


@pytest.mark.parametrize("name", SAYS)
def test_a_stopped_evaluation_keeps_its_parts_and_resumes(checkpoint, whole, tmp_path, name):
    command = ["evaluate", checkpoint, *EVALUATE, "r"]
    stopped = rbl(command, tmp_path, at="replace .parquet 6", by=name)
    assert stopped == (code_of(name), f"{SAYS[name]}; {RESUME}\n")
    assert left_in(tmp_path) == []
    kept = parts(tmp_path / "r")
    assert len(kept) == 5, "the sixth was about to get its name"
    assert rbl(command, tmp_path) == (0, "")
    assert parts(tmp_path / "r") == parts(whole)
    assert kept.items() <= parts(whole).items()
    assert files(tmp_path / "r") == files(whole)


@pytest.mark.parametrize("at", ["fsync 2", "fsync 7", "replace state.safetensors 2"])
def test_a_stopped_training_leaves_nothing_half_done_and_resumes(tmp_path, at):
    stopped = rbl(TRAIN, tmp_path, at=at, by="SIGTERM")
    assert stopped == (143, f"{SAYS['SIGTERM']}; {RESUME}\n")
    assert left_in(tmp_path) == []
    assert rbl(TRAIN, tmp_path) == (0, "")
    assert (tmp_path / "run/last/model.safetensors").exists()


@pytest.mark.parametrize("command", ["demo", "reproduce results_cpu_digits --scale quick"])
def test_commands_that_do_several_things_stop_too(tmp_path, command):
    stopped = rbl(command.split(), tmp_path, at="fsync 5", by="SIGTERM")
    assert stopped == (143, f"{SAYS['SIGTERM']}; {RESUME}\n")
    assert left_in(tmp_path) == []


# -- workers: both hold the pipe of stderr, so its end is theirs -----------------------------------


def stopped_workers(checkpoint, folder, **stop):
    """Exit code and stderr of two workers, the first of which stops something; `stop` is of `rbl`.

    The other holds its first part back until the first is gone: else it might do all of them.
    """
    os.mkfifo(folder / "pipe")
    pipe = {"pipe": str(folder / "pipe")} if stop["at"].startswith("replace") else {}
    command = ["evaluate", checkpoint, *EVALUATE, "r", "--workers", "2"]
    return rbl(command, folder, rank="0", **pipe, **stop)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("SIGINT", "import numpy"),
        ("SIGINT", "import torch.nn"),
        ("SIGINT", "replace .parquet 2"),
        ("SIGTERM", "replace .parquet 2"),
        ("SIGHUP", "import torch.nn"),
    ],
)
def test_a_stop_of_the_whole_group_is_one_line(checkpoint, tmp_path, name, at):
    """As a terminal's Ctrl-C: to the command and to its workers."""
    stopped = stopped_workers(checkpoint, tmp_path, at=at, by=name, who="group")
    assert stopped == (code_of(name), f"{SAYS[name]}; {RESUME}\n")
    assert left_in(tmp_path) == []


def test_a_stop_of_the_command_stops_its_workers(checkpoint, whole, tmp_path):
    command = ["evaluate", checkpoint, *EVALUATE, "r", "--workers", "2"]
    stopped = stopped_workers(
        checkpoint, tmp_path, at="replace .parquet 2", by="SIGTERM", who="parent"
    )
    assert stopped == (143, f"{SAYS['SIGTERM']}; {RESUME}\n")
    assert left_in(tmp_path) == []
    assert rbl(command, tmp_path) == (0, "")
    assert parts(tmp_path / "r") == parts(whole)
    assert files(tmp_path / "r") == files(whole)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("SIGINT", "import numpy"),
        ("SIGTERM", "replace .parquet 2"),
        ("SIGKILL", "replace .parquet 2"),
    ],
)
def test_a_stop_of_one_worker_is_one_line_of_the_command(checkpoint, tmp_path, name, at):
    code, err = stopped_workers(checkpoint, tmp_path, at=at, by=name)
    assert code == 2
    assert err == (
        f"rbl: error: worker 0 of 2 was killed by {name}; finished parts are kept: {RESUME}\n"
    )
    if name != "SIGKILL":  # which leaves no time to remove anything
        assert left_in(tmp_path) == []


@pytest.mark.parametrize("at", ["import numpy", "replace .parquet 2"])
def test_workers_go_with_a_command_that_was_killed(checkpoint, tmp_path, at):
    stopped = stopped_workers(checkpoint, tmp_path, at=at, by="SIGKILL", who="parent")
    assert stopped == (-signal.SIGKILL, "")


def test_torchruns_workers_say_nothing(checkpoint, tmp_path):
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    command = ["evaluate", checkpoint, *EVALUATE, "r"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.items():
            patch.setenv(name, value)
        assert rbl(command, tmp_path, at="import torch.nn", by="SIGINT") == (130, "")


# -- the process of submitted code ---------------------------------------------------------------

# It stops the command, and goes on until somebody ends it.
STOPPING = """
import os, signal, subprocess, sys
{act}
os.kill(os.getppid(), signal.{name})
while True: signal.pause()
"""


def submission(folder, name, act=""):
    return with_code(folder / "mine", CODE + STOPPING.format(name=name, act=act))


@pytest.mark.parametrize(
    ("name", "step"), [("SIGINT", "check"), ("SIGTERM", "run"), ("SIGHUP", "check")]
)
def test_a_stopped_submission_leaves_neither_process_nor_folder(tmp_path, name, step):
    command = ["submit", step, submission(tmp_path, name), "--allow-code"]
    resume = f"; {RESUME}" if step == "run" else ""
    assert rbl(command, tmp_path) == (code_of(name), f"{SAYS[name]}{resume}\n")
    assert left_in(tmp_path) == []


def test_submitted_code_goes_with_a_command_that_was_killed(tmp_path):
    command = ["submit", "check", submission(tmp_path, "SIGKILL"), "--allow-code"]
    assert rbl(command, tmp_path) == (-signal.SIGKILL, "")


def test_what_submitted_code_started_goes_too_also_when_it_ignores_signals(tmp_path):
    child = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    act = f"subprocess.Popen([sys.executable, '-c', {child!r}], stdout=sys.stderr)"
    command = ["submit", "check", submission(tmp_path, "SIGINT", act), "--allow-code"]
    assert rbl(command, tmp_path) == (130, "rbl: interrupted\n")
    assert left_in(tmp_path) == []


def test_a_stopped_run_of_a_submission_leaves_no_temporary_file_in_its_evaluation(tmp_path):
    """The process of submitted code writes the parts; the signal comes while it writes one."""
    act = "import os\n_replace = os.replace\ndef replace(*a):\n"
    act += "    if '.parquet' in str(a[-1]): os.kill(os.getppid(), signal.SIGTERM)\n"
    act += "    if '.parquet' in str(a[-1]): signal.pause()\n    _replace(*a)\nos.replace = replace"
    code = f"{CODE}\nimport signal\n{act}\n"
    folder = with_code(tmp_path / "mine", code)
    stopped = rbl(["submit", "run", folder, "--allow-code"], tmp_path)
    assert stopped == (143, f"{SAYS['SIGTERM']}; {RESUME}\n")
    assert (folder / "evaluation").is_dir()
    assert left_in(tmp_path) == []
