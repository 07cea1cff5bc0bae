"""`gradient_disagrees` and `zero_gradients`: what raises them, and what close by does not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from digits_networks import Around, trained_on_digits
from torch import nn

from robustbench_lite.attacks.first_order.bpda import Bpda, identity
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.core.flag_rules import FLAGS
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.flags.network_checks import measure_flags

BY_NAME = {flag.name: flag for flag in FLAGS}


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "test")


@pytest.fixture(scope="module")
def base():
    return trained_on_digits()


class _Backward(torch.autograd.Function):
    """The identity, with `change` done to its gradient."""

    @staticmethod
    def forward(context, x, change):
        context.change = change
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return context.change(gradient), None


def backward(change):
    return lambda base, x: base(_Backward.apply(x, change))


def masked(base, x):
    """40 % of the pixels give no gradient."""
    order = torch.arange(64) * 37 % 64  # a fixed permutation
    keep = (order >= 26).float().view(1, 1, 8, 8)
    return base(x * keep + x.detach() * (1 - keep))


def straight_through(levels):
    return lambda base, x: base(x + ((levels * x).round() / levels - x).detach())


def winners(base, x):
    """The 16 largest of 64 hidden values (k-winners-take-all): a function with jumps."""
    hidden = base[1](x.flatten(1))
    least = hidden.topk(16, dim=1).values[:, -1:]
    return base[3](hidden * (hidden >= least))


def checks(model, x, y, *, norm="Linf", eps="0.1", passes=1, seed=0, batch_size=40):
    threat = ThreatModel(norm, parse_eps(eps))
    return measure_flags(
        model, x, y, threat=threat, seed=seed, batch_size=batch_size, passes=passes
    ).checks


def disagreement(model, digits, **terms):
    return checks(model, digits.pixels(slice(0, 70)), digits.labels[:70], **terms)[
        "gradient_disagrees"
    ]


DISAGREE = {
    "40 % of the pixels without gradient": masked,
    "blurred": backward(
        lambda g: F.interpolate(F.avg_pool2d(g, 4), scale_factor=4, mode="nearest")
    ),
    "signs turned at random": backward(lambda g: g * (2 * (torch.rand_like(g) > 0.5) - 1)),
    "rolled by a pixel": backward(lambda g: g.roll(1, dims=3)),
    "four levels, straight through, not declared": straight_through(4),
}
AGREE = {
    "as it is": lambda base, x: base(x),
    "logits x 100": lambda base, x: 100 * base(x),
    "logits + 1000": lambda base, x: base(x) + 1000,
    "in half precision": lambda base, x: base(x).half(),
    "k winners take all": winners,
    "8 bits, straight through": straight_through(255),
    "shattered, but truly so": lambda base, x: base(x + 0.03 * torch.sin(100 * x)),
    "gradient twice as long": backward(lambda g: 2 * g),
    "noise, the same for both sides": lambda base, x: base(x + 0.05 * torch.randn_like(x)),
}


@pytest.mark.parametrize("name", DISAGREE)
def test_gradients_of_another_function_are_seen(name, base, digits):
    check = disagreement(Around(base, DISAGREE[name]), digits)
    assert BY_NAME["gradient_disagrees"].is_raised(check), check
    assert check.points > 60


@pytest.mark.parametrize("name", AGREE)
def test_gradients_of_the_function_itself_agree(name, base, digits):
    check = disagreement(Around(base, AGREE[name]), digits)
    assert check.value < 0.05, check
    assert check.points > 60


@pytest.mark.parametrize(("norm", "eps"), [("L2", "0.5"), ("L1", "3")])
def test_it_is_seen_in_every_norm(norm, eps, base, digits):
    assert disagreement(Around(base, masked), digits, norm=norm, eps=eps).value > 0.1
    assert disagreement(base, digits, norm=norm, eps=eps).value < 0.05


def quantise(x):
    return (4 * x).round() / 4


def test_a_declared_step_is_no_flaw_and_hides_none(base, digits):
    declared = nn.Sequential(Bpda(quantise, identity), base)
    assert disagreement(declared, digits).value < 0.05
    hidden = nn.Sequential(Bpda(quantise, identity), Around(base, masked))
    assert disagreement(hidden, digits).value > 0.1
    detached = nn.Sequential(Bpda(lambda x: x, lambda x: masked(identity, x)), base)
    assert disagreement(detached, digits).value > 0.1
    x = digits.pixels(slice(0, 5))
    assert torch.equal(declared(x), base(quantise(x))), "left by its approximation"


def test_without_a_gradient_or_with_draws_of_its_own_nothing_can_be_said(base, digits):
    flat = Around(base, lambda base, x: base(quantise(x)))
    assert disagreement(flat, digits).points == 0
    draws = torch.Generator().manual_seed(0)

    def noisy(base, x):
        return base(x + 0.05 * torch.randn(x.shape, generator=draws))

    assert disagreement(Around(base, noisy), digits).points == 0


def test_a_network_that_loses_the_gradients_of_a_few_examples_is_judged_by_the_others(base, digits):
    x, y = digits.pixels(slice(0, 60)).clone(), digits.labels[:60]
    x[:, :, 0, 0] = 0.0
    x[50:, :, 0, 0] = 1.0
    part = Around(base, lambda base, x: base(torch.where(x[:, :, :1, :1] > 0.5, quantise(x), x)))
    check = checks(part, x, y)["gradient_disagrees"]
    assert check.value < 0.05
    assert 40 <= check.points <= 50


def test_the_images_asked_stay_in_the_box_and_same_seed_gives_same_value(base, digits):
    def strict(base, x):
        if len(x):
            assert x.min() >= 0.0
            assert x.max() <= 1.0
        return base(x)

    values = [disagreement(Around(base, strict), digits, batch_size=size) for size in (40, 40, 13)]
    assert values[0] == values[1]
    assert values[0].value == pytest.approx(values[2].value, abs=1e-3)


# zero_gradients


def zero(model, x, y, **terms):
    check = checks(model, x, y, **terms)["zero_gradients"]
    return round(check.value * check.points), BY_NAME["zero_gradients"].is_raised(check)


def test_where_the_network_is_flat_in_the_whole_ball_a_zero_gradient_is_right(base, digits):
    """ReLUs that are off in the whole ball, as on some images of certified networks."""
    x, y = digits.pixels(slice(0, 60)).clone(), digits.labels[:60]
    limit = x.flatten(1).mean(dim=1).median() + 0.001

    def flat(base, x):
        dark = x.mean(dim=(1, 2, 3), keepdim=True) <= limit
        fixed = F.one_hot(base(x).argmax(dim=1).detach(), 10).float()
        return torch.where(dark[:, :, 0, 0], fixed, base(x))

    right = int((base(x).argmax(1) == y).sum())
    assert zero(Around(base, flat), x, y, eps="0.0001") == (0, False)
    # Its neighbour: as flat at the image, not in the ball.
    stepped = Around(base, lambda base, x: base(quantise(x)))
    found, raised = zero(stepped, x, y)
    assert raised
    assert found > right / 2


def test_images_that_are_wrong_when_clean_do_not_count(base, digits):
    x = digits.pixels(slice(0, 60))
    stepped = Around(base, lambda base, x: base(quantise(x)))
    wrong = stepped(x).argmin(dim=1)
    assert zero(stepped, x, wrong) == (0, False)


def test_the_best_step_counts_wherever_it_comes(base, digits, monkeypatch):
    """Rounding spoils one step size and kinks another: a gradient need fit one of them."""
    from robustbench_lite.evaluation.flags import gradient_agreement

    agreement = iter([0.93, 0.5, 0.2, 0.1])

    def correlations(examples, rows, threat, step):
        return torch.full((len(rows),), values[step], dtype=torch.float64)

    values = dict(zip(gradient_agreement._STEPS, agreement, strict=True))
    monkeypatch.setattr(gradient_agreement, "_correlations", correlations)
    assert disagreement(base, digits).value == pytest.approx(0.07)
