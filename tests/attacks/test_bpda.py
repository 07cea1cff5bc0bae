"""BPDA: the true value forward, another gradient backward, and every attack through it."""

import copy
import io
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LinearBinary, small_net
from PIL import Image
from torch import nn

from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.first_order.bpda import Bpda, identity
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.verifier import verify

DOC = Path(__file__).parents[2] / "docs" / "bpda.md"


def quantise(x):
    return (4.0 * x).round() / 4.0


def thermometer(x, levels=3):
    """(B, C, H, W) to (B, C * levels, H, W): is the pixel above 1/4, 2/4, 3/4?"""
    limits = torch.arange(1, levels + 1, dtype=x.dtype).view(1, 1, levels, 1, 1) / (levels + 1)
    return (x[:, :, None] > limits).to(x.dtype).flatten(1, 2)


def soft_thermometer(x, levels=3):
    limits = torch.arange(levels, dtype=x.dtype).view(1, 1, levels, 1, 1) / (levels + 1)
    return ((x[:, :, None] - limits) * 2.0).sigmoid().flatten(1, 2)


def jpeg(x):
    """Through real files, in numpy."""
    out = []
    for image in x.numpy():
        file = io.BytesIO()
        pixels = (255 * image[0]).round().astype(np.uint8)
        Image.fromarray(pixels).save(file, "jpeg", quality=30)
        out.append(np.asarray(Image.open(file), dtype=np.float32)[None] / 255)
    return torch.from_numpy(np.stack(out))


def gradient(function, x):
    x = x.detach().requires_grad_(True)
    (out,) = torch.autograd.grad(function(x).sum(), x)
    return out


@pytest.fixture
def x():
    return torch.rand(5, 1, 6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("preprocess", "approximation"),
    [(quantise, identity), (thermometer, soft_thermometer), (jpeg, identity), (identity, quantise)],
)
def test_forward_is_the_preprocessing_bit_for_bit_with_and_without_gradients(
    x, preprocess, approximation
):
    layer = Bpda(preprocess, approximation)
    expected = preprocess(x)
    assert torch.equal(layer(x), expected)
    with_graph = layer(x.clone().requires_grad_(True))
    assert with_graph.requires_grad
    assert torch.equal(with_graph.detach(), expected)
    with torch.no_grad():
        out = layer(x.clone().requires_grad_(True))
    assert not out.requires_grad
    assert torch.equal(out, expected)


def test_backward_is_the_approximations_gradient_at_x_times_the_rest_at_the_true_value(x):
    # f(z) = z^3 after g = quantise with approximation s(x) = x^2: the gradient is 3 g(x)^2 * 2 x.
    x = x.double()
    found = gradient(lambda x: Bpda(quantise, torch.square)(x) ** 3, x)
    torch.testing.assert_close(found, 3 * quantise(x) ** 2 * 2 * x)
    assert (gradient(lambda x: quantise(x) ** 3, x) == 0).all(), "without it there is none"


def test_gradient_agrees_with_finite_differences_where_both_functions_are_one(x):
    class Smooth(nn.Module):
        def forward(self, x):
            return torch.cat([x.sin(), x * x.roll(1, dims=3)], dim=1)

    layer = Bpda(lambda x: Smooth()(x).detach(), Smooth())
    x = x[:2].double().requires_grad_(True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


@pytest.mark.parametrize(
    ("preprocess", "approximation"), [(quantise, identity), (thermometer, soft_thermometer)]
)
def test_an_examples_gradient_does_not_depend_on_its_batch(x, preprocess, approximation):
    torch.manual_seed(0)
    channels = preprocess(x).shape[1]
    model = nn.Sequential(Bpda(preprocess, approximation), nn.Conv2d(channels, 3, 3)).double()
    together = gradient(lambda x: model(x).square(), x.double())
    for row in range(len(x)):
        alone = gradient(lambda x: model(x).square(), x[row : row + 1].double())
        torch.testing.assert_close(alone[0], together[row])
    assert together.abs().max() > 0


def test_the_approximation_runs_only_where_a_gradient_is_asked_for(x):
    calls = []

    def counted(x):
        calls.append("approximation")
        return x

    layer = Bpda(quantise, counted)
    layer(x)
    with torch.no_grad():
        layer(x.clone().requires_grad_(True))
    assert calls == []
    gradient(layer, x)
    assert calls == ["approximation"]


def test_the_preprocessing_runs_once_a_pass(x):
    calls = []

    def counted(x):
        calls.append("preprocess")
        return quantise(x)

    gradient(Bpda(counted, identity), x)
    assert calls == ["preprocess"]


@pytest.mark.parametrize("preprocess", [quantise, lambda x: quantise(x.float())])
def test_half_precision_images_get_half_precision_gradients(x, preprocess):
    x = x.half()
    layer = Bpda(preprocess, identity)
    out = layer(x.clone().requires_grad_(True))
    assert out.dtype == preprocess(x).dtype
    found = gradient(lambda x: 3.0 * layer(x), x)
    assert found.dtype == torch.float16
    assert (found == 3.0).all()


def test_it_repeats_and_copies_and_shares_no_state_between_calls(x):
    approximation = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    layer = Bpda(quantise, approximation)
    first, second = gradient(layer, x), gradient(layer, x)
    assert torch.equal(first, second)
    # Two passes before any backward: each backward belongs to its own pass.
    a, b = x.clone().requires_grad_(True), (2 * x).requires_grad_(True)
    squares = Bpda(quantise, torch.square)
    outs = squares(a), squares(b)
    torch.testing.assert_close(torch.autograd.grad(outs[0].sum(), a)[0], 2 * a.detach())
    torch.testing.assert_close(torch.autograd.grad(outs[1].sum(), b)[0], 2 * b.detach())
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        approximation.weight.zero_()
    assert torch.equal(gradient(twin, x), first)
    assert (gradient(layer, x) == 0).all()


def test_modules_inside_are_submodules_and_functions_leave_no_trace():
    norm = nn.BatchNorm2d(1)
    model = nn.Sequential(Bpda(norm, nn.Conv2d(1, 1, 1)), nn.Flatten(), nn.Linear(24, 2))
    assert set(model.state_dict()) > {"0.preprocess.running_mean", "0.approximation.weight"}
    model.eval()
    assert not norm.training
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].approximation.weight.add_(1.0)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].approximation.weight, model[0].approximation.weight)
    assert Bpda(quantise, identity).state_dict() == {}


def test_layers_that_work_in_place_may_follow_it(x):
    layer = Bpda(lambda x: quantise(x) - 0.5, identity)
    found = gradient(lambda x: nn.ReLU(inplace=True)(layer(x)), x)
    assert torch.equal(found, (quantise(x) > 0.5).float())


@pytest.mark.parametrize(
    ("preprocess", "approximation", "message"),
    [
        (thermometer, identity, r"approximation gives shape (5, 1, 6, 4), preprocess (5, 3, 6, 4)"),
        (lambda x: (255 * x).byte(), identity, "preprocess gives torch.uint8"),
        (lambda x: x.numpy(), identity, "preprocess gives ndarray"),
        (quantise, torch.ones_like, "approximation gives nothing that depends on its input"),
        (quantise, lambda x: x.detach(), "approximation gives nothing that depends on its input"),
        (quantise, lambda x: x.detach().numpy(), "approximation gives nothing that depends"),
    ],
)
def test_what_does_not_fit_is_named(x, preprocess, approximation, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Bpda(preprocess, approximation)(x.clone().requires_grad_(True))


def test_a_preprocessing_that_gives_no_numbers_is_named_without_gradients_too(x):
    with pytest.raises(InputError, match="preprocess gives torch.uint8"):
        Bpda(lambda x: (255 * x).byte(), identity)(x)


def test_there_is_no_default_approximation():
    with pytest.raises(TypeError, match="approximation"):
        Bpda(quantise)


class Quantise(nn.Module):
    def forward(self, x):
        return quantise(x)


APGD = {"steps": 10, "restarts": 1, "rho": 0.75, "eot": 1, "staged_eps": False}
FAB = {"steps": 20, "restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
PGD = {"alpha": 0.05, "steps": 10, "restarts": 1, "start": "none", "keep": "best_loss"}
ATTACKS = {
    "fgsm": {},
    "pgd": PGD | {"loss": "ce"},
    "pgd/margin": PGD | {"loss": "margin", "kappa": 50.0},
    "apgd_ce": APGD,
    "apgd_dlr": APGD,
    "apgd_t": APGD | {"targets": 1},
    "fab": FAB,
    "fab_t": FAB | {"targets": 1},
}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_gradient_attack_goes_through_quantisation_and_stands_still_without(name):
    # Pixels 0.45 are rounded to 0.5; 0.075 away they are rounded to 0.25, and 11 of the 16 so
    # change the class. At 0.2 every image can be broken, yet a gradient of zero leads nowhere,
    # and a random start moves three pixels in ten so far.
    x, y = torch.full((6, 1, 4, 4), 0.45), torch.ones(6, dtype=torch.long)
    linear = LinearBinary(torch.ones(16), -16 * 0.34)
    plain = nn.Sequential(Quantise(), linear).eval()
    threat = ThreatModel("Linf", parse_eps("0.2"))
    spec = AttackSpec(name.replace("/", "_"), name, name.split("/")[0], ATTACKS[name])
    broken = {}
    for model in (plain, nn.Sequential(Bpda(quantise, identity), linear)):
        x_adv = run_attack(
            spec, model, x, y, threat=threat, ids=torch.arange(6), seed=0, batch_size=4
        )
        verdict = verify(plain, x, x_adv, y, threat=threat, batch_size=6)
        broken[model is plain] = int(verdict.broken.sum())
    assert broken == {True: 0, False: 6}


def test_the_network_searched_on_has_the_same_gradients(x):
    torch.manual_seed(0)
    net = small_net(channels=1)
    model = nn.Sequential(Bpda(quantise, nn.Conv2d(1, 1, 3, padding=1)), net).eval()
    images = torch.rand(5, 1, 6, 5)
    found = search_network(model, precision="float32", device=torch.device("cpu"), like=images[0])
    assert found.module is not model, found.notes
    assert not any(isinstance(module, nn.BatchNorm2d) for module in found.module.modules())
    torch.testing.assert_close(
        gradient(found.module, images), gradient(model, images), rtol=1e-4, atol=1e-6
    )


def test_a_network_behind_it_can_be_trained(x):
    linear = nn.Linear(24, 3)
    model = nn.Sequential(Bpda(quantise, identity), nn.Flatten(), linear)
    for images in (x, x.clone().requires_grad_(True)):
        linear.weight.grad = None
        model(images).sum().backward()
        expected = quantise(x).flatten(1).sum(dim=0).expand(3, -1)
        torch.testing.assert_close(linear.weight.grad, expected)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOC.read_text(), flags=re.DOTALL)


@pytest.fixture
def example(checkpoint, tmp_path, monkeypatch):
    """The documented file beside a trained network, and the documented evaluations of it."""
    code = blocks("python")[0]
    (tmp_path / "quantised.py").write_text(code)
    shutil.copytree(checkpoint, tmp_path / "runs" / "digits_standard" / "best")
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    return [command[1:] for command in commands if command[:2] == ["rbl", "evaluate"]]


def test_the_documented_example_shows_what_it_says(example, capsys):
    assert [command[2] for command in example] == ["quantised.py:masked", "quantised.py:exposed"]
    robust = []
    for command in example:
        assert main([*command, "--n", "60", "--threads", "1", "--device", "cpu"]) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if "quantised.py" in line)
        clean, pgd = re.findall(r"\d+\.\d\d", row)[:2]
        robust.append((float(clean), float(pgd)))
    (clean, masked), (same_clean, exposed) = robust
    assert clean == same_clean
    assert masked > clean - 5
    assert exposed < masked - 30


def test_the_documented_thermometer_code_is_attacked_through_its_approximation(x):
    names = {}
    exec(blocks("python")[1], names)
    out = names["encode"](x)
    assert out.shape == (5, 9, 6, 4)
    assert torch.equal(out.sum(dim=1), (10 * x[:, 0]).ceil() - 1), "as many as limits below x"
    found = gradient(lambda x: names["encode"](x).sum(dim=1), x)
    assert (found > 2.0).all(), "ten limits per unit, fewer near 0 and 1"
    assert (found < 11.0).all()
