"""Networks: contract, parameter counts, options, laziness."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.checkpoints.checkpoint import parameter_count
from robustbench_lite.core.errors import InputError
from robustbench_lite.models import MODELS, build_model
from robustbench_lite.models.classifier import Normalize

CIFAR = {"num_classes": 10, "in_channels": 3, "image_size": (32, 32), "mean": None, "std": None}
MNIST = CIFAR | {"in_channels": 1, "image_size": (28, 28)}
TINY = CIFAR | {
    "in_channels": 1,
    "image_size": (8, 8),
    "num_classes": 5,
    "mean": (0.3,),
    "std": (0.2,),
}
# wrn34_10 and wrn34_20 are wrn28_10 with other numbers; only it is run, the smallest of the three.
RUN = ["small_cnn", "preact_resnet18", "resnet18", "resnet18_wide_map", "wrn28_10"]


def tiny(name: str, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, **(TINY | changes))


def batch(count: int = 3, channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_every_registered_network_is_in_the_count_table() -> None:
    assert {name for name, *_ in COUNTS} == set(MODELS)


COUNTS = [
    # 272 + 8,224 + 156,900 + 1,010, layer by layer; no published count was found.
    ("small_cnn", MNIST, {}, 166_406),
    # 320 + 9,248 + 18,496 + 36,928 + 205,000 + 40,200 + 2,010, layer by layer.
    ("trades_small_cnn", MNIST, {}, 312_202),
    # Published: README of jvlmdr/flax-cifar ("ResNetV2-18 11,172,170").
    ("preact_resnet18", CIFAR, {}, 11_172_170),
    # Published for kuangliu's code, which lacks the last batch norm (2 * 512): 11,171,146.
    ("preact_resnet18", CIFAR, {"final_bn": False}, 11_171_146),
    ("preact_resnet18", CIFAR, {"shortcut_input": "input"}, 11_172_170),
    # Published: Li et al., "Towards Practical Lottery Ticket Hypothesis for Adversarial Training",
    # Table 4 (ResNet-18, WideResNet-28-10, WideResNet-34-10).
    ("resnet18", CIFAR, {}, 11_173_962),
    ("resnet18_wide_map", CIFAR, {}, 11_173_962),  # strides hold no parameters
    # Stated as 0.8M in Huang et al. 2017, Table 2; equals `densenet_count` of test_densenet.py.
    ("densenet_bc_100_12", CIFAR, {}, 769_162),
    ("wrn28_10", CIFAR, {}, 36_479_194),
    ("wrn34_10", CIFAR, {}, 46_160_474),
    # Third-party notes only (184,531,674); equals `wide_resnet_count` below.
    ("wrn34_20", CIFAR, {}, 184_531_674),
    # Published: asserted in osmr/imgclsmob's wrn_cifar.py for CIFAR-100.
    ("wrn28_10", CIFAR | {"num_classes": 100}, {}, 36_536_884),
]


@pytest.mark.parametrize(("name", "sizes", "options", "count"), COUNTS)
def test_parameter_count_is_the_published_one(
    name: str, sizes: dict[str, object], options: dict[str, object], count: int
) -> None:
    with torch.device("meta"):
        assert parameter_count(build_model(name, **sizes, **options)) == count


def wide_resnet_count(depth: int, factor: int, classes: int) -> int:
    """Arithmetic from the architecture: 3x3 convolutions, 1x1 shortcuts, 2 numbers a BN channel."""
    count, width = 3 * 16 * 9, 16
    for out in (16 * factor, 32 * factor, 64 * factor):
        for block in range((depth - 4) // 6):
            into = width if block == 0 else out
            count += 9 * into * out + 9 * out * out + 2 * into + 2 * out
            count += into * out if block == 0 else 0
        width = out
    return count + 2 * width + width * classes + classes


@pytest.mark.parametrize(("depth", "factor"), [(28, 10), (34, 10), (34, 20)])
def test_wide_resnet_count_follows_from_depth_and_width(depth: int, factor: int) -> None:
    with torch.device("meta"):
        model = build_model(f"wrn{depth}_{factor}", **CIFAR)
    assert parameter_count(model) == wide_resnet_count(depth, factor, 10)


@pytest.mark.parametrize("name", RUN)
def test_logits_are_the_head_of_the_features(name: str) -> None:
    model = tiny(name).eval()
    x = batch()
    with torch.no_grad():
        logits, features = model(x), model.features(x)
        assert logits.shape == (3, 5)
        assert features.shape == (3, model.head.in_features)
        assert isinstance(model.head, nn.Linear)
        assert torch.equal(logits, model.head(features))


@pytest.mark.parametrize("name", [name for name in RUN if name != "wrn28_10"])
def test_training_step_reaches_every_parameter(name: str) -> None:
    model = tiny(name).train()
    F.cross_entropy(model(batch(4)), torch.tensor([0, 1, 2, 3])).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", [name for name in RUN if name != "wrn28_10"])
def test_examples_do_not_influence_each_other_in_eval_mode(name: str) -> None:
    model = tiny(name).double().eval()
    x = batch(4).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[2:3], model(x[2:3]))


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "resnet18"])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_usual_image_sizes_work(name: str, size: int) -> None:
    model = tiny(name, image_size=(size, size), in_channels=3, mean=None, std=None).eval()
    with torch.no_grad():
        assert model(batch(2, channels=3, size=size)).shape == (2, 5)


def test_channels_last_and_float64_and_autocast_agree_with_float32() -> None:
    model, x = tiny("resnet18").eval(), batch(2)
    with torch.no_grad():
        plain = model(x)
        last = tiny("resnet18").eval().to(memory_format=torch.channels_last)
        torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), plain)
        double = tiny("resnet18").eval().double()(x.double())
        torch.testing.assert_close(double.float(), plain, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(model(x).float(), plain, rtol=0.1, atol=0.1)


def test_normalisation_is_the_first_layer_and_no_weight() -> None:
    model = tiny("small_cnn")
    assert next(iter(model.children())) is model.normalize
    assert not any(name.startswith("normalize") for name in model.state_dict())
    plain = tiny("small_cnn", mean=None, std=None)
    plain.load_state_dict(model.state_dict())
    x = batch()
    torch.testing.assert_close(model(x), plain((x - 0.3) / 0.2))


def test_normalize_is_per_channel() -> None:
    x = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1)
    out = Normalize((0.5, 0.25), (1.0, 0.5))(x)
    assert out.flatten().tolist() == [0.0, 0.5]


def test_stride_patterns_differ_in_the_last_map() -> None:
    sizes = {}
    for name in ("resnet18", "resnet18_wide_map"):
        model = tiny(name, image_size=(32, 32)).eval()
        model.layer4.register_forward_hook(
            lambda _m, _i, out, name=name: sizes.update({name: tuple(out.shape[2:])})
        )
        model(batch(1, size=32))
    assert sizes == {"resnet18": (4, 4), "resnet18_wide_map": (8, 8)}


def test_shortcut_input_changes_the_function_of_equal_weights() -> None:
    ours, other = tiny("preact_resnet18"), tiny("preact_resnet18", shortcut_input="input")
    other.load_state_dict(ours.state_dict())
    assert not torch.allclose(ours.eval()(batch()), other.eval()(batch()))


def test_wide_resnet_starts_as_the_trades_code_does() -> None:
    model = build_model("wrn28_10", **(CIFAR | {"image_size": (8, 8)}))
    weight = model.block2.layer[0].conv1.weight  # 160 -> 320, 3x3
    assert weight.std().item() == pytest.approx((2 / (9 * 320)) ** 0.5, rel=0.01)
    assert model.head.bias.abs().max().item() == 0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet81", {}, "unknown architecture 'resnet81'; did you mean resnet18"),
        ("wrn28_10", {"width": 3, "depth": 1}, "no option 'width', 'depth'; its options: none"),
        ("preact_resnet18", {"bn": True}, "its options: final_bn, shortcut_input"),
        ("preact_resnet18", {"final_bn": 1}, "final_bn=1 must be true or false"),
        ("preact_resnet18", {"shortcut_input": "raw"}, "'raw' must be"),
        ("resnet18", {"num_classes": 1}, "num_classes=1 is too small"),
        ("resnet18", {"in_channels": 0, "mean": None, "std": None}, "in_channels=0 is too small"),
        ("resnet18", {"image_size": (8, 0)}, r"image_size=\(8, 0\) must be"),
        ("small_cnn", {"image_size": (3, 8)}, "too small for small_cnn"),
        ("resnet18", {"std": None}, "give both, or neither"),
        ("resnet18", {"mean": (0.1, 0.2)}, "one number for each of 1 channels"),
        ("resnet18", {"std": (0.0,)}, "std above 0"),
        ("resnet18", {"mean": (float("nan"),)}, "must be finite"),
    ],
)
def test_wrong_arguments_are_named(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(name, **changes)
