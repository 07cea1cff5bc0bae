"""`rbl models check`: what one batch shows of a network."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_lite.cli import main

NET = """
import torch
from torch import nn
def load():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
class NoGradient(nn.Module):
    def forward(self, x):
        return x.detach().flatten(1)[:, :10]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """The printed lines: what -> its value."""
    assert main(["models", "check", "--allow-code", "--device", "cpu", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:10].strip(): line[12:] for line in lines}


def test_a_factory_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    found = checked(capsys, "--model", "net.py:load", "--dataset", "digits", "--batch-size", "4")
    assert found["images"] == "(4, 1, 8, 8) in [0, 1], digits"
    assert (found["logits"], found["classes"]) == ("(4, 10) float32", "10")
    assert (found["parameters"], found["device"], found["gradient"]) == ("650", "cpu", "yes")
    assert found["name"] == "net.py:load"
    assert found["hash"].startswith("sha256:")
    assert found["time"].endswith("ms a batch")


def test_noise_of_a_given_size_and_no_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    found = checked(capsys, "--model", "net.py:NoGradient", "--shape", "3x4x5")
    assert found["images"] == "(8, 3, 4, 5) in [0, 1], noise"
    assert found["gradient"].startswith("no: ")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_source_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    torch.jit.save(torch.jit.script(network), "net.pt")
    found = checked(capsys, "--model", "torchscript:net.pt", "--shape", "3x2x2")
    assert (found["name"], found["parameters"]) == ("torchscript:net.pt", "39")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "net.py:load"], "does not say which images it takes: add --shape CxHxW"),
        (["--model", "net.py:load", "--shape", "8x8"], "--shape 8x8 must be CxHxW"),
        (["--model", "net.py:load", "--shape", "1x8x8", "--dataset", "digits"], "either --dataset"),
        (["--model", "net.py:load", "--shape", "3x8x8"], "fails on images of shape (8, 3, 8, 8)"),
        (["--model", "net.py:load", "--shape", "1x8x8", "--batch-size", "0"], "at least 1"),
        ([], "give either a CHECKPOINT folder or --model SOURCE"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "check", "--allow-code", "--device", "cpu", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
