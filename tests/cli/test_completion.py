"""Shell completion: what the shell is answered, in a process of its own as a shell starts it."""

import os
import subprocess
import sys

import pytest

PROGRAM = "import sys; sys.argv[0] = 'rbl'; from robustbench_lite.__main__ import main; main()"


def completed(line, tmp_path):
    """What completes a line, by the answer that argcomplete writes to a file."""
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_IFS": "\n",
    }
    subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **asked}, check=False)
    return answer.read_text().split()


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("rbl ev", ["evaluate"], ["train"]),
        ("rbl evaluate x --protocol linf_", ["linf_quick", "linf_standard"], ["aa_plus"]),
        ("rbl evaluate x --ev", ["--evidence"], ["--eps"]),
        ("rbl evaluate x --evidence ", ["int8", "float32"], ["linf_quick"]),
        ("rbl train digits_tr", ["digits_trades"], ["mnist_trades"]),
        ("rbl list ", ["recipes", "models"], ["recipe"]),
        ("rbl show protocol l2_", ["l2_standard"], ["linf_quick"]),
        ("rbl show model wrn", ["wrn28_10", "wrn34_10"], ["resnet18"]),
        ("rbl train digits_trades --log ten", ["tensorboard"], ["aim"]),
    ],
)
def test_a_shell_is_answered(line, some, none, tmp_path):
    pytest.importorskip("argcomplete", reason="shell completion is an optional extra")
    answer = completed(line, tmp_path)
    assert set(some) <= set(answer)
    assert not set(none) & set(answer)


def test_an_ordinary_call_imports_nothing_for_it():
    code = (
        "import sys; from robustbench_lite.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'argcomplete', 'robustbench_lite.cli.completion'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
