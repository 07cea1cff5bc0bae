"""`rbl.attack`: every way of naming an attack, what it refuses, and that the network stays."""

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import small_net
from torch import nn

import robustbench_lite as rbl
from robustbench_lite.api.network import classes_of, ready
from robustbench_lite.core.errors import InputError

EPS = 8 / 255


def test_images_stay_in_ball_and_box_and_the_network_as_it_was(net, images):
    x, y = images
    net.train()
    net[3].eval()
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x_adv = rbl.attack(net, x, y, "pgd20_ce", eps=EPS)
    assert (x_adv - x).abs().max() <= EPS + 1e-6
    assert x_adv.min() >= 0.0
    assert x_adv.max() <= 1.0
    assert not torch.equal(x_adv, x)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(one.requires_grad and one.grad is None for one in net.parameters())


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        (rbl.PGD(steps=3), None),
        (rbl.PGD(steps=3, loss="margin", norm="L2"), None),
        (rbl.APGD(steps=3), "L2"),
        (rbl.APGD("dlr_targeted", steps=3, targets=2), None),
        (rbl.CW(steps=3, search_steps=2), None),
        (rbl.Square(queries=5), "L1"),
        ("fgsm", None),
        ("cwinf20_k50", None),
        ("pgd20_ce_l2", None),
    ],
)
def test_objects_and_names_of_attacks_run(net, images, attack, norm):
    x, y = images
    x_adv = rbl.attack(net, x, y, attack, eps=0.1, norm=norm)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == torch.float32


def test_eps_is_the_same_however_it_is_written(net, images):
    x, y = images
    written = (EPS, "8/255", Fraction(8, 255), np.float64(EPS))
    found = [rbl.attack(net, x, y, rbl.PGD(steps=2), eps=eps) for eps in written]
    assert all(torch.equal(one, found[0]) for one in found)


def test_arrays_and_bytes_are_images_too(net, images):
    x, y = (x * 255 for x in images[:1]), images[1]
    whole = next(x).round().to(torch.uint8)
    floats = whole.float() / 255
    expected = rbl.attack(net, floats, y, rbl.PGD(steps=2), eps=EPS)
    for given in (whole, whole.numpy(), floats.numpy(), floats.double()):
        labels = y.numpy() if isinstance(given, np.ndarray) else y
        assert torch.equal(rbl.attack(net, given, labels, rbl.PGD(steps=2), eps=EPS), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: ((x - 0.5) / 0.2, y), r"must be in \[0, 1\]: were they normalised"),
        (lambda x, y: (x * 255, y), r"must be in \[0, 1\]: divide by 255"),
        (lambda x, y: ((x * 255).long(), y), "are torch.int64; give floats"),
        (lambda x, y: (x[0], y[:1]), r"must be \(N, C, H, W\): add the channel"),
        (lambda x, y: (x[:0], y[:0]), "give at least one"),
        (lambda x, y: (x, y + 1), r"row \d has label 5, but there are 5 classes, 0 to 4"),
        (lambda x, y: (x, y - 1), r"row \d has label -1"),
        (lambda x, y: (x, torch.eye(5)[y]), r"one-hot rows give labels.argmax"),
        (lambda x, y: (x, y.float()), r"torch.float32 .*give labels.long\(\)"),
        (lambda x, y: (x, y.int()), r"torch.int32 .*give labels.long\(\)"),
        (lambda x, y: (x, y[:3]), r"holds int64 \(7,\)"),
        (lambda x, y: (x, ["cat"] * 7), "make no tensor"),
    ],
)
def test_wrong_images_and_labels_are_refused_with_what_to_do(net, images, change, message):
    y = images[1].clone()
    y[:2] = torch.tensor([0, 4])
    x, y = change(images[0], y)
    with pytest.raises(InputError, match=message) as refusal:
        rbl.attack(net, x, y, eps=EPS)
    assert len(str(refusal.value)) <= 300


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attack": "pgd20"}, "did you mean pgd20_ce"),
        ({"attack": "AutoAttack"}, "did you mean aa_standard?"),
        ({"attack": "pgd"}, "did you mean pgd20_ce?"),
        ({"attack": "pgd20_ce", "norm": "L2"}, "unknown attack in L2 'pgd20_ce'; did you mean"),
        ({"attack": rbl.PGD, "eps": 0.1}, "give a name such as 'pgd20_ce', or an object"),
        ({"attack": rbl.CW(), "norm": "Linf"}, r"rbl.PGD\(loss=\"margin\"\)"),
        ({"attack": rbl.APGD("hinge")}, "unknown loss of APGD 'hinge'"),
        ({"attack": rbl.PGD(steps=-1)}, "steps"),
        ({"eps": None}, "needs a radius: give eps"),
        ({"eps": 8}, r"did you mean 8/255\?"),
        ({"norm": "L3"}, "norm='L3' is unknown"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5 is a float; it must be an int"),
        ({"seed": "a"}, "seed='a' is a str"),
        ({"seed": True}, "seed=True is a bool"),
        ({"batch_size": -1}, "batch_size=-1 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5 is a float"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(net, images, given, message):
    with pytest.raises(InputError, match=message) as refusal:
        rbl.attack(net, *images, **{"eps": EPS} | given)
    assert "\n" not in str(refusal.value)


class Frozen(nn.Module):
    """Keeps its batch norm in eval mode, and forgets to return itself."""

    def __init__(self):
        super().__init__()
        self.net = small_net()

    def train(self, mode=True):
        super().train(mode)
        self.net[1].training = False

    def forward(self, x):
        return self.net(x)


def test_functions_and_unusual_modules_are_attacked(net, images):
    x, y = images
    net.eval()
    expected = rbl.attack(net, x, y, rbl.PGD(steps=2), eps=EPS)

    def function(batch):
        return net(batch)

    frozen = Frozen()
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    with torch.inference_mode():
        inferred = small_net()
    assert torch.equal(rbl.attack(function, x, y, rbl.PGD(steps=2), eps=EPS), expected)
    for model in (frozen, lazy, inferred):
        assert not torch.equal(rbl.attack(model, x, y, rbl.PGD(steps=2), eps=EPS), x)
    with pytest.raises(InputError, match="give an nn.Module, a function"):
        rbl.attack(nn.Linear, x, y, eps=EPS)


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(net, images, block):
    expected = rbl.attack(net, *images, rbl.PGD(steps=2), eps=EPS)
    with block():
        x = images[0].clone()
        assert torch.equal(rbl.attack(net, x, images[1], rbl.PGD(steps=2), eps=EPS), expected)


def test_autocast_around_it_changes_nothing(net, images):
    expected = rbl.attack(net, *images, rbl.APGD(steps=2), eps=EPS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rbl.attack(net, *images, rbl.APGD(steps=2), eps=EPS), expected)


@pytest.mark.parametrize("attack", ["pgd20_ce", rbl.APGD("dlr_targeted", 3), rbl.Square(5)])
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_one_image_and_odd_shapes(attack, classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(5 * 3 * 7, classes))
    x = torch.rand(1, 5, 3, 7)
    for y in (model(x).argmax(1), 1 - model(x).argmax(1).clamp_max(1)):  # right, and wrong
        assert rbl.attack(model, x, y, attack, eps=EPS).shape == x.shape


def test_a_network_without_gradients_is_one_line_for_attacks_that_need_them(net, images):
    def function(batch):
        return net(batch.detach())

    with pytest.raises(InputError, match="fails on model function"):
        rbl.attack(function, *images, eps=EPS)
    assert rbl.attack(function, *images, rbl.Square(queries=5), eps=EPS).shape == images[0].shape


class Noisy(nn.Module):
    """Logits with noise of torch, numpy and Python."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        noise = np.random.rand() + random.random()
        return logits + 0.01 * torch.randn_like(logits) + noise


def random_states():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.mark.parametrize("call", ["attack", "evaluate", "AutoAttack"])
def test_global_random_states_stay_whatever_the_network_draws(net, images, call):
    x, y = images
    before = random_states()
    if call == "attack":
        rbl.attack(Noisy(net), x, y, rbl.PGD(steps=2), eps=EPS)
    elif call == "evaluate":
        rbl.evaluate(Noisy(net), (x, y), rbl.PGD(steps=2), eps=EPS)
    else:
        adversary = rbl.AutoAttack(Noisy(net), eps=EPS, verbose=False)
        adversary.apgd.n_iter = 2
        adversary.attacks_to_run = ["apgd-ce"]
        adversary.run_standard_evaluation(x, y)
    assert random_states() == before


def test_draws_of_the_network_are_those_of_the_seed(net, images):
    attacked = [rbl.attack(Noisy(net), *images, rbl.Square(5), EPS, seed=seed) for seed in (1, 1)]
    assert torch.equal(*attacked)


class Counting(nn.Module):
    """Another network after each pass."""

    def __init__(self, network):
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, x):
        self.passes += 1
        return self.network(x)


def test_asking_for_the_number_of_classes_does_not_change_a_network(net, images):
    model = Counting(net)
    with ready(model) as (source, _):
        assert classes_of(source, images[0][:1]) == 5
    assert model.passes == 0
