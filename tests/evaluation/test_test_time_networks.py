"""Networks that optimise at test time: evaluated as they are, or refused in one line."""

import json

import pytest
import torch
import torch.nn.functional as F
from test_flags import Around, names, purified, run
from torch import nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.header import Header
from robustbench_lite.evaluation.ledger import Ledger


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "test")


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


class TrainsItself(nn.Module):
    """A step on the entropy of its own predictions in every forward pass, through `x` too."""

    def __init__(self, base, lr):
        super().__init__()
        self.base, self.lr = base, lr

    def forward(self, x):
        with torch.enable_grad():
            z = x.detach().requires_grad_(True)
            p = self.base(z).softmax(dim=1)
            (-(p * p.log()).sum()).backward()
        with torch.no_grad():
            for weight in self.base.parameters():
                if weight.grad is not None:  # as an optimizer does: frozen weights are left out
                    weight -= self.lr * weight.grad
                    weight.grad = None
        return self.base(x)


def clean_rows(folder):
    header = json.loads((folder / "header.json").read_text())
    groups = ("identity", "settings", "environment", "about")
    return Ledger(folder, Header(*(header[name] for name in groups))).read_part("clean", 0)


def test_an_optimising_network_is_evaluated_as_it_is_and_flagged(base, digits, tmp_path):
    model = Around(base, purified)
    with torch.no_grad():
        logits = model(digits.pixels(slice(0, 40)))
    assert not torch.allclose(logits, base(digits.pixels(slice(0, 40))), atol=1e-3)
    result = run(model, digits, tmp_path / "r", n=40)
    assert "test_time_optimisation" in names(result)
    rows = clean_rows(tmp_path / "r")
    assert rows["prediction"].tolist() == logits.argmax(dim=1).tolist()
    loss = F.cross_entropy(logits.double(), digits.labels[:40], reduction="none")
    assert rows["loss"].tolist() == pytest.approx(loss.tolist(), abs=1e-6)


@pytest.mark.parametrize("lr", [0.1, 1e-4])
def test_a_network_that_trains_its_weights_is_refused_and_left_as_it_was(
    lr, base, digits, tmp_path
):
    before = {name: value.clone() for name, value in base.state_dict().items()}
    with pytest.raises(InputError, match="trains its own weights in forward") as caught:
        run(TrainsItself(base, lr), digits, tmp_path / "r", n=20)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())


def test_a_randomised_network_is_not_taken_for_one_that_trains(base, digits, tmp_path):
    noisy = Around(base, lambda base, x: base(x + 0.05 * torch.randn_like(x)))
    assert "randomised" in names(run(noisy, digits, tmp_path / "r", n=20))
