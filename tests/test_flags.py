"""Each flag rises on a model made to trip it, and stays down on honest ones."""

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.datasets import load_split
from robustbench_lite.errors import InputError
from robustbench_lite.evaluation import Settings, evaluate
from robustbench_lite.flags import FLAGS, MEASURED, measure_flags, raised
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


def up(values):
    return [flag["name"] for flag in raised(values | {"outside_ball": 0.0})]


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
    assert up(measure_flags(model, x)) == expected


def test_no_flag_rises_on_an_honest_network(checkpoint, x):
    model = resolve_model(str(checkpoint), allow_code=False, device="cpu").model
    values = measure_flags(model, x)
    assert up(values) == []
    assert set(values) == set(MEASURED)
    assert {flag.name for flag in FLAGS} == {*MEASURED, "outside_ball"}


def test_one_image_is_enough():
    assert up(measure_flags(Plain(), torch.rand(1, 1, 8, 8))) == []


def test_nan_logits_are_an_error(x):
    class Nan(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] + torch.where(x.flatten(1)[:, :1] >= 1.0, torch.nan, 0.0)

    with pytest.raises(InputError, match="NaN or infinite logits on one of the first 64"):
        measure_flags(Nan(), x.index_fill(0, torch.tensor([40]), 1.0))


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


def test_an_attack_of_another_norm_raises_outside_ball(tmp_path, checkpoint):
    """torchattacks' PGD is an Linf attack: in an L2 protocol its images are far outside."""
    path = tmp_path / "wrong.toml"
    path.write_text(
        'id = "wrong"\nversion = 1\nnorm = "L2"\nengine = "ours"\nsummary = ""\npasses = 1\n'
        '[[attacks]]\nname = "a"\ntitle = "A"\nattack = "torchattacks:PGD"\n'
        "alpha = 0.2\nsteps = 5\n"
    )
    result = evaluate(
        resolve_model(str(checkpoint), allow_code=False, device="cpu"),
        load_split("digits", "test"),
        load_protocol(str(path), eps="0.5"),
        out=tmp_path / "r",
        n=40,
        seed=0,
        settings=Settings(threads=1),
        device=torch.device("cpu"),
    )
    assert result["robust_accuracy"] == result["clean_accuracy"]
    assert [flag["name"] for flag in result["flags"]] == ["outside_ball"]
    assert result["status"] == "unverified"
