"""Objectives against the sheets' worked examples, values and gradients, in float64."""

import math
from fractions import Fraction

import pytest
import torch
from defense_cases import Z_ADV, Y, Z, crafting, evaluate, one_step

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.methods.standard import Standard
from robustbench_lite.defenses.methods.trades import Trades

Z_ADV2, Z2, Y2 = [[1.0, 0, -1], [0, 2, 1]], [[2.0, 0, -1], [0, 3, 0]], [0, 1]


def test_standard_is_clean_cross_entropy():
    loss, _ = evaluate(Standard(), ["z"])
    assert loss == pytest.approx(0.3592068245, abs=1e-9)


@pytest.mark.parametrize(
    ("z", "z_adv", "y", "expected"),
    [(Z, Z_ADV, Y, 1.1479408815), (Z2, Z_ADV2, Y2, 0.4076059644)],
)
def test_pgd_at_is_cross_entropy_of_the_crafted_batch_alone(z, z_adv, y, expected):
    loss, model = evaluate(PgdAt(crafting()), ["z_adv"], y, z=z, z_adv=z_adv)
    assert loss == pytest.approx(expected, abs=1e-9)
    assert model.z.grad is None


@pytest.mark.parametrize(
    ("beta", "z", "z_adv", "y", "expected"),
    [
        (6.0, Z, Z_ADV, Y, 2.5307087243),
        (5.0, Z, Z_ADV, Y, 2.1687917410),
        (0.0, Z, Z_ADV, Y, 0.3592068245),
        (1.0, Z2, Z_ADV2, Y2, 0.2615855806),
        (6.0, Z2, Z_ADV2, Y2, 0.9075910435),
    ],
)
def test_trades_gives_the_sheet_values(beta, z, z_adv, y, expected):
    loss, _ = evaluate(Trades(crafting(), beta, False), ["z", "z_adv"], y, z=z, z_adv=z_adv)
    assert loss == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("double", "order"), [(False, ["z", "z_adv"]), (True, ["z", "z_adv", "z"])]
)
def test_trades_gradients_reach_both_sides(double, order):
    _, model = evaluate(Trades(crafting(), 6.0, double), order)
    expected_adv = [
        [-0.1848896348, 0.1351651536, 0.0497244812],
        [-0.0960410141, -1.1020915128, 1.1981325269],
        [-0.4301008537, 0.4301008537, 0],
    ]
    expected_clean = [
        [0.0981366240, -0.0717436209, -0.0263930032],
        [-0.0016416800, 0.9850181130, -0.9833764330],
        [0.2778635040, -0.2922882999, 0.0144247959],
    ]
    for grad, expected in ((model.z_adv.grad, expected_adv), (model.z.grad, expected_clean)):
        torch.testing.assert_close(
            grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize(
    ("defense", "passes"),
    [
        (Standard(), 1),
        (PgdAt(crafting(steps=3, start="uniform")), 1),
        (Trades(crafting(steps=3, start="gaussian"), 6.0, False), 2),
        (Trades(crafting(steps=3, start="gaussian"), 6.0, True), 3),
        # crafting in train mode updates the statistics at each of its three steps as well
        (PgdAt(crafting(steps=3, start="uniform", bn_mode="train")), 4),
    ],
)
def test_batchnorm_updates_per_step(defense, passes):
    _, _, updates, _ = one_step(defense)
    assert updates == passes


def test_crafted_images_are_inside_ball_and_box_and_the_clean_one_is_forwarded_first():
    model, x, _, _ = one_step(Trades(crafting(steps=3, start="gaussian"), 6.0, False))
    clean, crafted = model.seen
    assert torch.equal(clean, x)
    assert (crafted - x).abs().max() <= 0.1 + 1e-7
    assert not torch.equal(crafted, x)
    assert ((crafted >= 0) & (crafted <= 1)).all()


def test_trades_crafting_ignores_labels_and_pgd_at_does_not():
    trades = Trades(crafting(steps=3, start="gaussian"), 6.0, False)
    at = PgdAt(crafting(steps=3, start="uniform"))
    labels = [torch.arange(8) % 3, (torch.arange(8) + 1) % 3]
    crafted = {
        name: [one_step(defense, y=y)[0].seen[-1] for y in labels]
        for name, defense in (("trades", trades), ("at", at))
    }
    assert torch.equal(*crafted["trades"])
    assert not torch.equal(*crafted["at"])


def test_crafting_follows_the_seed_of_the_epoch():
    at = PgdAt(crafting(steps=1, start="uniform", alpha=Fraction(0)))
    first, again, other = (one_step(at, seed=seed)[0].seen[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("start", ["uniform", "gaussian", "none"])
def test_eps_zero_is_natural_training(start):
    zero = crafting(eps=Fraction(0), steps=2, start=start)
    expected = one_step(Standard())[3].loss.item()
    # Not bit for bit: 1/eps-scaled rounding of the start is projected away to within 1e-7.
    assert one_step(PgdAt(zero))[3].loss.item() == pytest.approx(expected, abs=1e-5)
    assert one_step(Trades(zero, 6.0, False))[3].loss.item() == pytest.approx(expected, abs=1e-5)


def test_trades_with_zero_steps_clips_its_gaussian_start_and_does_not_project():
    tiny = crafting(steps=0, start="gaussian", eps=Fraction(1, 100000))
    model, x, _, _ = one_step(Trades(tiny, 6.0, False))
    size = (model.seen[1] - x).abs().mean().item()
    assert size == pytest.approx(0.001 * math.sqrt(2 / math.pi), rel=0.25)


def test_a_radius_in_0_255_units_is_refused():
    with pytest.raises(InputError, match=r"did you mean 8/255\?"):
        crafting(eps=Fraction(8))
