"""What fixes the bits of a run is put back afterwards."""

import pytest
import torch

from robustbench_lite.core.numerics import deterministic


@pytest.mark.parametrize("filled", [True, False])
def test_fresh_memory_is_not_filled_inside_and_the_setting_comes_back(filled):
    memory = torch.utils.deterministic
    before = memory.fill_uninitialized_memory
    try:
        memory.fill_uninitialized_memory = filled
        with deterministic(threads=1, seed=0):
            assert not memory.fill_uninitialized_memory
            assert torch.are_deterministic_algorithms_enabled()
        assert memory.fill_uninitialized_memory == filled
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        memory.fill_uninitialized_memory = before
