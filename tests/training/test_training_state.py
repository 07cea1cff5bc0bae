"""The state of a training: equal states are equal bytes, and damage is found."""

import random

import pytest
import torch

from robustbench_lite.core.integrity import ChecksumError
from robustbench_lite.training.state import read_state, state_bytes

CPU = torch.device("cpu")


def state():
    return {
        "epoch": 3,
        "metrics": [{"loss": 0.1, "epoch": 1}, {"loss": float("inf"), "epoch": 2}],
        "networks": {"robust": {"b": torch.ones(2), "a": torch.arange(6.0).view(2, 3)}},
        "averaged": None,
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}, 1: {"step": torch.tensor(4.0)}},
            "param_groups": [
                {"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1], "maximize": False}
            ],
        },
        "counter": torch.tensor(2**40),
        "empty": torch.zeros(0, 3, dtype=torch.uint8),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_it_comes_back_as_it_was():
    assert same(read_state(state_bytes(state()), CPU), state())


def test_equal_states_are_equal_bytes_however_they_lie_in_memory():
    content = state_bytes(state())
    once_more = state()
    shared = torch.arange(12.0)  # a view of a larger storage, transposed
    once_more["networks"]["robust"]["a"] = shared[:6].view(2, 3).t().contiguous().t()
    assert state_bytes(once_more) == content
    assert state_bytes(read_state(content, CPU)) == content
    tied = {"a": shared, "b": shared}
    assert state_bytes(tied) == state_bytes({"a": shared.clone(), "b": shared.clone()})


def test_no_flipped_bit_and_no_cut_gives_another_state():
    content = state_bytes(state())
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert same(read_state(bytes(damaged), CPU), state()), bit
        except ChecksumError as error:
            assert "\n" not in str(error)  # noqa: PT017
    for length in random.Random(0).sample(range(len(content)), 100):
        with pytest.raises(ChecksumError):
            read_state(content[:length], CPU)


@pytest.mark.parametrize("value", [{1, 2}, b"x", {"a": object()}, {(1, 2): 3}])
def test_what_has_no_place_in_the_file_is_refused(value):
    with pytest.raises(TypeError, match="which cannot be stored|need int or str"):
        state_bytes(value)
