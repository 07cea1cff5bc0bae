"""Networks that give no gradient: attacked by queries alone, and their rows say so."""

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.flag_rules import AFTER_ATTACKS, OF_GRADIENTS
from robustbench_lite.datasets.loading import load_split
from robustbench_lite.evaluation.cost_plan import make_plan
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.leaderboard.page.page import render_page
from robustbench_lite.leaderboard.results.load import load_result
from robustbench_lite.leaderboard.table.build import build_table
from robustbench_lite.leaderboard.table.formats import render
from robustbench_lite.leaderboard.table.row import build_rows
from robustbench_lite.transfer.evaluate import evaluate_transfer

CPU = torch.device("cpu")


class Scores(nn.Module):
    """Negative squared distances to the mean image of each digit: right on nine of ten."""

    def __init__(self):
        super().__init__()
        data = load_split("digits", "train")
        pixels, labels = data.pixels(slice(None)), data.labels
        means = [pixels[labels == k].mean(dim=0) for k in range(10)]
        self.register_buffer("means", torch.stack(means).flatten(1))

    def forward(self, x):
        return -torch.cdist(x.flatten(1), self.means).square()


class NoGrad(Scores):
    """As int8 kernels and ONNX sessions: the outputs know nothing of the input."""

    def forward(self, x):
        with torch.no_grad():
            return super().forward((x * 255).round() / 255)


class Numpy(Scores):
    """As a JPEG step: numpy refuses images that want a gradient."""

    def forward(self, x):
        return super().forward(torch.from_numpy((x.numpy() * 255).round() / 255))


class Votes(Scores):
    """How many of 23 voters, each of whom sees a part of the pixels, are for a class."""

    def forward(self, x):
        x, votes = x.flatten(1), torch.zeros(len(x), 10)
        for seen in (torch.arange(64) % n == k for n in (3, 5, 7, 8) for k in range(n)):
            nearest = torch.cdist(x[:, seen], self.means[:, seen]).argmin(dim=1)
            votes += nn.functional.one_hot(nearest, 10)
        return votes


KINDS = [NoGrad, Numpy, Votes]


@pytest.fixture
def digits():
    return load_split("digits", "test")


@pytest.fixture
def black_box(tmp_path):
    """`linf_black_box` with fewer queries."""
    from robustbench_lite.attacks.protocol import protocol_files

    text = protocol_files()["linf_black_box"].read_text().replace("10000", "60")
    (tmp_path / "few.toml").write_text(text)
    return load_protocol(str(tmp_path / "few.toml"), eps="0.15")


def loaded(model):
    return LoadedModel(model, "mine", "factory", "sha256:mine", None, None, 0)


def run(model, digits, protocol, out):
    settings = Settings(batch_size=20, chunk_size=20, threads=1)
    return evaluate(
        loaded(model), digits, protocol, out=out, n=24, seed=0, settings=settings, device=CPU
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_without_gradient_is_evaluated_by_queries(kind, digits, black_box, tmp_path):
    result = run(kind(), digits, black_box, tmp_path / "r")
    clean, robust = (result[key]["correct"] for key in ("clean_accuracy", "robust_accuracy"))
    assert clean >= 20
    assert robust < clean  # Square does attack it
    assert result["attacks"]["square"]["backwards"] == 0.0
    for name, check in result["checks"].items():
        if name in OF_GRADIENTS or name in AFTER_ATTACKS[:2]:
            assert check == {"value": 0.0, "points": 0}, name
        else:
            assert check["points"] > 0, name
    assert result["status"] == "measured"


def test_its_row_says_that_there_was_no_gradient(digits, black_box, tmp_path):
    run(NoGrad(), digits, black_box, tmp_path / "r")
    result = load_result(tmp_path / "r/result.json")
    (row,) = build_rows([result])
    assert (row.rank, row.status, row.flags) == ("1", "measured", "queries only, no gradient")
    assert "  mine: measured: queries only, no gradient\n" in render(
        build_table([result]), "terminal"
    )
    page = render_page([result], title="t")
    assert page.count("no gradient</") == len(OF_GRADIENTS), "each check of gradients says so"


def test_the_row_of_a_network_with_gradients_says_that_they_were_not_used(
    digits, black_box, tmp_path
):
    result = run(Scores(), digits, black_box, tmp_path / "r")
    assert all(result["checks"][name]["points"] > 0 for name in OF_GRADIENTS)
    assert load_result(tmp_path / "r/result.json").notes == ("queries only",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", ["linf_quick", "linf_standard"])
def test_attacks_that_use_gradients_refuse_it_and_name_the_way_out(
    kind, protocol, digits, tmp_path
):
    with pytest.raises(InputError, match="gradient.*--protocol linf_black_box") as caught:
        run(kind(), digits, load_protocol(protocol, eps="0.1"), tmp_path / "r")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_the_plan_counts_no_backward(digits, black_box):
    x = digits.pixels(slice(0, 4))
    plan = make_plan(NoGrad(), black_box, x, n=4, num_classes=10)
    assert all(cost.backwards == 0 for cost in plan.costs.values())
    assert all(speed.forward == speed.both for speed in plan.speeds.values())


def test_transfer_judges_a_target_without_gradient(digits, tmp_path):
    protocol = load_protocol("linf_transfer", eps="0.15")
    found = evaluate_transfer(
        [loaded(Scores())],
        [loaded(NoGrad())],
        digits,
        protocol,
        protocol.attacks[0],
        out=tmp_path / "t",
        n=20,
        seed=0,
        pixels="float",
        batch_size=20,
        threads=1,
        device=CPU,
    )
    assert len(found["pairs"]) == 1
