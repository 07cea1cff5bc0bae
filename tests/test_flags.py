"""Each flag rises on a model made to trip it, and stays down on honest ones."""

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation import Settings, evaluate
from robustbench_lite.flags import FLAGS, measure_flags, raised
from robustbench_lite.leaderboard import build_table, load_result
from robustbench_lite.model_source import LoadedModel, resolve_model


class BatchStatistics(nn.Module):
    def forward(self, x):
        x = x.flatten(1)
        return ((x - x.mean(dim=0)) / (x.std(dim=0) + 0.1))[:, :10]


class Noise(nn.Module):
    def forward(self, x):
        x = x.flatten(1)[:, :10]
        return x + 0.1 * torch.randn_like(x)


class Probabilities(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10].softmax(dim=1)


class Plain(nn.Module):
    def forward(self, x):
        return 5.0 * x.flatten(1)[:, :10]


@pytest.fixture(scope="module")
def x():
    return torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (BatchStatistics(), ["batch_dependent"]),
        (Noise(), ["randomised"]),
        (Probabilities(), ["probabilities"]),
        (Plain(), []),
        (nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), Plain()), []),  # eval mode
    ],
)
def test_each_flag_rises_on_its_own_model_alone(model, expected, x):
    assert [flag["name"] for flag in raised(measure_flags(model, x))] == expected


def test_no_flag_rises_on_an_honest_network(checkpoint, x):
    model = resolve_model(str(checkpoint), allow_code=False, device="cpu").model
    values = measure_flags(model, x)
    assert raised(values) == []
    assert set(values) == {flag.name for flag in FLAGS}


def test_one_image_is_enough():
    assert raised(measure_flags(Plain(), torch.rand(1, 1, 8, 8))) == []


def test_a_raised_flag_makes_the_row_unverified_and_unranked(tmp_path):
    source = LoadedModel(Probabilities(), "p", "factory", "sha256:p", None, None, 0)
    result = evaluate(
        source,
        load_split("digits", "test"),
        load_protocol("linf_quick", eps="0.1"),
        out=tmp_path / "r",
        n=20,
        seed=0,
        settings=Settings(threads=1),
        device=torch.device("cpu"),
    )
    assert result["status"] == "unverified"
    (flag,) = result["flags"]
    assert flag["name"] == "probabilities"
    assert flag["follow_up"]
    table = build_table([load_result(tmp_path / "r")])
    assert table["status"].tolist() == ["unverified"]
    assert not str(table["rank"].iloc[0]).isdigit()
