"""DenseNet-BC-100-12: size, shape of every stage, the authors' initialisation, names, reload."""

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

CIFAR = {"num_classes": 10, "in_channels": 3, "image_size": (32, 32), "mean": None, "std": None}
TINY = CIFAR | {"in_channels": 1, "image_size": (8, 8), "mean": (0.3,), "std": (0.2,)}
NAME = "densenet_bc_100_12"


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return build_model(NAME, **TINY)


def images(count: int = 2, size: int = 8, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, size, size, generator=generator)


def densenet_count(layers: int, growth: int, classes: int) -> int:
    """Arithmetic from the architecture: 1x1 to 4 k, 3x3 to k, 2 numbers a batch-norm channel."""
    width = 2 * growth
    count = 3 * width * 9
    for block in range(3):
        for _ in range(layers):
            count += 2 * width + width * 4 * growth + 2 * 4 * growth + 4 * growth * growth * 9
            width += growth
        if block < 2:
            count += 2 * width + width * (width // 2)
            width //= 2
    return count + 2 * width + width * classes + classes


@pytest.mark.parametrize("classes", [10, 43])
def test_count_follows_from_depth_and_growth(classes: int) -> None:
    with torch.device("meta"):
        model = build_model(NAME, **(CIFAR | {"num_classes": classes}))
    assert parameter_count(model) == densenet_count(16, 12, classes)
    assert densenet_count(16, 12, 10) == 769_162


def test_stages_have_the_widths_and_sizes_of_the_paper() -> None:
    model = build_model(NAME, **CIFAR).eval()
    shapes = {}
    for name in ("conv1", "block1", "trans1", "block2", "trans2", "block3"):
        getattr(model, name).register_forward_hook(
            lambda _module, _args, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    with torch.no_grad():
        features = model.features(images(1, 32, channels=3))
    assert shapes == {
        "conv1": (24, 32, 32),
        "block1": (216, 32, 32),
        "trans1": (108, 16, 16),
        "block2": (300, 16, 16),
        "trans2": (150, 8, 8),
        "block3": (342, 8, 8),
    }
    assert features.shape == (1, 342)


def test_features_are_the_pooled_relu_and_logits_their_head(tiny: nn.Module) -> None:
    seen = []
    handle = tiny.bn1.register_forward_hook(lambda _module, _args, out: seen.append(out))
    with torch.no_grad():
        logits, features = tiny.eval()(images()), tiny.features(images())
    handle.remove()
    torch.testing.assert_close(features, F.relu(seen[0]).mean(dim=(2, 3)))
    assert torch.equal(logits, tiny.head(features))
    assert logits.shape == (2, 10)


def test_a_layer_appends_to_what_it_sees(tiny: nn.Module) -> None:
    layer = tiny.block1.layer[0].eval()
    x = images(2, 4, channels=24)
    with torch.no_grad():
        out = layer(x)
        added = layer.conv2(F.relu(layer.bn2(layer.conv1(F.relu(layer.bn1(x))))))
    assert torch.equal(out[:, :24], x)
    assert torch.equal(out[:, 24:], added)


def test_a_transition_halves_channels_behind_relu_and_then_pools(tiny: nn.Module) -> None:
    transition = tiny.trans1.eval()
    x = images(2, 4, channels=216) - 0.5
    with torch.no_grad():
        inner = transition.conv1(F.relu(transition.bn1(x)))
        assert torch.equal(transition(x), F.avg_pool2d(inner, 2))
    assert inner.shape[1] == 108


def test_all_convolutions_start_with_variance_two_by_sixteen(tiny: nn.Module) -> None:
    model = build_model(NAME, **TINY)
    wide = [
        m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 4e3
    ]
    assert len(wide) > 40
    spread = torch.cat([weight.flatten() for weight in wide]).std().item()
    assert spread == pytest.approx((2 / 16) ** 0.5, rel=0.01)
    assert model.conv1.weight.std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.2)
    assert not model.head.bias.any()


def test_a_training_step_reaches_every_parameter(tiny: nn.Module) -> None:
    F.cross_entropy(tiny.train()(images(4)), torch.arange(4)).backward()
    silent = [n for n, p in tiny.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_names_are_those_of_the_authors_code(tiny: nn.Module) -> None:
    keys = set(tiny.state_dict())
    assert {"block1.layer.15.conv2.weight", "trans2.conv1.weight", "bn1.running_var"} <= keys
    assert tiny.public_names == {"fc": "head"}


def test_a_checkpoint_gives_the_same_logits(tiny: nn.Module, tmp_path: Path) -> None:
    unknown = {"recipe": {}, "seed": None, "versions": {}, "git_commit": "", "epoch": None}
    card = Card(
        name="aloe",
        defense="",
        architecture=NAME,
        architecture_kwargs={},
        **TINY,
        dataset="digits",
        dataset_hash="",
        selection="last epoch",
        metrics={},
        notes="",
        parameters=parameter_count(tiny),
        **unknown,
    )
    save_checkpoint(tmp_path / "c", tiny, card)
    with torch.no_grad():
        assert torch.equal(load_checkpoint(tmp_path / "c")[0](images()), tiny.eval()(images()))


def test_images_under_4x4_are_refused() -> None:
    with pytest.raises(InputError, match="too small for densenet_bc_100_12"):
        build_model(NAME, **(TINY | {"image_size": (3, 8)}))
