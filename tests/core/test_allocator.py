"""Freed memory is kept: reusing it costs no page faults."""

import subprocess
import sys

import pytest

from robustbench_lite.core.allocator import keep_freed_memory

FAULTS = """
import resource
import torch
from robustbench_lite.core.allocator import keep_freed_memory

if {kept}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):  # an aligned block needs a larger one; until enough lie side by side
    torch.ones(10_000_000)  # 40 MB, more than glibc ever keeps by itself
before = faults()
for _ in range(10):
    torch.ones(10_000_000)
print(faults() - before)
"""


def faults(kept):
    code = FAULTS.format(kept=kept)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_blocks_that_were_freed_are_used_again():
    assert faults(kept=True) * 10 < faults(kept=False)
