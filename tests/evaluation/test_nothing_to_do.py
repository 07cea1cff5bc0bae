"""Lists that are empty: attacks that break nothing, networks that are never right, one class."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from submission_cases import HERE, LIMITS, edit, from_checkpoint, seal
from torch import nn

from robustbench_lite.attacks.protocol import load_protocol, protocol_files
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.cli import main
from robustbench_lite.evaluation.flags.network_checks import measure_flags
from robustbench_lite.leaderboard import load_result
from robustbench_lite.submission.entry import run
from robustbench_lite.submission.findings import render, verdict
from robustbench_lite.submission.recheck import Sample
from robustbench_lite.submission.verification import verify_entry
from robustbench_lite.verifier import verify


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(30, 5)).eval()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_verifier_takes_no_images(norm):
    none = torch.zeros(0, 1, 6, 5)
    threat = ThreatModel(norm, parse_eps("0.1"))
    found = verify(net(), none, none, torch.zeros(0).long(), threat=threat, batch_size=4, passes=3)
    for values in vars(found).values():
        assert values.shape == (0,)
    assert found.broken.dtype == torch.bool
    assert found.prediction.dtype == torch.int64
    assert found.loss.dtype == torch.float64


@pytest.mark.parametrize("name", protocol_files())
def test_every_attack_takes_no_images(name):
    protocol = load_protocol(name, eps="0.1")
    none = torch.zeros(0, 1, 6, 5)
    for spec in protocol.attacks:
        found = run_attack(
            spec,
            net(),
            none,
            torch.zeros(0).long(),
            threat=protocol.threat,
            ids=torch.zeros(0).long(),
            seed=0,
            batch_size=4,
            passes=protocol.passes,
        )
        assert found.shape == none.shape


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("n", [1, 3])
def test_the_flags_of_a_network_that_is_never_right(norm, n):
    model, x = net(), torch.rand(n, 1, 6, 5)
    wrong = (model(x).argmax(dim=1) + 1) % 5
    threat = ThreatModel(norm, parse_eps("0.1"))
    found = measure_flags(model, x, wrong, threat=threat, seed=0, batch_size=2, passes=1)
    json.dumps(found.as_dict(), allow_nan=False)
    assert found.crafted_broken == ()


def verified(folder):
    """Write the entry of a submission, claim what it measured, and verify it."""
    options = {"allow_code": False, "limits": LIMITS}
    result = load_result(run(folder, HERE, seed=0, **options))
    edit(folder, "clean_accuracy", 100 * result.clean_accuracy.value)
    edit(folder, "robust_accuracy", 100 * result.robust_accuracy.value)
    run(folder, HERE, seed=0, **options)
    found = verify_entry(folder / "entry", folder, HERE, Sample(k=3, seed=1), **options)
    assert verdict(found) != "refused", render(found)
    return result, render(found)


def test_an_entry_in_which_no_attack_breaks_anything_is_verified(tmp_path, checkpoint):
    folder = from_checkpoint(tmp_path / "mine", checkpoint, clean=0.0, robust=0.0)
    edit(folder, "eps", '"1/999999"')
    result, text = verified(folder)
    assert result.robust_accuracy.correct == result.clean_accuracy.correct > 0
    assert "0 adversarial images of pgd20_ce hold" in text


def test_an_entry_of_a_network_that_is_never_right_is_verified(tmp_path, checkpoint):
    folder = from_checkpoint(tmp_path / "mine", checkpoint, clean=0.0, robust=0.0)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.startswith("head") or len(tensor) == 10:
            tensors[name] = torch.zeros_like(tensor)
            if tensor.dim() == 1:
                tensors[name][8] = 1.0  # an 8, whatever the image; the claims are of other images
    save_file(tensors, path)
    seal(folder)
    edit(folder, "examples", 4)
    result, text = verified(folder)
    assert result.clean_accuracy.correct == 0
    assert "0 claimed-robust examples" in text


ONE_CLASS = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return torch.stack([x.flatten(1).sum(1) * 0 + (k == {k}) for k in range(10)], dim=1)

def build():
    return Net()
"""


@pytest.mark.parametrize("protocol", ["linf_quick", "linf_standard", "l2_standard", "l1_quick"])
def test_a_network_that_says_one_class_goes_through_every_command(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(ONE_CLASS.format(k=8))  # digits: no 8 among the first images
    model = ["--allow-code", "--dataset", "digits", "--threads", "1"]
    if protocol == "linf_quick":
        assert (
            main(
                [
                    *("transfer", "--source", "net.py:build", "--target", "net.py:build"),
                    *("--protocol", protocol, "--attack", "pgd20_ce", "--eps", "0.1", "--n", "1"),
                    *model,
                ]
            )
            == 0
        )
    command = ["evaluate", "--model", "net.py:build", "--protocol", protocol, "--eps", "0.1"]
    assert main([*command, "--n", "1", "--evidence", "int8", *model]) == 0
    for arguments in (
        ["leaderboard", "results", "--format", "html", "--out", "page.html"],
        ["leaderboard", "results"],
        ["compare", *(str(path.parent) for path in Path("results").rglob("result.json"))],
        ["classes", *(str(path.parent) for path in Path("results").rglob("result.json"))],
    ):
        assert main(arguments) in (0, 2), arguments
