"""Small networks on digits, and what is done around them."""

import torch
import torch.nn.functional as F
from torch import nn

from robustbench_lite.datasets import load_split


def trained_on_digits(hidden=64):
    """A network that is right on digits and knows nothing of attacks: a second to train."""
    data = load_split("digits", "train")
    x, y = data.pixels(slice(None)), data.labels
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


class Around(nn.Module):
    """`change(base, x)`: a network with something done around it."""

    def __init__(self, base, change):
        super().__init__()
        self.base, self.change = base, change

    def forward(self, x):
        return self.change(self.base, x)
