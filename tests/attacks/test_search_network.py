"""The network searched on: the same function as the plain one, whatever the plain one is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from device_waits import syncs
from torch import nn

from robustbench_lite.attacks.acceleration.batch_norm_folding import fold_batch_norms
from robustbench_lite.attacks.acceleration.half_precision import InFloat16
from robustbench_lite.attacks.acceleration.input_convolution import InputConvolution
from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.core.errors import InputError
from robustbench_lite.models import build_model

CPU = torch.device("cpu")
MASKS = {"shallow_drop": 0.3, "deep_drop": 0.2}
ARCHITECTURES = [
    ("small_cnn", (1, 12, 10), {}),
    ("small_cnn", (3, 8, 8), {**MASKS, "head": "cosine"}),
    ("trades_small_cnn", (1, 20, 17), {}),
    ("preact_resnet18", (3, 16, 16), {}),
    ("preact_resnet18", (3, 8, 8), {**MASKS, "head": "cosine", "final_bn": False}),
    ("resnet18", (3, 16, 16), {}),
    ("resnet18", (1, 9, 8), {**MASKS, "mask_pattern": "same"}),
    ("resnet18_wide_map", (3, 8, 8), {}),
    ("densenet_bc_100_12", (3, 8, 8), {}),
    ("wrn28_10", (3, 8, 8), {}),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def some_norms(model, x):
    """Batch norms as after training: every one of them does something, and none explodes."""
    generator = torch.Generator().manual_seed(1)
    model.train()(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                if values is not None:
                    values.data.mul_(0.5 + torch.rand(values.shape, generator=generator))
            for values in (module.bias, module.running_mean):
                if values is not None:
                    values.data.add_(0.1 * torch.randn(values.shape, generator=generator))
    return model.eval()


def built(name, shape, options):
    torch.manual_seed(0)
    channels, *size = shape
    model = build_model(
        name,
        num_classes=10,
        in_channels=channels,
        image_size=tuple(size),
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
        **options,
    )
    if name == "trades_small_cnn":  # its last layer begins at 0
        nn.init.normal_(model.head.weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    return some_norms(model, torch.rand(4, *shape))


def searched(model, x, precision="float32"):
    return search_network(model, precision=precision, device=CPU, like=x[0])


def logits_and_gradient(model, x, scale=1.0):
    """Logits, and the gradient of a mix of them that no softmax can saturate."""
    x = x.detach().requires_grad_(True)
    logits = model(x)
    weights = torch.linspace(-1.0, 1.0, logits.shape[1])
    (gradient,) = torch.autograd.grad(scale * (logits * weights).sum(), x)
    return logits.detach(), gradient


def assert_same_function(model, network, x, tolerance=1e-5):
    logits, gradient = logits_and_gradient(network, x)
    plain_logits, plain_gradient = logits_and_gradient(model, x)
    assert (logits - plain_logits).norm() <= tolerance * plain_logits.norm()
    off = (gradient - plain_gradient).flatten(1).norm(dim=1) / plain_gradient.flatten(1).norm(dim=1)
    # Rounding may put a unit on the other side of its kink, rarely.
    assert off.median() <= tolerance
    assert off.max() <= 0.02


def batch_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(("name", "shape", "options"), ARCHITECTURES)
def test_logits_and_input_gradients_are_those_of_every_built_in_network(name, shape, options):
    model = built(name, shape, options)
    x = torch.rand(5, *shape)
    network = searched(model, x).module
    assert network is not model
    assert_same_function(model, network, x)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("resnet18", 20, 0), ("preact_resnet18", 17, 9), ("densenet_bc_100_12", 99, 51)],
)
def test_every_batch_norm_behind_a_convolution_is_folded(name, before, after):
    model = built(name, (3, 8, 8), MASKS if "resnet" in name else {})
    network = searched(model, torch.rand(1, 3, 8, 8)).module
    assert (batch_norms(model), batch_norms(network)) == (before, after)


def test_the_search_network_is_frozen_and_in_eval_mode():
    model = built("resnet18", (3, 8, 8), {}).train()
    network = searched(model, torch.rand(1, 3, 8, 8)).module
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_it_is_the_same_to_the_bit_each_time():
    model, x = built("preact_resnet18", (3, 8, 8), {}), torch.rand(3, 3, 8, 8)
    once, again = (logits_and_gradient(searched(model, x).module, x) for _ in range(2))
    assert all(torch.equal(mine, other) for mine, other in zip(once, again, strict=True))


# Networks of users: each does one thing that a careless copy would get wrong.


class User(nn.Module):
    """Convolution, batch norm, ReLU, linear; what follows changes one thing of it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.bn, self.bn2, self.bn3 = (nn.BatchNorm2d(8) for _ in range(3))
        self.out = nn.Linear(8 * 36, 5)

    def forward(self, x):
        maps = F.relu(self.bn(self.conv(x)))
        maps = F.relu(self.bn2(self.conv2(maps)))
        return self.out(self.bn3(self.conv3(maps)).flatten(1))


class OutputReadTwice(User):
    def forward(self, x):
        maps = self.conv(x)
        return self.out((self.bn(maps) + 0.5 * maps).flatten(1))


class OutputReadFirst(User):
    def forward(self, x):
        maps = self.conv(x)
        gate = maps.mean(dim=(2, 3), keepdim=True)
        return self.out((self.bn(maps) * gate).flatten(1))


class ChangedInPlace(User):
    def forward(self, x):
        maps = self.conv(x)
        maps *= 2.0
        return self.out(F.relu(self.bn(maps), inplace=True).flatten(1))


class InPlaceAfter(User):
    def forward(self, x):
        return self.out(F.relu_(self.bn(self.conv(x))).flatten(1))


class CalledTwice(User):
    def forward(self, x):
        maps = F.relu(self.bn(self.conv(x)))
        return self.out(self.bn2(self.conv2(self.bn3(self.conv2(maps)))).flatten(1))


class NormCalledTwice(User):
    def forward(self, x):
        return self.out(self.bn(self.conv2(self.bn(self.conv(x)))).flatten(1))


class Branches(User):
    def forward(self, x):
        maps = self.bn(self.conv(x)) if x.shape[0] > 2 else self.bn2(self.conv(x))
        return self.out(maps.flatten(1))


class BatchStatistics(User):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(8, track_running_stats=False)


class NoAffine(User):
    def __init__(self):
        super().__init__()
        self.bn2 = nn.BatchNorm2d(8, affine=False)


class Views(User):
    def forward(self, x):
        maps = self.bn2(self.conv2(F.relu(self.bn(self.conv(x)))))
        return self.out(self.conv3(maps).view(len(x), -1))


class Functional(User):
    def forward(self, x):
        maps = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
        return self.out(self.bn(maps).flatten(1))


class KeywordCalls(User):
    def forward(self, x):
        return self.out(self.bn(input=self.conv(input=x)).flatten(1))


class ReadsTheNorm(User):
    def forward(self, x):
        maps = self.bn(self.conv(x))
        return self.out((maps / self.bn.running_var.sqrt().mean()).flatten(1))


class HookedConvolution(User):
    def __init__(self):
        super().__init__()
        self.conv.register_forward_hook(_double)


def _double(module, args, out):
    return 2.0 * out


class Parametrized(User):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.conv)
        nn.utils.parametrizations.spectral_norm(self.conv2)


class OldWeightNorm(User):
    """A forward pre-hook computes the weight; it must go on doing so."""

    def __init__(self):
        super().__init__()
        nn.utils.spectral_norm(self.conv)


class Registered(User):
    """One convolution under two names."""

    def __init__(self):
        super().__init__()
        self.first = self.conv

    def forward(self, x):
        return self.out(self.bn(self.first(x)).flatten(1))


class HalfLogits(User):
    def forward(self, x):
        return super().forward(x).half()


class Buffered(User):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.scale = torch.full((1,), 3.0)  # a plain attribute, no buffer

    def forward(self, x):
        return super().forward((x - self.mean) * self.scale)


USERS = [
    (User, 0),
    (OutputReadTwice, 3),
    (OutputReadFirst, 3),
    (ChangedInPlace, 3),
    (InPlaceAfter, 2),
    (CalledTwice, 2),
    (NormCalledTwice, 3),
    (BatchStatistics, 1),
    (NoAffine, 0),
    (Views, 1),
    (Functional, 3),
    (KeywordCalls, 3),
    (HookedConvolution, 1),
    (Parametrized, 2),
    (OldWeightNorm, 1),
    (Registered, 2),
    (HalfLogits, 0),
    (Buffered, 0),
]


def test_the_model_is_left_as_it_was():
    model = some_norms(User(), torch.rand(4, 3, 6, 6)).train()
    model.bn2.eval()
    model.conv.weight.requires_grad_(False)
    model.out.weight.grad = torch.ones_like(model.out.weight)
    seen = []
    model.bn.register_forward_hook(lambda module, args, out: seen.append(out))
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    modules = list(model.modules())
    generator = torch.get_rng_state()
    for precision in ("float32", "mixed"):
        network = searched(model, torch.rand(1, 3, 6, 6), precision).module
        torch.set_rng_state(generator)
        searched(model, torch.full((1, 3, 6, 6), 0.5), precision)
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert [module.training for module in model.modules()] == flags
        assert list(model.modules()) == modules
        assert all(len(module._forward_pre_hooks) == 0 for module in modules)
        assert sum(len(module._forward_hooks) for module in modules) == 1
        assert not model.conv.weight.requires_grad
        assert model.out.weight.requires_grad
        assert torch.equal(model.out.weight.grad, torch.ones_like(model.out.weight))
        assert model.conv2.weight.grad is None
        theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
        assert not theirs & {tensor.data_ptr() for tensor in network.state_dict().values()}


@pytest.mark.parametrize(("kind", "left"), USERS, ids=[kind.__name__ for kind, _ in USERS])
def test_a_users_network_keeps_its_function(kind, left):
    x = torch.rand(4, 3, 6, 6)
    model = some_norms(kind(), x)
    network = searched(model, x).module
    assert network is not model
    assert batch_norms(network) == left  # only what is surely a pair is folded
    if kind is HalfLogits:  # the last rounding is coarse
        assert_same_function(model, network, x, tolerance=2e-3)
    else:
        assert_same_function(model, network, x)


def test_a_view_that_channels_last_does_not_allow_only_costs_channels_last():
    x = torch.rand(4, 3, 6, 6)
    notes = searched(some_norms(Views(), x), x).notes
    assert len(notes) == 2
    assert notes[0].startswith("not float32 with")
    assert "view" in notes[0]
    assert "channels last" not in notes[1]
    assert "batch norms folded 2" in notes[1]


class Wide(nn.Module):
    """Three convolutions; the last one's weights are more than a cache holds."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 256, 1)
        self.conv3 = nn.Conv2d(256, 256, 3)

    def forward(self, x):
        return self.conv3(self.conv2(self.conv1(x)).relu()).mean(dim=(2, 3))


class Shallow(Wide):
    """Two convolutions."""

    def __init__(self):
        super().__init__()
        del self.conv3

    def forward(self, x):
        return self.conv2(self.conv1(x)).mean(dim=(2, 3))


def test_channels_last_is_for_deep_networks_and_for_weights_that_fit_a_cache():
    x = torch.rand(2, 3, 6, 6)
    last = torch.channels_last
    model = Wide()
    network = searched(model, x).module
    seen = []
    network.conv3.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert_same_function(model, network, x)
    assert network.conv2(torch.rand(1, 8, 4, 4)).is_contiguous(memory_format=last)
    assert network.conv3.weight.is_contiguous()
    assert all(maps.is_contiguous() for maps in seen)  # not as the second convolution left them
    shallow = searched(Shallow(), x)
    assert shallow.module.conv2.weight.shape[1] == 8
    assert shallow.module.conv2(torch.rand(1, 8, 4, 4)).is_contiguous()
    assert "channels last 0" in shallow.notes[0]


class Randomised(User):
    """Dropout that never sleeps: a network with random outputs."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, training=True)


def test_a_copy_of_a_randomised_network_is_faster_and_as_random():
    x = torch.rand(4, 3, 6, 6)
    model = some_norms(Randomised(), x)
    network = searched(model, x).module
    assert batch_norms(network) == 0
    assert not torch.equal(network(x), network(x))
    torch.manual_seed(3)
    mine = network(x)
    torch.manual_seed(3)
    torch.testing.assert_close(mine, model(x))


class NotCopied(User):
    def __deepcopy__(self, memo):
        raise RuntimeError("no copies, please\nreally")


class CopiedAsItself(User):
    def __deepcopy__(self, memo):
        return self


class SharesItsWeights(User):
    def __deepcopy__(self, memo):
        other = type(self)()
        for module, mine in zip(other.modules(), self.modules(), strict=True):
            module._parameters, module._buffers = mine._parameters, mine._buffers
        return other


class CountsItsCopies(User):
    """Its copy is another function."""

    def __deepcopy__(self, memo):
        torch.manual_seed(0)
        other = type(self)().eval()
        with torch.no_grad():
            other.out.bias.add_(1.0)
        return other


class Fails(User):
    def forward(self, x):
        raise ValueError("three channels are too few")


class NotFinite(User):
    def forward(self, x):
        return super().forward(x) / 0.0 * 0.0


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (NotCopied, "RuntimeError: no copies, please"),
        (CopiedAsItself, "shares"),
        (SharesItsWeights, "shares"),
        (CountsItsCopies, "logits differ by"),
        (Fails, "ValueError: three channels are too few"),
        (NotFinite, "logits differ by nan"),
        (ReadsTheNorm, "AttributeError"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_what_cannot_be_copied_is_searched_on_itself_and_says_why(kind, why, precision):
    model = kind().train()
    result = searched(model, torch.rand(1, 3, 6, 6), precision)
    assert result.module is model
    assert why in " ".join(result.notes)
    assert "\n" not in " ".join(result.notes)
    assert "searches on the network itself" in result.notes[-1]
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_branch_that_the_probe_did_not_take_is_only_searched_wrongly():
    # Nothing can know of it beforehand; the plain network alone confirms what is found.
    x = torch.rand(4, 3, 6, 6)
    model = some_norms(Branches(), x)
    assert_same_function(model, searched(model, x).module, x)


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="precision='double' is unknown; available: float32, m"):
        searched(User(), torch.rand(1, 3, 6, 6), "double")


def test_no_hook_and_no_watch_stays_after_folding():
    model = User().eval()
    assert fold_batch_norms(model, torch.rand(2, 3, 6, 6)) == 3
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


# The input convolution.

SHAPES = [
    # channels, out, kernel, stride, padding, height, width
    (1, 16, 4, 2, 1, 28, 28),
    (1, 4, 3, 1, 0, 9, 7),
    (3, 5, 3, 1, 1, 8, 8),
    (3, 5, 3, 2, 1, 9, 8),
    (2, 3, 5, 3, 2, 11, 13),
    (4, 3, 2, 3, 0, 10, 9),  # pixels between windows, and beyond the last
    (1, 2, 1, 1, 0, 4, 5),
    (3, 4, (3, 5), (2, 1), (0, 2), 12, 9),
    (1, 3, 7, 4, 3, 15, 16),
    (2, 2, 3, 2, 4, 5, 5),  # more padding than kernel
]


@pytest.mark.parametrize(("channels", "out", "kernel", "stride", "pad", "height", "width"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_input_convolution_has_the_forward_and_the_gradient_of_conv2d(
    channels, out, kernel, stride, pad, height, width, bias
):
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, out, kernel, stride, pad, bias=bias).double()
    mine = InputConvolution(plain)
    x = torch.randn(3, channels, height, width, dtype=torch.float64, requires_grad=True)
    expected = plain(x)
    torch.testing.assert_close(mine(x), expected, rtol=0, atol=0)
    toward = torch.randn_like(expected)
    (theirs,) = torch.autograd.grad((expected * toward).sum(), x)
    (ours,) = torch.autograd.grad((mine(x) * toward).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert ours.is_contiguous()
    assert not list(mine.parameters())


def test_the_input_convolution_takes_many_gradients_at_once_and_second_ones():
    plain = nn.Conv2d(1, 4, 3, 2, 1).double()
    mine = InputConvolution(plain)
    x = torch.randn(2, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(7, *mine(x).shape, dtype=torch.float64)
    for module in (mine, plain):
        one_by_one = [torch.autograd.grad(module(x), x, toward)[0] for toward in towards]
        (together,) = torch.autograd.grad(module(x), x, towards, is_grads_batched=True)
        torch.testing.assert_close(together, torch.stack(one_by_one))
    assert torch.autograd.gradgradcheck(lambda z: mine(z) ** 2, x)


@pytest.mark.parametrize(
    ("module", "fits"),
    [
        (nn.Conv2d(1, 4, 3), True),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1), True),
        (nn.Conv2d(5, 4, 3), False),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.Conv2d(1, 4, 3, dilation=2), False),
        (nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(1, 4, 3, padding="same"), False),
        (nn.Conv2d(1, 4, 3).half(), False),
        (nn.ConvTranspose2d(1, 4, 3), False),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), False),
        (nn.Linear(1, 4), False),
    ],
)
def test_the_input_convolution_stands_for_plain_convolutions_of_few_channels_only(module, fits):
    assert InputConvolution.fits(module) is fits


# float16.


def test_mixed_logits_and_gradients_are_near_and_float32():
    x = torch.rand(6, 3, 6, 6)
    model = some_norms(User(), x)
    result = searched(model, x, "mixed")
    assert result.notes == ("float16 with batch norms folded 3, faster input gradients 1",)
    logits, gradient = logits_and_gradient(result.module, x)
    assert logits.dtype == gradient.dtype == torch.float32
    plain_logits, plain_gradient = logits_and_gradient(model, x)
    assert 0 < (logits - plain_logits).abs().max() < 0.003 * plain_logits.abs().max()
    cosine = F.cosine_similarity(gradient.flatten(1), plain_gradient.flatten(1))
    assert cosine.min() > 0.99
    assert gradient.norm() / plain_gradient.norm() == pytest.approx(1.0, abs=0.02)


def assert_near(mine, plain):
    """Gradients as near as float16 lets them be; a unit may fall on the other side of its kink."""
    mine, plain = mine.flatten(1), plain.flatten(1)
    off = (mine - plain).norm(dim=1) / plain.norm(dim=1)
    assert off.median() < 0.02
    assert off.max() < 0.2


@pytest.mark.parametrize("scale", [2.0**-100, 1e-30, 1e-9, 1.0, 1e6, 1e25])
def test_gradients_of_any_size_come_through_float16(scale):
    x = torch.rand(4, 1, 12, 12)
    model = built("small_cnn", (1, 12, 12), {})
    network = searched(model, x, "mixed").module
    assert isinstance(network, InFloat16)
    _, gradient = logits_and_gradient(network, x, scale)
    _, plain = logits_and_gradient(model, x, scale)
    assert_near(gradient / scale, plain / scale)


def test_each_example_is_scaled_by_itself():
    x = torch.rand(4, 1, 12, 12).requires_grad_(True)
    model = built("small_cnn", (1, 12, 12), {})
    network = searched(model, x.detach(), "mixed").module
    sizes = torch.tensor([1e-20, 1e8, 0.0, 1.0])

    def gradient(module):
        return torch.autograd.grad((module(x)[:, 0] * sizes).sum(), x)[0].flatten(1)

    mine, plain = gradient(network), gradient(model)
    assert torch.equal(mine[2], torch.zeros_like(mine[2]))
    rows = [0, 1, 3]
    assert_near(mine[rows] / sizes[rows, None], plain[rows] / sizes[rows, None])


def test_a_confident_networks_cross_entropy_has_a_gradient_in_float16_too():
    x = torch.rand(8, 1, 12, 12)
    model = built("small_cnn", (1, 12, 12), {})
    with torch.no_grad():
        model.head.bias[2] += 25.0
    y = torch.full((8,), 2)
    network = searched(model, x, "mixed").module
    assert isinstance(network, InFloat16)

    def gradient(module):
        z = x.clone().requires_grad_(True)
        return torch.autograd.grad(F.cross_entropy(module(z), y, reduction="sum"), z)[0]

    plain, mine = gradient(model).flatten(1), gradient(network).flatten(1)
    with torch.autocast("cpu", torch.float16):
        naive = gradient(model).flatten(1)
    assert (naive == 0).all()  # plain autocast loses it
    assert (plain.abs().amax(dim=1) > 1e-14).all()
    assert_near(1e10 * mine, 1e10 * plain)


def test_the_scaling_is_seen_by_no_caller():
    x = torch.rand(3, 1, 12, 12).requires_grad_(True)
    network = searched(built("small_cnn", (1, 12, 12), {}), x.detach(), "mixed").module
    logits = network(x)
    loss = 1e-6 * logits.square().sum()
    at_logits, at_image = torch.autograd.grad(loss, [logits, x], retain_graph=True)
    torch.testing.assert_close(at_logits, 2e-6 * logits.detach())
    # A second backward pass of the same graph has a scaling of its own.
    (other,) = torch.autograd.grad(1e3 * logits[:, 1].sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x)
    assert torch.equal(again, at_image)
    assert other.abs().max() > 1.0
    assert not x._backward_hooks


def test_passes_without_a_gradient_work_in_float16():
    x = torch.rand(3, 1, 12, 12)
    network = searched(built("small_cnn", (1, 12, 12), {}), x, "mixed").module
    with torch.no_grad():
        free = network(x)
    assert not network(x).requires_grad
    assert torch.equal(free, network(x.clone().requires_grad_(True)).detach())


def test_nothing_of_a_float16_pass_waits_for_the_device():
    x = torch.rand(3, 1, 12, 12)
    network = searched(built("small_cnn", (1, 12, 12), {}), x, "mixed").module
    assert syncs(lambda: logits_and_gradient(network, x)) == 0


class Loud(User):
    """Values beyond float16 inside, tame logits."""

    def forward(self, x):
        maps = 1e4 * F.relu(self.bn(self.conv(x)))
        return self.out(1e-4 * self.conv2(maps).flatten(1))


class Steep(User):
    """Gradients beyond float16 inside."""

    def forward(self, x):
        maps = 1e-3 * F.relu(self.bn(self.conv(x)))
        return 1e4 * F.linear(maps.flatten(1), self.out.weight)


class LoudLogits(User):
    def forward(self, x):
        return 1e5 * super().forward(x)


@pytest.mark.parametrize(
    ("kind", "why"), [(Loud, "inside"), (LoudLogits, "inside"), (Steep, "gradients overflow")]
)
def test_a_network_near_to_overflow_is_searched_in_float32(kind, why):
    x = torch.rand(2, 3, 6, 6)
    model = some_norms(kind(), x)
    result = searched(model, x, "mixed")
    assert why in result.notes[0]
    assert result.notes[0].startswith("not float16")
    assert result.notes[1].startswith("float32")
    assert_same_function(model, result.module, x)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_finds_nearly_the_same_on_every_search_network(norm):
    torch.manual_seed(0)
    x = torch.rand(200, 1, 12, 12)
    model = built("small_cnn", (1, 12, 12), {})
    y = model(x).argmax(dim=1)
    broken = {}
    for name in ("plain", "float32", "mixed"):
        network = model if name == "plain" else searched(model, x, name).module
        x_adv = pgd(
            network,
            x,
            y,
            norm=norm,
            eps=0.01 if norm == "Linf" else 0.08,
            alpha=0.0025 if norm == "Linf" else 0.02,
            steps=10,
            restarts=1,
            loss="ce",
            start="uniform",
            keep="best_loss",
            ids=torch.arange(len(x)),
            seed=0,
        )
        broken[name] = model(x_adv).argmax(dim=1) != y
    assert 40 < broken["plain"].sum() < 160
    assert (broken["plain"] != broken["float32"]).sum() == 0
    assert (broken["plain"] != broken["mixed"]).sum() <= 4
