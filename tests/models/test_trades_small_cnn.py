"""The TRADES authors' MNIST network: layers, dropout, initialisation, names."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustbench_lite.core.errors import InputError
from robustbench_lite.models import build_model

MNIST = {"num_classes": 10, "in_channels": 1, "image_size": (28, 28), "mean": None, "std": None}


def build(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model("trades_small_cnn", **(MNIST | changes))


def images(count: int = 3, size: int = 28) -> torch.Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1))


def test_features_are_those_of_the_layers_written_out() -> None:
    model, x = build().eval(), images()
    with torch.no_grad():
        layers, classifier = model.feature_extractor, model.classifier
        out = F.max_pool2d(F.relu(layers.conv2(F.relu(layers.conv1(x)))), 2)
        assert out.shape == (3, 32, 12, 12)
        out = F.max_pool2d(F.relu(layers.conv4(F.relu(layers.conv3(out)))), 2)
        assert out.shape == (3, 64, 4, 4)
        out = F.relu(classifier.fc2(F.relu(classifier.fc1(out.flatten(1)))))
        assert torch.equal(model.features(x), out)
        assert torch.equal(model(x), model.head(out))


def test_dropout_of_one_half_is_between_the_two_hidden_layers_in_training_only() -> None:
    model, x = build(), images(50)
    seen = []
    model.classifier.fc2.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        model.eval()(x)
        model.train()(x)
    before, after = seen
    alive = before > 0
    assert 0.45 < float((after[alive] == 0).float().mean()) < 0.55
    kept = alive & (after > 0)
    torch.testing.assert_close(after[kept], 2 * before[kept])


def test_initialisation_is_the_authors() -> None:
    model = build()
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    for number, fan_in in ((2, 32 * 9), (3, 32 * 9), (4, 64 * 9)):
        layer = getattr(model.feature_extractor, f"conv{number}")
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)
        assert not layer.bias.any()
    assert model.classifier.fc1.bias.any(), "linear layers keep PyTorch's own"


def test_names_but_the_last_are_those_of_the_authors_code() -> None:
    keys = set(build().state_dict())
    convolutions = {f"feature_extractor.conv{number}.weight" for number in (1, 2, 3, 4)}
    linear = {"classifier.fc1.weight", "classifier.fc2.bias", "head.weight"}
    assert convolutions | linear <= keys
    assert len(keys) == 14


@pytest.mark.parametrize("size", [16, 32])
def test_other_image_sizes_work(size: int) -> None:
    with torch.no_grad():
        assert build(image_size=(size, size)).eval()(images(2, size)).shape == (2, 10)


def test_images_under_16x16_are_refused() -> None:
    with pytest.raises(InputError, match=r"too small for trades_small_cnn: at least \(16, 16\)"):
        build(image_size=(15, 28))
