"""ALP against the baselines sheet's worked examples and exact properties."""

from fractions import Fraction

import pytest
import torch
from defense_cases import Z_ADV, Scripted, Y, Z, crafting, evaluate, make_batch, one_step

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST
from robustbench_lite.defenses.label_losses import CrossEntropy
from robustbench_lite.defenses.methods.alp import Alp
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.methods.standard import Standard

Z_ADV2, Z2, Y2 = [[1.0, 0, -1], [0, 2, 1]], [[2.0, 0, -1], [0, 3, 0]], [0, 1]
THIRD_FORM = 1.8682588171  # CE(z) + CE(z') + 0.5 MSE, which also circulates
SMOOTHED_OVER_THE_OTHERS = 1.2521849641  # smoothing a / (K - 1) per wrong class


def adv(weight, z=Z, z_adv=Z_ADV, y=Y):
    return evaluate(Alp(crafting(), "adv", weight), ["z", "z_adv"], y, z=z, z_adv=z_adv)


def mixed(weight=0.5, z=Z, z_adv=Z_ADV, y=Y, smoothing=0.0):
    """Loss, network and scalars of the mixed form: the network gives [z; z'] in one forward."""
    both = [*z, *z_adv]
    model = Scripted(["both"], both=both, z=z)
    x = torch.rand(len(y), 1, 2, 2, dtype=torch.float64)
    batch = make_batch(x, y, label_loss=CrossEntropy(smoothing))
    objective = Alp(crafting(), "mixed", weight).objective({ROBUST: model}, batch, {"x_adv": x})
    objective.loss.backward()
    assert model.calls == 1
    return objective.loss.item(), model, objective.scalars


@pytest.mark.parametrize(
    ("weight", "z", "z_adv", "y", "expected"),
    [
        (1.0, Z, Z_ADV, Y, 1.8701631037),
        (0.5, Z, Z_ADV, Y, 1.5090519926),
        (0.0, Z, Z_ADV, Y, 1.1479408815),
        (0.5, Z2, Z_ADV2, Y2, 0.6576059644),
    ],
)
def test_adv_form_gives_the_sheet_values(weight, z, z_adv, y, expected):
    loss, _ = adv(weight, z, z_adv, y)
    assert loss == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("z", "z_adv", "y", "smoothing", "expected"),
    [
        (Z, Z_ADV, Y, 0.0, 1.1146849641),
        (Z, Z_ADV, Y, 0.1, 1.2063516308),
        (Z2, Z_ADV2, Y2, 0.0, 0.5199952262),
    ],
)
def test_mixed_form_gives_the_sheet_values(z, z_adv, y, smoothing, expected):
    loss, _, _ = mixed(0.5, z, z_adv, y, smoothing)
    assert loss == pytest.approx(expected, abs=1e-9)
    for wrong in (THIRD_FORM, SMOOTHED_OVER_THE_OTHERS):
        assert loss != pytest.approx(wrong, abs=1e-3)


def test_separate_form_is_the_mixed_loss_on_two_forwards():
    loss, model = evaluate(Alp(crafting(), "separate", 0.5), ["z", "z_adv"], Y, z=Z, z_adv=Z_ADV)
    together, both, _ = mixed(0.5)
    assert loss == pytest.approx(together, abs=1e-12)
    gradient = torch.cat([model.z.grad, model.z_adv.grad])
    torch.testing.assert_close(gradient, both.both.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["adv", "mixed"])
def test_pairing_gradient_reaches_both_sides(form):
    p = torch.softmax(torch.tensor(Z, dtype=torch.float64), dim=1)
    p_adv = torch.softmax(torch.tensor(Z_ADV, dtype=torch.float64), dim=1)
    onehot = torch.eye(3, dtype=torch.float64)[Y]
    pull = 2 * (torch.tensor(Z_ADV) - torch.tensor(Z)).double() / 9  # d MSE / d z'
    if form == "adv":
        _, model = adv(0.5)
        clean, crafted = model.z.grad, model.z_adv.grad
        expected_clean, expected_adv = -0.5 * pull, (p_adv - onehot) / 3 + 0.5 * pull
    else:
        clean, crafted = mixed()[1].both.grad.chunk(2)
        expected_clean = (p - onehot) / 6 - 0.5 * pull
        expected_adv = (p_adv - onehot) / 6 + 0.5 * pull
    torch.testing.assert_close(clean, expected_clean, rtol=0, atol=1e-12)
    torch.testing.assert_close(crafted, expected_adv, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("form", "updates"), [("adv", 2), ("mixed", 1), ("separate", 2)])
def test_batchnorm_updates_and_what_is_forwarded(form, updates):
    defense = Alp(crafting(steps=3, start="gaussian"), form, 0.5)
    model, x, counted, _ = one_step(defense)
    assert counted == len(model.seen) == updates
    clean, crafted = model.seen[0].chunk(2) if form == "mixed" else model.seen
    assert torch.equal(clean, x)
    assert not torch.equal(crafted, x)
    assert (crafted - x).abs().max() <= 0.1 + 1e-7


def test_mixed_form_at_eps_zero_is_natural_training():
    zero = crafting(eps=Fraction(0), steps=2, start="gaussian")
    expected = one_step(Standard())[3].loss.item()
    loss = one_step(Alp(zero, "mixed", 0.5))[3].loss.item()
    assert loss == pytest.approx(expected, abs=1e-5)


def test_adv_form_without_weight_is_adversarial_training():
    inner = crafting(steps=3, start="uniform")
    at = one_step(PgdAt(inner))
    alp = one_step(Alp(inner, "adv", 0.0))
    assert torch.equal(alp[3].loss, at[3].loss)
    at[3].loss.backward()
    alp[3].loss.backward()
    for ours, theirs in zip(alp[0].parameters(), at[0].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-8)


def test_pairing_feels_a_shift_of_all_logits_of_one_side_by_its_square():
    shifted = [[logit + 0.3 for logit in row] for row in Z]
    loss, _ = adv(1.0, z=shifted, z_adv=Z)
    assert loss - adv(1.0, z=Z, z_adv=Z)[0] == pytest.approx(0.09, abs=1e-12)


def test_crafting_depends_on_labels():
    defense = Alp(crafting(steps=3, start="gaussian"), "adv", 1.0)
    one, other = (
        one_step(defense, y=(torch.arange(8) + shift) % 3)[0].seen[-1] for shift in (0, 1)
    )
    assert not torch.equal(one, other)


def test_scalars_tell_the_parts_and_logit_squeezing():
    _, _, scalars = mixed()
    assert scalars["pairing"].item() == pytest.approx(0.7222222222, abs=1e-9)
    assert scalars["label_loss"].item() == pytest.approx((1.1479408815 + 0.3592068245) / 2)
    assert scalars["mean_abs_logit"].item() == pytest.approx(9.5 / 9)
    assert scalars["adv_accuracy"].item() == pytest.approx(1 / 3)
    assert all(not value.requires_grad for value in scalars.values())


def test_an_unknown_mode_is_refused():
    with pytest.raises(
        InputError, match="mode='Mixed' is unknown; available: adv, mixed, separate"
    ):
        Alp(crafting(), "Mixed", 0.5)
