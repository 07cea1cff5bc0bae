"""The cosine head: logits are cosines, whatever the scale of features and class vectors."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustbench_lite.checkpoints.checkpoint import (
    Card,
    load_checkpoint,
    parameter_count,
    save_checkpoint,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.models import build_model
from robustbench_lite.models.classifier import CosineHead

DIGITS = {"num_classes": 5, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}
NETWORKS = ["small_cnn", "preact_resnet18", "resnet18"]


def build(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, **DIGITS, **options)


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_logits_are_the_cosines_of_the_worked_example() -> None:
    head = CosineHead(2, 3).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 5.0], [-3.0, -3.0]]))
    out = head(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64))
    expected = [[0.6, 0.8, -1.4 / 2**0.5], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))


def test_scales_of_features_and_class_vectors_do_not_matter() -> None:
    head = CosineHead(7, 4).double()
    features = torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([1e-3, 1.0, 2.0, 10.0, 1e3, 1e6], dtype=torch.float64)
    before = head(features)
    torch.testing.assert_close(head(features * scales[:, None]), before, rtol=0, atol=1e-12)
    with torch.no_grad():
        head.weight.mul_(3.0)
    torch.testing.assert_close(head(features), before, rtol=0, atol=1e-12)
    assert before.abs().max() <= 1.0
    torch.testing.assert_close(head(features), head(features * 2.0))


def test_class_vectors_start_with_norm_one_and_there_is_no_bias() -> None:
    head = CosineHead(100, 10)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(10))
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert head.weight.shape == (10, 100)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_a_cosine_head_gives_cosines(name: str) -> None:
    model = build(name, head="cosine").eval()
    assert list(model.children())[-1] is model.head
    with torch.no_grad():
        features, logits = model.features(images()), model(images())
        assert features.shape == (3, model.head.in_features)
        cosines = F.cosine_similarity(features[:, None], model.head.weight[None], dim=2)
    torch.testing.assert_close(logits, cosines)
    assert logits.abs().max() <= 1.0 + 1e-6
    assert parameter_count(model) == parameter_count(build(name)) - 5  # the bias


@pytest.mark.parametrize("name", NETWORKS)
def test_the_linear_head_is_the_default_and_changes_nothing(name: str) -> None:
    plain, linear = build(name), build(name, head="linear")
    assert isinstance(plain.head, nn.Linear)
    assert list(plain.children())[-1] is plain.head
    assert list(plain.state_dict()) == list(linear.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(images()), linear.eval()(images()))


def test_everything_before_the_head_starts_alike() -> None:
    linear, cosine = build("small_cnn"), build("small_cnn", head="cosine")
    assert torch.equal(linear.features(images()), cosine.features(images()))


def test_a_checkpoint_remembers_its_head(tmp_path: Path) -> None:
    model = build("small_cnn", head="cosine")
    unknown = {"recipe": {}, "seed": None, "versions": {}, "git_commit": "", "epoch": None}
    card = Card(
        name="ldam",
        defense="",
        architecture="small_cnn",
        architecture_kwargs={"head": "cosine"},
        **DIGITS,
        dataset="digits",
        dataset_hash="",
        selection="last epoch",
        metrics={},
        notes="",
        parameters=parameter_count(model),
        **unknown,
    )
    save_checkpoint(tmp_path / "c", model, card)
    loaded, _ = load_checkpoint(tmp_path / "c")
    with torch.no_grad():
        assert torch.equal(loaded(images()), model.eval()(images()))


@pytest.mark.parametrize("name", NETWORKS)
def test_another_head_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="head='cosin' must be"):
        build(name, head="cosin")
