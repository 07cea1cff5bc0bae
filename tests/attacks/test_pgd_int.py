"""PGD on the 8-bit grid against the method sheet's worked examples and closed forms."""

import math
from fractions import Fraction

import pytest
import torch
from conftest import small_net
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustbench_lite.attacks.first_order.pgd_int import pgd_int
from robustbench_lite.attacks.losses import attack_loss, entropy, uniform_cross_entropy
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.errors import InputError


def attack(model, x, y=None, **changes):
    """ALOE's test attack without a start; `changes` override arguments."""
    arguments = {
        "eps": 1 / 255,
        "alpha": 1 / 255,
        "steps": 2,
        "loss": "ce",
        "rounding": "round",
        "start": "none",
        "ids": torch.arange(len(x)),
        "seed": 0,
    }
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    return pgd_int(model, x, y, **(arguments | changes))


class Rising(nn.Module):
    """Logits [0, sum of pixels]: the gradient of CE against label 0 is positive everywhere."""

    def forward(self, x):
        total = x.flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(total), total], dim=1)


def as_images(levels, dtype=torch.float32):
    """One image of a row of pixels, from 8-bit values."""
    return (torch.tensor(levels, dtype=dtype) / 255.0).view(1, 1, 1, -1)


def moved(x, x_adv):
    return (x_adv - x).double() * 255


@pytest.mark.parametrize(
    ("rounding", "eps", "zeros", "most", "share_of_most"),
    [
        ("truncate", 1, 1.0, 0, 1.0),
        ("truncate", 2, 0.5, 1, 0.5),
        ("truncate", 8, 1 / 8, 7, 1 / 8),
        ("round", 1, 0.5, 1, 0.5),
        ("round", 8, 1 / 16, 8, 1 / 16),
    ],
)
def test_the_start_has_the_shares_of_its_grid(rounding, eps, zeros, most, share_of_most):
    x = torch.full((100, 1, 100, 100), 128 / 255)
    x_adv = attack(Rising(), x, eps=eps / 255, steps=0, start="uniform", rounding=rounding)
    delta = moved(x, x_adv).round()
    assert (delta == 0).double().mean().item() == pytest.approx(zeros, abs=2e-3)
    assert delta.abs().max() == most
    assert (delta.abs() == most).double().mean().item() == pytest.approx(share_of_most, abs=2e-3)
    assert delta.mean().item() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("rounding", ["round", "truncate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_one_level_both_grids_reach_the_ball_and_the_box(rounding, dtype):
    x = as_images([0, 100, 254, 255], dtype)
    delta = moved(x, attack(Rising(), x, rounding=rounding)).flatten()
    torch.testing.assert_close(delta, torch.tensor([1.0, 1, 1, 0]).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("rounding", "dtype", "expected"),
    [
        ("round", torch.float32, [8, 8, 1, 0]),
        ("round", torch.float64, [8, 8, 1, 0]),
        ("truncate", torch.float32, [8, 3, 1, 0]),  # where the authors' attack stalls
        ("truncate", torch.float64, [8, 1, 1, 0]),
    ],
)
def test_truncation_stalls_beyond_one_level_and_rounding_does_not(rounding, dtype, expected):
    x = as_images([0, 100, 254, 255], dtype)
    delta = moved(x, attack(Rising(), x, eps=8 / 255, steps=10, rounding=rounding)).flatten()
    torch.testing.assert_close(delta, torch.tensor(expected).double(), rtol=0, atol=1e-4)


def test_over_all_pixel_values_rounding_reaches_8_and_truncation_a_tenth_of_them():
    x = as_images(list(range(256)))
    goal = (255 - torch.arange(256)).clamp_max(8)
    reached = {}
    for rounding in ("round", "truncate"):
        delta = moved(x, attack(Rising(), x, eps=8 / 255, steps=10, rounding=rounding)).flatten()
        reached[rounding] = (delta.round() == goal).double().mean().item()
    assert reached == {"round": 1.0, "truncate": pytest.approx(0.094, abs=5e-4)}


class Identity(nn.Module):
    """f = identity on R^2."""

    def forward(self, x):
        return x.flatten(1)


@pytest.mark.parametrize(
    ("loss", "signs", "gap"), [("to_one_hot", (1, -1), 0.107843), ("to_uniform", (-1, 1), 0.092157)]
)
def test_one_step_moves_towards_one_hot_or_towards_uniform(loss, signs, gap):
    x = torch.tensor([0.5, 0.4], dtype=torch.float64).view(1, 1, 1, 2)
    x_adv = attack(Identity(), x, steps=1, loss=loss)
    delta = moved(x, x_adv).flatten()
    torch.testing.assert_close(delta, torch.tensor(signs).double(), rtol=0, atol=1e-9)
    logits = x_adv.flatten(1)
    assert (logits[0, 0] - logits[0, 1]).item() == pytest.approx(gap, abs=1e-6)
    if loss == "to_one_hot":
        assert logits.softmax(dim=1).max().item() == pytest.approx(0.526935, abs=1e-6)
        assert entropy(logits).item() == pytest.approx(0.691696, abs=1e-6)
    else:
        assert uniform_cross_entropy(logits).item() == pytest.approx(0.694208, abs=1e-6)


@given(
    eps=st.integers(0, 20),
    alpha=st.integers(0, 5),
    steps=st.integers(0, 4),
    rounding=st.sampled_from(["round", "truncate"]),
    start=st.sampled_from(["uniform", "none"]),
    loss=st.sampled_from(["ce", "oe", "to_uniform", "to_one_hot"]),
    seed=st.integers(0, 9),
)
def test_images_stay_8_bit_inside_ball_and_box(eps, alpha, steps, rounding, start, loss, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (3, 2, 6, 5), generator=generator) / 255.0
    changes = {"eps": eps / 255, "alpha": alpha / 255, "steps": steps, "start": start}
    x_adv = attack(small_net(), x, loss=loss, rounding=rounding, seed=seed, **changes)
    assert (x_adv * 255 - (x_adv * 255).round()).abs().max() < 1e-3
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert moved(x, x_adv).abs().max() <= eps + 1e-4
    if eps == 0:
        assert torch.equal(x_adv, x)


def test_an_image_off_the_grid_stays_inside_ball_and_box():
    x = torch.rand(4, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    x_adv = attack(small_net(), x, eps=8 / 255, steps=10, start="uniform")
    assert moved(x, x_adv).abs().max() <= 8 + 1e-4
    assert ((x_adv >= 0) & (x_adv <= 1)).all()


@pytest.mark.parametrize("loss", ["ce", "oe", "to_uniform", "to_one_hot"])
def test_every_loss_is_ascended(loss, images):
    x, y = images
    net = small_net().eval()
    x_adv = attack(net, x, y, loss=loss, eps=8 / 255, steps=10)
    before, after = (
        attack_loss(loss, net(z), y, clean_logits=None, kappa=None).mean() for z in (x, x_adv)
    )
    assert after > before


def test_the_start_depends_on_id_seed_and_stream_and_not_on_the_batch():
    x = torch.full((6, 2, 6, 5), 128 / 255)
    go = {"eps": 8 / 255, "steps": 3, "start": "uniform"}
    net = small_net()
    whole = attack(net, x, **go)
    rows = torch.tensor([4, 1])
    part = attack(net, x[rows], ids=rows, **go)
    torch.testing.assert_close(part, whole[rows])
    for other in ({"seed": 1}, {"stream": "another"}, {"ids": torch.arange(6) + 9}):
        assert not torch.equal(attack(net, x, **go, **other), whole)


@pytest.mark.parametrize(("mode", "passes"), [("eval", 0), ("train", 3)])
def test_the_network_is_left_as_it_was_but_for_batch_statistics(mode, passes, images):
    x, y = images
    net = small_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attack(net, x, y, steps=3, mode=mode)
    assert all(module.training for module in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    tracked = "1.num_batches_tracked"
    assert net.state_dict()[tracked] - before[tracked] == passes
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_protocol_runs_it_and_passes_its_own_radius(images):
    x, y = images
    params = {"loss": "ce", "rounding": "round", "start": "uniform", "steps": 2, "alpha": 1 / 255}
    spec = AttackSpec("grid", "PGD-int-2", "pgd_int", params)
    threat = ThreatModel("Linf", Fraction(4, 255))
    spec.check(threat, num_classes=5)
    ids = torch.arange(len(x))
    out = run_attack(spec, small_net(), x, y, threat=threat, ids=ids, seed=0, batch_size=3)
    assert 1 < moved(x, out).abs().max() <= 4 + 1e-4


@pytest.mark.parametrize(
    ("norm", "eps", "changes", "message"),
    [
        ("L2", Fraction(1), {}, "norm='L2' is unknown here; available: Linf"),
        ("Linf", Fraction(31, 1000), {}, r"eps=0.031 is 7.905/255: .*whole number of 1/255"),
        ("Linf", Fraction(8, 255), {"alpha": 0.01}, r"alpha=0.01 is 2.55/255"),
        ("Linf", Fraction(8, 255), {"alpha": "1/255"}, r"alpha is '1/255'; need a finite number"),
        ("Linf", Fraction(8, 255), {"alpha": 1.5}, r"alpha=1.5 is not in \[0, 1\]"),
        ("Linf", Fraction(8, 255), {"steps": 2.0}, "steps is 2.0; need an integer"),
        ("Linf", Fraction(8, 255), {"steps": -1}, "steps is -1; need an integer of at least 0"),
        ("Linf", Fraction(8, 255), {"loss": "margin"}, "loss is 'margin'; need one of"),
        ("Linf", Fraction(8, 255), {"rounding": "floor"}, "rounding is 'floor'; need one of"),
        ("Linf", Fraction(8, 255), {"start": "gaussian"}, "start is 'gaussian'; need one of"),
    ],
)
def test_a_protocol_that_does_not_fit_is_refused_before_any_work(norm, eps, changes, message):
    params = {"loss": "ce", "rounding": "round", "start": "uniform", "steps": 2, "alpha": 1 / 255}
    spec = AttackSpec("grid", "PGD-int", "pgd_int", params | changes)
    with pytest.raises(InputError, match=message):
        spec.check(ThreatModel(norm, eps), num_classes=10)


def test_a_radius_in_0_255_units_is_refused_with_a_hint():
    with pytest.raises(InputError, match=r"eps=8 is not in \[0, 1\]; did you mean 8/255\?"):
        attack(Rising(), as_images([0]), eps=8)


def test_a_gradient_that_is_not_finite_is_an_error_with_its_step():
    class Broken(nn.Module):
        def forward(self, x):
            return Rising()(x) * math.nan

    with pytest.raises(InputError, match="not finite at step 0 of 2"):
        attack(Broken(), as_images([0, 1]))
