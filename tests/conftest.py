"""Shared by all tests: threads, order, quiet hypothesis, small networks with known answers."""

import dataclasses
import json
import os
import random
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from robustbench_lite.attacks.contract import RunTerms

# The same examples for everybody; in random order (`make test-hard`) new ones each time.
settings.register_profile(
    "same",
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
settings.register_profile("new", settings.get_profile("same"), derandomize=False)

# A shell lets its background jobs ignore Ctrl-C, and `nohup` SIGHUP. What tests start would inherit
# that; a function of ours in its place is not inherited.
for _signal in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda *_: None)

THREADS = os.environ.get("RBL_TEST_THREADS", "1")  # `make test-hard` also takes 2


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    os.environ["OMP_NUM_THREADS"] = THREADS  # for the processes that tests start
    torch.set_num_threads(int(THREADS))


def pytest_addoption(parser):
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in random order")


def pytest_configure(config):
    settings.load_profile("same" if config.getoption("shuffle") is None else "new")


def shuffled(items, seed):
    """Files in random order, and the tests of each: one file at a time, as its fixtures want."""
    draws, files = random.Random(seed), {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    groups = list(files.values())
    for group in [groups, *groups]:
        draws.shuffle(group)
    return [item for group in groups for item in group]


def pytest_collection_modifyitems(config, items):
    if (seed := config.getoption("shuffle")) is not None:
        items[:] = shuffled(items, seed)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch sees none here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


class LinearBinary(nn.Module):
    """Logits [0, w.x + b]: exact robust accuracy in closed form at every eps.

    The box is kept out of the way by keeping x inside [0.3, 0.7] and eps below 0.3.
    """

    def __init__(self, weight, bias):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, x):
        score = x.flatten(1) @ self.weight.to(x.dtype) + self.bias.to(x.dtype)
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture
def linear():
    """A linear classifier, 40 images (1, 3, 4) inside [0.3, 0.7], labels by the classifier."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, generator=generator)
    x = 0.3 + 0.4 * torch.rand(40, 1, 3, 4, generator=generator)
    score = x.flatten(1) @ weight
    bias = -score.median()
    model = LinearBinary(weight, bias).eval()
    y = (score + bias > 0).long()
    return model, x, y


def small_net(classes=5, channels=2, seed=0):
    """A little ReLU network with BatchNorm and Dropout: what attacks must leave as it was."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 6 * 5, classes),
    )
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2.0)
    return net


def as_function(kind, stream):
    """An attack as a function of its parameters and of the terms of a run, all by keyword."""
    names = [field.name for field in dataclasses.fields(kind)]

    def attack(model, x, y, **given):
        parameters = {name: given.pop(name) for name in names if name in given}
        terms = {"norm": "Linf", "eps": 0.0, "batch_size": max(1, len(x)), "stream": stream}
        return kind(**parameters)(model, x, y, RunTerms(**terms | given))

    return attack


@pytest.fixture
def net():
    return small_net()


@pytest.fixture
def images():
    """Images (7, 2, 6, 5), a few pixels exactly 0 or 1, and labels of 5 classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(7, 2, 6, 5, generator=generator)
    x[:, :, 0] = 0.0
    x[:, :, 1] = 1.0
    return x, torch.randint(0, 5, (7,), generator=generator)


def reseal(folder):
    """Make the hash of the weights and the checksum of a card right again, after an edit."""
    from robustbench_lite.core.integrity import file_sha256, with_checksum

    card = json.loads((folder / "card.json").read_text())
    card["weights_sha256"] = file_sha256(folder / "model.safetensors")
    (folder / "card.json").write_text(with_checksum(card))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A `pgd_at` network on digits after two epochs: seconds to train, right most of the time."""
    from robustbench_lite.datasets import load_split
    from robustbench_lite.training.loop import train
    from robustbench_lite.training.recipe import load_recipe

    overrides = ["--training.epochs", "2", "--defense.crafting.steps", "2"]
    out = tmp_path_factory.mktemp("trained") / "run"
    return train(
        load_recipe("digits_pgd_at", overrides),
        load_split("digits", "train"),
        out=out,
        device=torch.device("cpu"),
        threads=1,
    )
