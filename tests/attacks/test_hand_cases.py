"""What every attack must get right by hand, whatever it does inside: one table for all of them."""

import functools
import math
from fractions import Fraction

import pytest
import torch
from conftest import small_net
from torch import nn

from robustbench_lite.attacks.catalogue import ATTACKS
from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.verifier import largest_norm, verify

_APGD = {"steps": 6, "restarts": 1, "rho": 0.75, "eot": 1, "staged_eps": False}
_FAB = {"steps": 6, "restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
_ALL = ("Linf", "L2", "L1")
# name: norms, and parameters, alpha in units of eps
TABLE = {
    "fgsm": (("Linf", "L2"), {}),
    "pgd": (
        ("Linf", "L2"),
        {"loss": "ce", "alpha": 0.25, "steps": 8, "restarts": 2}
        | {"start": "uniform", "keep": "best_loss"},
    ),
    "pgd_int": (
        ("Linf",),
        {"loss": "ce", "alpha": 0.25, "steps": 8, "rounding": "round", "start": "uniform"},
    ),
    "cw_l2": (
        ("L2",),
        {"kappa": 0.0, "lr": 0.02, "steps": 20, "search_steps": 2, "initial_c": 10.0},
    ),
    "apgd_ce": (_ALL, _APGD),
    "apgd_dlr": (_ALL, _APGD),
    "apgd_t": (_ALL, _APGD | {"targets": 2}),
    "fab": (_ALL, _FAB),
    "fab_t": (_ALL, _FAB | {"targets": 2}),
    "square": (_ALL, {"queries": 20, "restarts": 1, "p_init": 0.8}),
}
ELSEWHERE = {"autoattack", "reference:autoattack", "torchattacks"}  # made of others
STAGED = {"apgd_ce": _APGD | {"staged_eps": True}, "apgd_t": _APGD | {"staged_eps": True}}
EPS = {"Linf": Fraction(16, 255), "L2": Fraction(1, 4), "L1": Fraction(3, 4)}
CASES = [(name, norm) for name, (norms, _) in TABLE.items() for norm in norms]
SLOTTED = [name for name, (norms, _) in TABLE.items() if norms == _ALL]  # clean where they fail

every_attack = pytest.mark.parametrize(("name", "norm"), CASES)


def attack(name, norm, model, x, y, *, eps=None, ids=None, batch_size=12, network=None, **changes):
    """The attack as a protocol runs it."""
    threat = ThreatModel(norm, EPS[norm] if eps is None else eps)
    params = TABLE[name][1] | changes
    if "alpha" in params:
        params["alpha"] = float(params["alpha"] * threat.eps)
    spec = AttackSpec(name, name, name, params)
    spec.check(threat, num_classes=10)
    ids = torch.arange(len(x)) if ids is None else ids
    return run_attack(
        spec,
        model,
        x,
        y,
        threat=threat,
        ids=ids,
        seed=0,
        batch_size=batch_size,
        network=network,
    )


def broken(norm, model, x, x_adv, y, *, eps=None):
    threat = ThreatModel(norm, EPS[norm] if eps is None else eps)
    return verify(model, x, x_adv, y, threat=threat, batch_size=100).broken


def assert_allowed(name, norm, x, x_adv, *, eps=None):
    """In the box and, for attacks that know a radius, in the ball as the verifier has it."""
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    assert ((x_adv >= 0.0) & (x_adv <= 1.0)).all()
    delta = (x_adv.double() - x.double()).flatten(1)
    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[norm]
    size = torch.linalg.vector_norm(delta, ord=order, dim=1)
    if name != "cw_l2":
        assert (size <= largest_norm(norm, float(EPS[norm] if eps is None else eps))).all()


@functools.cache
def smooth(shape, classes):
    """A smooth network of random weights, twelve images, and what it takes them for: some are near
    a boundary, some are not."""
    generator = torch.Generator().manual_seed(0)
    size, hidden = math.prod(shape), 16
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(size, hidden), nn.Softplus(beta=5), nn.Linear(hidden, classes)
    )
    with torch.no_grad():
        for layer, spread in ((net[1], 2.0 / size**0.5), (net[3], 1.0)):
            layer.weight.normal_(std=spread, generator=generator)
            layer.bias.copy_(-layer.weight.sum(dim=1) * (0.5 if layer is net[1] else 0.14))
    x = torch.rand(12, *shape, generator=generator)
    x[:, :, 0] = x[:, :, 0].round()  # pixels that are exactly 0 and 1
    return net.eval().requires_grad_(False), x, net(x).argmax(dim=1)


def test_the_table_has_every_attack_that_a_protocol_can_name():
    ours = {name for name in ATTACKS if ATTACKS[name].target.startswith("robustbench_lite.")}
    assert ours == set(TABLE) | ELSEWHERE


class Constant(nn.Module):
    """Class 0, with a gradient that is exactly zero."""

    def forward(self, x):
        return torch.tensor([2.0, 1.0, 0.0, 0.0, -1.0]) + 0.0 * x.flatten(1).sum(1, keepdim=True)


@every_attack
def test_a_constant_classifier_cannot_be_broken(name, norm):
    x, y = torch.rand(7, 2, 3, 4), torch.zeros(7, dtype=torch.long)
    x_adv = attack(name, norm, Constant(), x, y)
    assert_allowed(name, norm, x, x_adv)
    assert not broken(norm, Constant(), x, x_adv, y).any()
    if name in (*SLOTTED, "cw_l2"):
        assert torch.equal(x_adv, x), "a failed example comes back clean"


@every_attack
def test_images_that_are_already_wrong_stay_wrong(name, norm):
    net, x, predicted = smooth((1, 4, 5), 2)
    x_adv = attack(name, norm, net, x, 1 - predicted)
    assert_allowed(name, norm, x, x_adv)
    assert broken(norm, net, x, x_adv, 1 - predicted).all()
    if name in (*SLOTTED, "cw_l2"):
        assert torch.equal(x_adv, x), "there was nothing to do"


@every_attack
def test_no_images_give_no_images(name, norm):
    net, x, y = smooth((2, 3, 4), 5)
    assert attack(name, norm, net, x[:0], y[:0]).shape == (0, 2, 3, 4)
    params = TABLE[name][1] | ({"alpha": 4 / 255} if "alpha" in TABLE[name][1] else {})
    terms = RunTerms(norm, float(EPS[norm]), torch.arange(0), seed=0, stream="s", batch_size=4)
    assert ATTACKS.load(name)(**params)(net, x[:0], y[:0], terms).shape == (0, 2, 3, 4)


@every_attack
@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 6, 2), (3, 4, 5)])
def test_images_of_any_shape_stay_inside_ball_and_box_and_some_break(name, norm, shape):
    net, x, y = smooth(shape, 5)
    x_adv = attack(name, norm, net, x, y)
    assert_allowed(name, norm, x, x_adv)
    assert broken(norm, net, x, x_adv, y, eps=Fraction(1) if name == "cw_l2" else None).any()


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("shape", [(1, 1, 7), (3, 4, 4)])
def test_stages_of_a_larger_radius_end_inside_the_ball(name, shape, monkeypatch):
    monkeypatch.setitem(TABLE, name, (("L1",), TABLE[name][1] | STAGED[name]))
    net, x, y = smooth(shape, 5)
    x_adv = attack(name, "L1", net, x, y)
    assert_allowed(name, "L1", x, x_adv)
    assert broken("L1", net, x, x_adv, y).any()


@pytest.mark.parametrize(("name", "norm"), [case for case in CASES if case[0] != "cw_l2"])
def test_a_radius_of_zero_changes_nothing(name, norm):
    net, x, y = smooth((2, 5, 3), 5)
    x_adv = attack(name, norm, net, x, y, eps=Fraction(0))
    torch.testing.assert_close(x_adv, x, rtol=0, atol=1e-7)


DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}


@every_attack
def test_two_classes_are_enough_and_the_verdicts_are_those_of_the_closed_form(linear, name, norm):
    model, x, y = linear
    score = (x.flatten(1) @ model.weight + model.bias).abs().detach()
    distance = score / torch.linalg.vector_norm(model.weight.detach(), ord=DUAL[norm])
    eps = Fraction(12, 255) if norm == "Linf" else Fraction(3, 20)  # the box is farther away
    x_adv = attack(name, norm, model, x, y, eps=eps)
    assert_allowed(name, norm, x, x_adv, eps=eps)
    fell = broken(norm, model, x, x_adv, y, eps=eps)
    assert not fell[distance > 1.001 * eps].any(), "nobody breaks what cannot be broken"
    # FAB's move is a share of the distance to the boundary: an image exactly on it does not move.
    near = (distance < 0.7 * eps) & (distance > 0)
    assert 5 < near.sum() < 35
    # Random search, and few steps towards the smallest perturbation, are not exact.
    assert fell.any() if name in ("square", "cw_l2") else fell[near].all()


@every_attack
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_huge_and_tiny_logits_stop_no_attack_that_is_made_for_them(name, norm, scale):
    net, x, y = smooth((2, 5, 3), 5)

    class Scaled(nn.Module):
        def forward(self, x):
            return scale * net(x)

    x_adv = attack(name, norm, Scaled(), x, y)
    assert_allowed(name, norm, x, x_adv)
    fell = int(broken(norm, Scaled(), x, x_adv, y).sum())
    expected = int(broken(norm, net, x, attack(name, norm, net, x, y), y).sum())
    if name in ("apgd_dlr", "apgd_t", "fab", "fab_t", "square"):
        assert fell == expected > 0
    elif scale < 1.0 and name != "cw_l2":  # cross-entropy is flat at 1e4; cw_l2 weighs by its c
        assert fell >= 0.5 * expected > 0


class Half(nn.Module):
    """A network that gives float16 logits."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x).half()


@every_attack
def test_a_network_may_give_half_precision_logits(name, norm):
    net, x, y = smooth((2, 5, 3), 5)
    x_adv = attack(name, norm, Half(net), x, y)
    assert_allowed(name, norm, x, x_adv)
    fell = broken(norm, Half(net), x, x_adv, y)
    expected = broken(norm, net, x, attack(name, norm, net, x, y), y)
    assert abs(int(fell.sum()) - int(expected.sum())) <= 2


@every_attack
def test_modes_gradients_and_parameters_are_left_alone(name, norm):
    net = small_net()
    net.train()
    net[3].eval()  # a mixed state must come back mixed
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    x = torch.rand(6, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    given = x.clone()
    with torch.no_grad():
        y = net.eval()(x).argmax(dim=1)
    net.train()
    net[3].eval()
    state = torch.get_rng_state()
    attack(name, norm, net, x, y)
    assert torch.equal(x, given), "the images are the caller's"
    assert torch.equal(state, torch.get_rng_state()), "draws come from the counter alone"
    assert [module.training for module in net] == [True, True, True, False, True, True]
    assert [p.requires_grad for p in net.parameters()] == [False] + 5 * [True]
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))
    assert all(p.grad is None for p in net.parameters() if p is not net[5].weight)
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())


@every_attack
def test_the_result_depends_on_neither_batch_nor_order_nor_company(name, norm):
    # In float64, so that rounding, which differs between batches, is too small to be amplified.
    net, x, y = smooth((2, 5, 3), 5)
    net = nn.Sequential(*net).double()
    try:
        x, ids = x.double(), 100 + torch.arange(12)
        more = {"restarts": 2} if "restarts" in TABLE[name][1] else {}
        expected = attack(name, norm, net, x, y, ids=ids, **more)
        order = torch.tensor([7, 2, 11, 0, 5, 3])
        others = {
            "shuffled, in small batches": (order, 4),
            "one by one": (torch.arange(3), 1),
            "alone": (torch.tensor([4]), 3),
        }
        for what, (rows, batch_size) in others.items():
            place = {"ids": ids[rows], "batch_size": batch_size}
            found = attack(name, norm, net, x[rows], y[rows], **place, **more)
            torch.testing.assert_close(found, expected[rows], rtol=0, atol=1e-6, msg=what)
    finally:
        net.float()
    moved = (expected != x).flatten(1).any(dim=1)
    assert moved.any(), "otherwise the test says little"


@every_attack
def test_the_seed_and_the_ids_fix_every_draw(name, norm):
    net, x, y = smooth((3, 4, 4), 5)
    first, again = (attack(name, norm, net, x, y) for _ in range(2))
    assert torch.equal(first, again)


class Fickle(nn.Module):
    """Another network than the verifier: it takes every image for class 1."""

    def forward(self, x):
        score = x.flatten(1).sum(dim=1)
        return torch.stack([score, score + 9.0, *3 * [0.0 * score]], dim=1)


@pytest.mark.parametrize(("name", "norm"), [case for case in CASES if case[0] in SLOTTED])
def test_claims_of_the_network_searched_on_count_only_when_the_model_confirms_them(name, norm):
    # The verifier never errs, so whatever the other network shows is a false claim.
    x, y = torch.rand(6, 2, 3, 4), torch.zeros(6, dtype=torch.long)
    x_adv = attack(name, norm, Constant(), x, y, network=Fickle())
    assert torch.equal(x_adv, x)
