"""Ctrl-C, SIGTERM and SIGHUP: one line, nothing left behind, the exit code that shells expect.

No test waits by time: `stop_hook` signals at a chosen point, and a timeout only ends a hang.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from robustbench_lite.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
RESUME = "run the same command again to resume"
SAYS = {
    "SIGINT": "rbl: interrupted",
    "SIGTERM": "rbl: stopped by SIGTERM",
    "SIGHUP": "rbl: stopped by SIGHUP",
}
TIMEOUT = 900  # of a hang, not of a test


def run(command, folder, *, before=None, **stop):
    """Exit code and stderr of a process and all it started: each of them holds the pipe."""
    paths = [str(REPOSITORY / "tests" / "stop_hook"), str(REPOSITORY)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment |= {f"STOP_{name.upper()}": value for name, value in stop.items()}
    environment["TMPDIR"] = str(folder / "tmp")
    (folder / "tmp").mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a signal to its group is not one to ours
        preexec_fn=before,
    ) as process:
        try:
            _, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, err


def rbl(arguments, folder, **stop):
    return run(["-m", "robustbench_lite", *map(str, arguments)], folder, **stop)


def left_in(folder):
    """Names of temporary files and folders anywhere below."""
    found = [path for path in folder.rglob("*") if ".tmp" in path.name]
    found += (folder / "tmp").iterdir()
    # A cache that torch may make for itself, in every program that imports it; it is meant to stay.
    return [str(path) for path in found if not path.name.startswith("torchinductor_")]


def code_of(name):
    return 128 + signal.Signals[name]


# -- before the command has begun ----------------------------------------------------------------


@pytest.mark.parametrize("module", ["robustbench_lite.cli", "argparse"])
@pytest.mark.parametrize("name", SAYS)
def test_a_stop_while_the_command_line_is_imported_is_one_line(tmp_path, module, name):
    stopped = rbl(["list", "attacks"], tmp_path, at=f"import {module}", by=name)
    assert stopped == (code_of(name), f"{SAYS[name]}\n")


def test_ctrl_c_before_the_handler_is_there_waits_for_it(tmp_path):
    stopped = rbl(["list", "attacks"], tmp_path, at="import signal", by="SIGINT")
    assert stopped == (130, "rbl: interrupted\n")


@pytest.mark.parametrize("module", ["numpy", "numpy._core.multiarray", "torch", "torch.nn"])
def test_ctrl_c_while_torch_is_imported_is_one_line(tmp_path, module):
    stopped = rbl(["train", "digits_standard"], tmp_path, at=f"import {module}", by="SIGINT")
    assert stopped == (130, f"rbl: interrupted; {RESUME}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


def test_only_commands_that_resume_say_so(tmp_path):
    command = ["import", "x.pt", "--arch", "small_cnn", "--dataset", "digits"]
    command += ["--normalization", "none", "--out", "o"]
    assert rbl(command, tmp_path, at="import torch", by="SIGTERM") == (143, f"{SAYS['SIGTERM']}\n")


@pytest.mark.parametrize("name", SAYS)
def test_a_signal_that_was_ignored_stays_ignored(tmp_path, name):
    """As `nohup` does for SIGHUP, and shells for SIGINT to a command in the background."""
    code, err = rbl(
        ["list", "attacks"],
        tmp_path,
        at="import argparse",
        by=name,
        before=lambda: signal.signal(signal.Signals[name], signal.SIG_IGN),
    )
    assert (code, err) == (0, "")


def test_a_library_installs_no_handlers(capsys):
    before = [signal.getsignal(signal.Signals[name]) for name in SAYS]
    assert main(["list", "attacks"]) == 0
    assert [signal.getsignal(signal.Signals[name]) for name in SAYS] == before
    code = (
        "import signal, robustbench_lite, robustbench_lite.cli, robustbench_lite.core.stopping\n"
        "import robustbench_lite.__main__\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_the_installed_commands_begin_with_the_light_module():
    text = (REPOSITORY / "setup.cfg").read_text()
    assert text.count("= robustbench_lite.__main__:main\n") == 2


# -- what is left behind -------------------------------------------------------------------------

SETUP = """
import os, signal, subprocess, sys
from pathlib import Path
from robustbench_lite.core import stopping
from robustbench_lite.core.stopping import *
from robustbench_lite.core.folder_swap import staging_folder
from robustbench_lite.core.storage import write_atomically
stopping.catch_signals(quiet=False)
def stop(): os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    "body",
    [
        "write_atomically(Path('file'), lambda path: (path.write_text('half'), stop()))",
        "staged = staging_folder(Path('target')); staged.mkdir()\n"
        "(staged / 'file').write_text('half'); stop()",
        "with temporary_folder('rbl-submission-') as folder:\n"
        "    Path(folder, 'file').write_text('half'); stop()",
        "with temporary_path('.a.tmp'):\n    stop()  # before it exists",
    ],
)
def test_no_temporary_file_stays(tmp_path, body):
    stopped = run(["-c", f"{SETUP}\n{body}\nprint('went on')"], tmp_path)
    assert stopped == (143, "rbl: stopped by SIGTERM\n")
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert left_in(tmp_path) == []


def test_what_swallows_exceptions_does_not_swallow_a_stop(tmp_path):
    body = "try:\n    stop()\nexcept BaseException:\n    pass\nPath('went_on').touch()"
    assert run(["-c", f"{SETUP}\n{body}"], tmp_path)[0] == 143
    assert not (tmp_path / "went_on").exists()


def test_a_stop_waits_for_a_block_that_must_be_done_whole(tmp_path):
    body = (
        "with held():\n    with held():\n        stop()\n    Path('whole').touch()\n"
        "Path('went_on').touch()"
    )
    assert run(["-c", f"{SETUP}\n{body}"], tmp_path)[0] == 143
    assert (tmp_path / "whole").exists()
    assert not (tmp_path / "went_on").exists()


def test_a_second_signal_does_not_disturb_the_first(tmp_path):
    body = (
        "import robustbench_lite.core.stopping as s\n"
        "def again(path): os.kill(os.getpid(), signal.SIGINT)\n"
        "remove_when_stopped('x'); s._STOP.removals['x'] = again\n"
        "with temporary_path('.a.tmp'):\n    Path('.a.tmp').touch(); stop()"
    )
    assert run(["-c", f"{SETUP}\n{body}"], tmp_path) == (143, "rbl: stopped by SIGTERM\n")
    assert left_in(tmp_path) == []


# -- children ------------------------------------------------------------------------------------

# A child that leaves a temporary file unless it is ended well; then its parent is signalled.
CHILD = """
import os, signal, sys
from pathlib import Path
from robustbench_lite.core.stopping import catch_signals, temporary_path
from robustbench_lite.core.processes import end_with_parent
catch_signals(quiet=True)
end_with_parent()
with temporary_path(".child.tmp"):
    Path(".child.tmp").touch()
    os.kill(os.getppid(), signal.Signals[sys.argv[1]])
    while True: signal.pause()
"""
PARENT = f"""
{SETUP}
from robustbench_lite.core.processes import of_this_parent
with held():
    child = subprocess.Popen(
        [sys.executable, "-c", {CHILD!r}, sys.argv[1]],
        env=of_this_parent(os.environ), start_new_session=sys.argv[2] == "group",
    )
    add_child(child.pid, group=sys.argv[2] == "group")
child.wait()
"""


@pytest.mark.parametrize("group", ["group", "alone"])
def test_a_child_is_ended_well_and_says_nothing(tmp_path, group):
    stopped = run(["-c", PARENT, "SIGTERM", group], tmp_path)
    assert stopped == (143, "rbl: stopped by SIGTERM\n")
    assert left_in(tmp_path) == []


def test_a_child_goes_with_a_parent_that_was_killed(tmp_path):
    assert run(["-c", PARENT, "SIGKILL", "alone"], tmp_path) == (-signal.SIGKILL, "")


def test_a_child_whose_parent_ended_before_it_looked_goes_too(tmp_path):
    """Its parent is another process than the one that its environment names."""
    code = (
        "import os; os.environ['ROBUSTBENCH_LITE_PARENT'] = '1'\n"
        "from robustbench_lite.core.processes import end_with_parent\n"
        "end_with_parent(); print('went on')"
    )
    assert run(["-c", code], tmp_path) == (1, "")


def test_signals_that_came_while_a_child_started_are_not_lost(tmp_path):
    """Python itself would answer Ctrl-C with a traceback before its first line."""
    code = f"""{SETUP}
child = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('starts', flush=True)\\n"
child += "from robustbench_lite.core.stopping import catch_signals; catch_signals(quiet=True)\\n"
child += "print('went on', flush=True)"
with held():
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
assert (done.returncode, done.stdout, done.stderr) == (130, "starts\\n", ""), done
"""
    assert run(["-c", code], tmp_path) == (0, "")
