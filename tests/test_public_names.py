"""The package's own names: all there, none imported before it is used."""

import subprocess
import sys

import pytest

import robustbench_lite


@pytest.mark.parametrize("name", robustbench_lite.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(robustbench_lite, name) is not None
    assert name in dir(robustbench_lite)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = robustbench_lite.evalute


def test_importing_the_package_imports_no_torch():
    code = (
        "import sys, robustbench_lite, robustbench_lite.leaderboard\n"
        "assert 'torch' not in sys.modules\n"
        "robustbench_lite.verify\n"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
