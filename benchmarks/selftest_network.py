"""Train the network that `rbl selftest` keeps, and write its weights.

    python benchmarks/selftest_network.py [--seed 0] [--out FILE]

Another processor trains other last bits, so another network of the same kind.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_lite.core.random_numbers import seeded
from robustbench_lite.datasets import load_split
from robustbench_lite.selftest.digits_network import GRID, WEIGHTS, blank_network

_STEPS, _BATCH = 400, 128
_WARM = 250  # steps over which the radius grows
_TRAINED_AT = 0.12  # above the radius of the self-test, so that the bounds have some to spare


def trained_network(seed: int) -> nn.Sequential:
    """The small network trained on interval bounds (Gowal et al. 2018), about 90 % right.

    Args:
        seed: of the weights and of the order of the images.

    Cost:
        400 steps of 128 images of 8x8: about 3 seconds on a core.
    """
    data = load_split("digits", "train")
    images, labels = data.pixels(slice(None)), data.labels
    with torch.random.fork_rng(devices=[]), seeded(seed):
        network = blank_network()
        optimiser = torch.optim.Adam(network.parameters(), lr=0.005)
        for step in range(_STEPS):
            rows = torch.randint(len(images), (_BATCH,))
            share = min(1.0, step / _WARM)
            x, y = images[rows], labels[rows]
            clean = nn.functional.cross_entropy(network(x), y)
            worst = nn.functional.cross_entropy(_worst(network, x, y, _TRAINED_AT * share), y)
            optimiser.zero_grad()
            loss = (1.0 - 0.5 * share) * clean + 0.5 * share * worst
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step == int(0.8 * _STEPS):
                optimiser.param_groups[0]["lr"] *= 0.1
    return network.eval()


def _worst(network: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Interval bounds of the logits (B, K): below for the label, above for the others."""
    middle, radius = x, torch.full_like(x, eps)
    for module in network:
        middle = module(middle) if not isinstance(module, nn.ReLU) else middle
        if isinstance(module, nn.Conv2d):
            size = module.weight.abs()
            radius = nn.functional.conv2d(radius, size, None, module.stride, (1, 1))
        elif isinstance(module, nn.Linear):
            radius = nn.functional.linear(radius, module.weight.abs())
        elif isinstance(module, nn.ReLU):
            low, high = (middle - radius).relu(), (middle + radius).relu()
            middle, radius = 0.5 * (high + low), 0.5 * (high - low)
        else:
            radius = module(radius)
    return (middle + radius).scatter(1, y[:, None], (middle - radius).gather(1, y[:, None]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of weights and order of the images")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="(default: %(default)s)")
    options = parser.parse_args()
    weights = trained_network(options.seed).state_dict()
    grid = {name: (value * GRID).round().to(torch.int16) for name, value in weights.items()}
    save_file(grid, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
