"""Networks with habits: an own `train()`, lazy layers, weights made in inference mode."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.model_checks import check_attackable

QUICK = load_protocol("linf_quick", eps="0.1")
HEAD = "import torch\nfrom torch import nn\n"
TRAIN = """
class Net(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.training = False
def load():
    return Net(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 10))
"""
MOVED = """
class Net(nn.Sequential):
    def to(self, *args, **kwargs):
        super().to(*args, **kwargs)
def load():
    return Net(nn.Flatten(), nn.Linear(64, 10))
"""
LAZY = "def load():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))\n"
INFERENCE = """
@torch.inference_mode()
def load():
    linear = nn.Linear(64, 64)
    norm = nn.BatchNorm2d(1)
    return nn.Sequential(norm, nn.Flatten(), linear, linear)
"""


def resolve(folder: Path, code: str) -> LoadedModel:
    (folder / "net.py").write_text(HEAD + code)
    return resolve_model(f"{folder}/net.py:load", allow_code=True, device="cpu")


@pytest.mark.parametrize("code", [TRAIN, MOVED])
def test_methods_that_return_nothing_are_forgiven(code: str, tmp_path: Path) -> None:
    loaded = resolve(tmp_path, code)
    assert not loaded.model.training
    assert not any(part.training for part in loaded.model.modules())
    check_attackable(loaded.model, load_split("digits", "test"), QUICK.attacks)


def test_lazy_layers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lazy layer without weights \(1\): run one batch"):
        resolve(tmp_path, LAZY)


def test_weights_of_inference_mode_are_replaced(tmp_path: Path) -> None:
    loaded = resolve(tmp_path, INFERENCE)
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    loaded.model(images).sum().backward()
    assert images.grad is not None
    assert not any(p.is_inference() for p in loaded.model.state_dict().values())
    assert loaded.parameters == 64 * 64 + 64 + 2  # the shared layer once


def test_weights_of_inference_mode_in_hand_are_one_line() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(InputError, match=r"made under torch\.inference_mode"):
        check_attackable(model, load_split("digits", "test"), QUICK.attacks)


class FailsWithGradients(nn.Module):
    """Writes into a leaf, which autograd forbids once gradients are on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(1.0).flatten(1)[:, :10]


def test_a_forward_that_fails_with_gradients_is_one_line() -> None:
    with pytest.raises(InputError, match=r"gradient.*a leaf Variable") as caught:
        check_attackable(FailsWithGradients().eval(), load_split("digits", "test"), QUICK.attacks)
    assert "\n" not in str(caught.value)
