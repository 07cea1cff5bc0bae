"""Random masks: exact counts, fixed for ever, in the right place, and stored with the weights."""

from pathlib import Path

import pytest
import torch
from defense_cases import Recording, make_batch, step
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.checkpoints.checkpoint import (
    Card,
    checkpoint_hash,
    load_checkpoint,
    model_hash,
    parameter_count,
    save_checkpoint,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST
from robustbench_lite.defenses.methods.random_mask import RandomMaskTraining
from robustbench_lite.models import build_model
from robustbench_lite.models.preact_resnet import PreActBlock
from robustbench_lite.models.random_masks import RandomMask, masked
from robustbench_lite.models.resnet import BasicBlock

CIFAR = {"num_classes": 10, "in_channels": 3, "image_size": (32, 32), "mean": None, "std": None}
MNIST = CIFAR | {"in_channels": 1, "image_size": (28, 28)}
DIGITS = CIFAR | {"in_channels": 1, "image_size": (8, 8)}
NETWORKS = ["small_cnn", "preact_resnet18", "resnet18"]

# The sheet's table: zeros of one mask by its number of cells on 32x32 images.
ZEROS = {
    0.3: {65536: 19660, 32768: 9830, 16384: 4915, 8192: 2457},
    0.5: {65536: 32768, 32768: 16384, 16384: 8192, 8192: 4096},
    0.7: {65536: 45875, 32768: 22937, 16384: 11468, 8192: 5734},
    0.9: {65536: 58982, 32768: 29491, 16384: 14745, 8192: 7372},
}
SHALLOW_TOTAL = {0.3: 147_450, 0.5: 245_760, 0.7: 344_060, 0.9: 442_365}
DEEP_TOTAL = {0.3: 36_860, 0.5: 61_440, 0.7: 86_010, 0.9: 110_585}


def net(name: str = "small_cnn", sizes: dict[str, object] = DIGITS, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, **sizes, **options)


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {name: b for name, b in model.named_buffers() if name.rpartition(".")[2] == "mask"}


def zeros(mask: Tensor) -> int:
    return int((~mask).sum())


def images(count: int = 4, size: int = 8, channels: int = 1, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator)


def diagonal_mask(channels: int = 1) -> RandomMask:
    """M = [[1, 0], [0, 1]] in each channel: the sheet's example."""
    layer = RandomMask((channels, 2, 2), 0.5, seed=0, same_pattern=False)
    layer.mask.copy_(torch.eye(2, dtype=torch.bool).expand(1, channels, 2, 2))
    return layer


def blocks(stage: int, size: int, channels: int, *, shortcut: bool) -> dict[str, tuple[int, ...]]:
    names = [f"layer{stage}.{block}.mask{conv}" for block in (0, 1) for conv in (1, 2)]
    names += [f"layer{stage}.0.shortcut_mask"] * shortcut
    return {f"{name}.mask": (1, channels, size, size) for name in names}


@pytest.mark.parametrize(("shallow", "deep"), [(0.3, 0.7), (0.5, 0.5), (0.7, 0.9), (0.9, 0.3)])
def test_resnet18_has_the_authors_masks_with_exact_counts(shallow: float, deep: float) -> None:
    found = masks(net("resnet18", CIFAR, shallow_drop=shallow, deep_drop=deep))
    expected_shallow = {"stem_mask.mask": (1, 64, 32, 32)}
    expected_shallow |= blocks(1, 32, 64, shortcut=False) | blocks(2, 16, 128, shortcut=True)
    expected_deep = blocks(3, 8, 256, shortcut=True) | blocks(4, 4, 512, shortcut=True)
    assert len(expected_shallow) == len(expected_deep) == 10
    shapes = {name: tuple(mask.shape) for name, mask in found.items()}
    assert shapes == expected_shallow | expected_deep
    assert all(mask.dtype == torch.bool for mask in found.values())
    for expected, drop, total in (
        (expected_shallow, shallow, SHALLOW_TOTAL[shallow]),
        (expected_deep, deep, DEEP_TOTAL[deep]),
    ):
        counts = {name: zeros(found[name]) for name in expected}
        assert counts == {name: ZEROS[drop][found[name].numel()] for name in expected}
        assert sum(counts.values()) == total


def test_each_part_is_masked_alone() -> None:
    shallow = masks(net("resnet18", DIGITS, shallow_drop=0.5))
    deep = masks(net("resnet18", DIGITS, deep_drop=0.5))
    assert len(shallow) == len(deep) == 10
    assert not set(shallow) & set(deep)
    assert all(name.startswith(("layer3.", "layer4.")) for name in deep)


def test_mnist_masks_have_the_sizes_of_28x28_images() -> None:
    found = masks(net("resnet18", MNIST, shallow_drop=0.5, deep_drop=0.3))
    sizes = {tuple(mask.shape[1:]) for mask in found.values()}
    assert sizes == {(64, 28, 28), (128, 14, 14), (256, 7, 7), (512, 4, 4)}
    found = masks(net("small_cnn", MNIST, shallow_drop=0.5, deep_drop=0.3))
    assert {name: (tuple(mask.shape), zeros(mask)) for name, mask in found.items()} == {
        "mask1.mask": ((1, 16, 14, 14), 1568),
        "mask2.mask": ((1, 32, 7, 7), 470),  # int(470.4)
    }


def test_preact_masks_are_on_the_pre_activations() -> None:
    found = masks(net("preact_resnet18", CIFAR, shallow_drop=0.5, deep_drop=0.5))
    expected = blocks(1, 32, 64, shortcut=False) | blocks(2, 16, 128, shortcut=False)
    expected |= blocks(3, 8, 256, shortcut=False) | blocks(4, 4, 512, shortcut=False)
    # The first pre-activation of a stage still has the size of the stage before.
    for stage, shape in ((2, (1, 64, 32, 32)), (3, (1, 128, 16, 16)), (4, (1, 256, 8, 8))):
        expected[f"layer{stage}.0.mask1.mask"] = shape
    assert {name: tuple(mask.shape) for name, mask in found.items()} == expected
    assert len(expected) == 16


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_run_on_the_usual_image_sizes(name: str) -> None:
    for size in (8, 28):
        sizes = DIGITS | {"image_size": (size, size)}
        model = net(name, sizes, shallow_drop=0.3, deep_drop=0.3).eval()
        with torch.no_grad():
            assert model(images(2, size)).shape == (2, 10)


def test_zeros_are_spread_over_all_channels_and_differ_between_layers_and_seeds() -> None:
    found = masks(net("resnet18", CIFAR, shallow_drop=0.5))
    per_channel = (~found["stem_mask.mask"]).sum(dim=(2, 3)).flatten()  # (64,)
    assert len(set(per_channel.tolist())) > 20, "counts of a channel fluctuate"
    assert per_channel.min() > 400
    assert per_channel.max() < 624
    twins = [found[f"layer1.{block}.mask{conv}.mask"] for block in (0, 1) for conv in (1, 2)]
    twins.append(found["stem_mask.mask"])
    agreement = [(a == b).float().mean() for i, a in enumerate(twins) for b in twins[:i]]
    assert all(0.48 < float(share) < 0.52 for share in agreement)
    again = masks(net("resnet18", CIFAR, shallow_drop=0.5, mask_seed=0))
    other = masks(net("resnet18", CIFAR, shallow_drop=0.5, mask_seed=1))
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert not any(torch.equal(found[name], other[name]) for name in found)


def test_the_mask_follows_its_own_seed_and_leaves_the_weights_seed_alone() -> None:
    plain, hidden = net("small_cnn"), net("small_cnn", shallow_drop=0.5, deep_drop=0.5)
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, hidden.state_dict()[name])
    torch.manual_seed(99)
    other_weights = build_model("small_cnn", **DIGITS, shallow_drop=0.5, deep_drop=0.5)
    for name, mask in masks(hidden).items():
        assert torch.equal(mask, masks(other_weights)[name])
    torch.manual_seed(7)
    before = torch.get_rng_state()
    RandomMask((4, 8, 8), 0.5, seed=3, same_pattern=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_drop_zero_is_the_unmasked_network_bit_for_bit(name: str) -> None:
    plain = net(name).eval()
    zero = net(name, shallow_drop=0.0, deep_drop=0, mask_seed=5).eval()
    assert list(zero.state_dict()) == list(plain.state_dict())
    assert model_hash(zero) == model_hash(plain)
    kept = net(name, shallow_drop=1e-9, deep_drop=1e-9).eval()  # masks of ones only
    assert masks(kept)
    x = images()
    with torch.no_grad():
        assert torch.equal(zero(x), plain(x))
        assert torch.equal(kept(x), plain(x))


def test_dropping_the_whole_shallow_part_makes_resnet18_blind() -> None:
    model = net("resnet18", CIFAR, shallow_drop=1.0).eval()
    stages = []
    for stage in (model.layer1, model.layer2):
        stage.register_forward_hook(lambda _module, _args, out: stages.append(out))
    with torch.no_grad():
        logits = model(images(3, 32, channels=3))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert [bool(stage.any()) for stage in stages] == [False, False]
    with torch.no_grad():
        assert not torch.equal(*net("resnet18", DIGITS).eval()(images(2)))


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_are_fixed_stored_and_no_parameters(name: str) -> None:
    model = net(name, shallow_drop=0.5, deep_drop=0.3)
    assert parameter_count(model) == parameter_count(net(name))
    assert set(masks(model)) <= set(model.state_dict())
    before = {key: mask.clone() for key, mask in masks(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        F.cross_entropy(model.train()(images()), torch.arange(4)).backward()
        optimizer.step()
    assert all(torch.equal(mask, before[key]) for key, mask in masks(model).items())
    with torch.no_grad():
        x = images()
        assert torch.equal(model.eval()(x), model(x))
        for module in model.train().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert torch.equal(model(x), model.eval()(x)), "training and evaluation mask alike"


def test_forward_and_gradient_are_cut_and_unscaled() -> None:
    u = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]]], dtype=torch.float64, requires_grad=True)
    out = F.relu(diagonal_mask()(u))
    assert out.flatten().tolist() == [1, 0, 0, 4]
    out.sum().backward()
    assert u.grad.flatten().tolist() == [1, 0, 0, 1]
    assert masked(u, None) is u


def identity_kernel(convolution: nn.Conv2d) -> None:
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[:, :, 1, 1] = 1.0


@pytest.mark.parametrize("family", [BasicBlock, PreActBlock])
def test_the_mask_is_behind_batch_norm_and_before_relu(family: type[nn.Module]) -> None:
    block = (
        BasicBlock(1, 1, 1) if family is BasicBlock else PreActBlock(1, 1, 1, "input")
    ).double()
    block.mask1 = diagonal_mask()
    identity_kernel(block.conv1)
    seen: dict[str, Tensor] = {}
    reader = block.conv2 if family is BasicBlock else block.conv1
    reader.register_forward_pre_hook(lambda _module, args: seen.update(activation=args[0]))
    block.mask1.register_forward_hook(lambda _module, _args, out: seen.update(masked=out))
    block.train()(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64))
    expected = torch.tensor([-1.341635, 0.0, 0.0, 1.341635], dtype=torch.float64)
    torch.testing.assert_close(seen["masked"].flatten(), expected, rtol=0, atol=1e-6)
    assert torch.equal(seen["activation"], F.relu(seen["masked"]))
    assert block.bn1.running_mean.item() == pytest.approx(0.25, abs=1e-9)
    assert block.bn1.running_var.item() == pytest.approx(1.066667, abs=1e-6)


@pytest.mark.parametrize("name", ["preact_resnet18", "resnet18"])
def test_every_mask_takes_the_output_of_a_batch_norm(name: str) -> None:
    model = net(name, shallow_drop=0.5, deep_drop=0.5).train()
    normed: list[Tensor] = []
    taken: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _args, out: normed.append(out))
        if isinstance(module, RandomMask):
            module.register_forward_pre_hook(lambda _module, args: taken.append(args[0]))
    with torch.no_grad():
        model(images())
    assert len(taken) == len(masks(model))
    assert all(any(u is out for out in normed) for u in taken)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_mask_acts_on_the_logits(name: str) -> None:
    model, x = net(name, shallow_drop=0.3, deep_drop=0.3).eval(), images(2)
    with torch.no_grad():
        before = model(x)
        for key, mask in masks(model).items():
            original = mask.clone()
            mask.zero_()
            assert not torch.equal(model(x), before), key
            mask.copy_(original)
        assert torch.equal(model(x), before)


class Gives(nn.Module):
    """A stand-in for batch norm with a known output."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.out = torch.tensor([[rows]])

    def forward(self, _u: Tensor) -> Tensor:
        return self.out


def test_a_masked_branch_leaves_the_shortcut_and_the_sum_is_not_masked() -> None:
    block = BasicBlock(1, 1, 1).eval()
    block.mask2, block.bn2 = diagonal_mask(), Gives([[5.0, -1.0], [2.0, -3.0]])
    with torch.no_grad():
        out = block(torch.tensor([[[[1.0, 1.0], [0.0, 4.0]]]]))
    assert out.flatten().tolist() == [6, 1, 0, 1]


def test_a_convolutional_shortcut_has_a_mask_of_its_own() -> None:
    block = BasicBlock(1, 2, 2).eval()
    block.add_masks(lambda _name, shape: diagonal_mask(shape[0]), "block", (4, 4))
    block.mask2, block.bn2 = None, Gives([[0.0, 0.0], [0.0, -7.0]])
    block.shortcut[1] = Gives([[5.0, 1.0], [2.0, 3.0]])
    block.shortcut_mask = diagonal_mask()
    with torch.no_grad():
        assert block(images(1, 4)).flatten().tolist() == [5, 0, 0, 0]
    assert BasicBlock(1, 1, 1).shortcut_mask is None


def test_preact_shortcut_sees_the_masked_activation() -> None:
    block = PreActBlock(1, 1, 2, "activation").eval()
    block.mask1 = RandomMask((1, 4, 4), 1.0, seed=0, same_pattern=False)
    seen = []
    block.shortcut.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        block(images(1, 4))
    assert not seen[0].any()


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_masked_stem_positions_are_dead_on_every_image(name: str) -> None:
    sizes = MNIST if name == "small_cnn" else DIGITS
    model = net(name, sizes, shallow_drop=0.7).eval()
    reader = model.conv2 if name == "small_cnn" else model.layer1
    mask = model.mask1.mask if name == "small_cnn" else model.stem_mask.mask
    seen = []
    reader.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        model(images(100, sizes["image_size"][0]))
    (activation,) = seen
    assert not activation[:, ~mask[0]].any()
    assert activation[:, mask[0]].any()


@pytest.mark.parametrize(("drop", "per_channel"), [(0.5, 512), (0.7, 716)])
def test_the_same_pattern_is_shared_by_all_channels(drop: float, per_channel: int) -> None:
    mask = RandomMask((64, 32, 32), drop, seed=0, same_pattern=True).mask
    assert mask.shape == (1, 64, 32, 32)
    assert all(torch.equal(mask[0, 0], channel) for channel in mask[0])
    assert zeros(mask[0, 0]) == per_channel
    model = net("resnet18", CIFAR, shallow_drop=drop, mask_pattern="same")
    stem = model.stem_mask.mask
    assert all(torch.equal(stem[0, 0], channel) for channel in stem[0])


def card_for(model: nn.Module, name: str, options: dict[str, object]) -> Card:
    unknown = {"recipe": {}, "seed": None, "versions": {}, "git_commit": "", "epoch": None}
    return Card(
        name="masked",
        defense="random_mask",
        architecture=name,
        architecture_kwargs=options,
        **DIGITS,
        dataset="digits",
        dataset_hash="",
        selection="last epoch",
        metrics={},
        notes="",
        parameters=parameter_count(model),
        **unknown,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpoint_carries_its_own_mask(name: str, tmp_path: Path) -> None:
    options = {"shallow_drop": 0.5, "deep_drop": 0.3, "mask_seed": 4}
    model = net(name, **options).eval()
    save_checkpoint(tmp_path / "a", model, card_for(model, name, options))
    x = images()
    with torch.no_grad():
        assert torch.equal(load_checkpoint(tmp_path / "a")[0](x), model(x))
    first = next(iter(masks(model).values()))
    first.logical_not_()  # a mask that no seed gives
    assert model_hash(model) != model_hash(net(name, **options))
    save_checkpoint(tmp_path / "b", model, card_for(model, name, options))
    loaded, _ = load_checkpoint(tmp_path / "b")
    for key, mask in masks(model).items():
        assert torch.equal(masks(loaded)[key], mask)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert checkpoint_hash(tmp_path / "a") != checkpoint_hash(tmp_path / "b")


def test_masks_lie_where_the_network_is_built() -> None:
    with torch.device("meta"):
        model = build_model("small_cnn", **DIGITS, shallow_drop=0.5)
    assert model.mask1.mask.is_meta


def test_a_map_of_another_size_is_refused_and_not_broadcast() -> None:
    model = net("resnet18", CIFAR, deep_drop=0.5).eval()
    with pytest.raises(InputError, match=r"\(256, 2, 2\) do not fit a mask \(256, 8, 8\)"):
        model(images(1, 8, channels=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shallow_drop": 1.5}, r"shallow_drop=1.5 must be a number in \[0, 1\]"),
        ({"deep_drop": -0.1}, "deep_drop=-0.1"),
        ({"deep_drop": float("nan")}, "deep_drop=nan"),
        ({"shallow_drop": True}, "shallow_drop=True"),
        ({"shallow_drop": "0.5"}, "shallow_drop='0.5'"),
        ({"mask_seed": -1}, "mask_seed=-1 must be an integer"),
        ({"mask_seed": 0.5}, "mask_seed=0.5"),
        ({"mask_pattern": "equal"}, "mask_pattern='equal' must be"),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        net(name, **options)


def test_the_defense_is_clean_cross_entropy_of_the_masked_network() -> None:
    model = net("small_cnn", shallow_drop=0.5).double().train()
    x, y = images().double(), torch.arange(4)
    objective = step(RandomMaskTraining(), {ROBUST: model}, make_batch(x, y, classes=10))
    expected = F.cross_entropy(model(x), y)
    assert objective.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert objective.loss.requires_grad
    assert not any(value.requires_grad for value in objective.scalars.values())


def test_the_defense_trains_on_the_clean_batch_once_in_train_mode() -> None:
    model = Recording(classes=10).train()
    model.register_buffer("mask", torch.ones(1, dtype=torch.bool))
    x = torch.rand(4, 1, 3, 3)
    step(RandomMaskTraining(), {ROBUST: model}, make_batch(x, torch.arange(4), classes=10))
    assert model.training
    assert model.norm.num_batches_tracked == 1
    assert torch.equal(model.seen[0], x)


def test_the_defense_refuses_a_network_without_masks() -> None:
    with pytest.raises(InputError, match=r"model.options.shallow_drop or .*deep_drop above 0"):
        step(RandomMaskTraining(), {ROBUST: net()}, make_batch(images(), [0, 1, 2, 3], classes=10))
