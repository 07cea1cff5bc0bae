"""A network small enough to be certified, on digits; its weights are kept in this package."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from robustbench_lite.selftest.networks import SIDE, conv_network

EPS = 0.1
WEIGHTS = Path(__file__).with_name("digits_network.safetensors")
GRID = 1024.0  # weights are whole multiples of 1 / 1024, kept as int16: the same on any machine


def blank_network() -> nn.Sequential:
    """A convolution and two linear layers for 8x8 digits, with weights of chance."""
    return conv_network(SIDE, maps=4, hidden=32, classes=10)


def digits_network() -> nn.Sequential:
    """The network that `benchmarks/selftest_network.py` trained, in eval mode.

    Trained on interval bounds (Gowal et al. 2018, arXiv:1810.12715), so that a program can decide
    its images. Kept rather than trained on the spot: another processor trains other weights, and
    then what is true of them, and how hard they are to attack, would be another thing each time.
    """
    with torch.random.fork_rng(devices=[]):
        network = blank_network()
    stored = load_file(WEIGHTS)
    network.load_state_dict({name: value.float() / GRID for name, value in stored.items()})
    return network.eval()
