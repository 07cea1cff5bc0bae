"""MAIL and MART: margins, weights, losses and gradients against the sheet, in float64."""

import math

import pytest
import torch
from defense_cases import (
    Z_ADV,
    Recording,
    Scripted,
    Y,
    Z,
    crafting,
    example_images,
    make_batch,
    objective_of,
    one_step,
)
from torch.nn import functional

from robustbench_lite.attacks.losses import clipped_margin
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST
from robustbench_lite.defenses.instance_weights import (
    log_margin_weights,
    normalised,
    probability_margins,
)
from robustbench_lite.defenses.label_losses import CrossEntropy
from robustbench_lite.defenses.methods.mail import MailAt, MailMart, MailTrades
from robustbench_lite.defenses.methods.mart import Mart, boosted_cross_entropy, misclassified_kl
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.methods.trades import Trades

LOGITS_ADV = torch.tensor(Z_ADV, dtype=torch.float64)
LOGITS = torch.tensor(Z, dtype=torch.float64)
LABELS = torch.tensor(Y)
ONEHOT = functional.one_hot(LABELS, 3)
KL = torch.tensor([0.0402016677, 0.9380240688, 0.1075252134], dtype=torch.float64)
BOTH = ["z", "z_adv"]


def mail_at(normalization="paper", slope=10.0, bias=-0.5, begin_epoch=1, attack=None):
    return MailAt(attack or crafting(), slope, bias, normalization, begin_epoch)


def mail_trades(normalization="paper", slope=2.0, bias=0.0, begin_epoch=1, attack=None):
    return MailTrades(attack or crafting(), slope, bias, 5.0, normalization, begin_epoch)


def mail_mart(normalization="paper", slope=2.0, bias=0.0, begin_epoch=1, attack=None):
    return MailMart(attack or crafting(), slope, bias, 5.0, normalization, begin_epoch)


def common(defense, order, **changes):
    """(loss, network with gradients) on the common example."""
    model = Scripted(order, z=Z, z_adv=Z_ADV)
    objective = objective_of(defense, model, **changes)
    assert not any(value.requires_grad for value in objective.scalars.values())
    return objective.loss.item(), model


def gradients(loss_of):
    """Gradients with respect to (z, z_adv) of a loss written out by hand."""
    z, z_adv = LOGITS.clone().requires_grad_(), LOGITS_ADV.clone().requires_grad_()
    return torch.autograd.grad(loss_of(z, z_adv), (z, z_adv))


def close(ours, expected, atol=1e-9):
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


# --- margins and weights


def test_margins_are_the_sheets_with_the_papers_sign():
    margins = probability_margins(LOGITS_ADV, LABELS)
    assert (-margins).tolist() == pytest.approx(
        [-0.7295995351, 0.7295995351, 0.2150504268], abs=1e-10
    )


def test_margins_carry_no_gradient():
    assert not probability_margins(LOGITS_ADV.clone().requires_grad_(), LABELS).requires_grad


def test_margin_weights_are_the_sheets():
    margins = probability_margins(LOGITS_ADV, LABELS)
    for slope, bias, s, omega in (
        (
            10.0,
            -0.5,
            [4.56998826e-6, 0.908544832, 0.0547073893],
            [1.42329282e-5, 2.82960320, 0.170382570],
        ),
        (
            2.0,
            0.0,
            [0.1885898559, 0.8114101441, 0.6058977511],
            [0.3523073417, 1.5158066138, 1.1318860445],
        ),
    ):
        log_s = log_margin_weights(margins, slope=slope, bias=bias)
        assert log_s.exp().tolist() == pytest.approx(s, rel=1e-8)
        assert normalised(log_s).tolist() == pytest.approx(omega, rel=1e-8)
        assert normalised(log_s).sum().item() == pytest.approx(3.0, abs=1e-12)


def test_weights_stay_finite_in_float32_where_all_are_tiny():
    margins = torch.tensor([0.9, 0.8, 1.0])
    omega = normalised(log_margin_weights(margins, slope=500.0, bias=-0.5))
    assert omega.sum().item() == pytest.approx(3.0, rel=1e-6)
    assert omega.argmax().item() == 1


def test_weights_ignore_a_shift_of_the_logits_and_feel_their_scale():
    weights = [
        log_margin_weights(probability_margins(logits, LABELS), slope=10.0, bias=-0.5)
        for logits in (
            LOGITS_ADV,
            LOGITS_ADV + torch.tensor([[7.0], [-3.0], [0.5]]),
            2.0 * LOGITS_ADV,
        )
    ]
    close(weights[0], weights[1], atol=1e-12)
    assert (weights[0] - weights[2]).abs().min() > 1e-2


def test_weights_follow_a_permutation_of_the_batch():
    order = torch.tensor([2, 0, 1])

    def omega(logits, y):
        return normalised(log_margin_weights(probability_margins(logits, y), slope=2.0, bias=0.0))

    close(omega(LOGITS_ADV[order], LABELS[order]), omega(LOGITS_ADV, LABELS)[order], atol=1e-14)


def test_the_cw_margin_loss_is_the_sheets():
    # The authors sum min(margin - 50, 0): ours is min(margin, 50), the same up to 50 an example.
    values = clipped_margin(LOGITS_ADV, LABELS, kappa=50.0)
    assert values.tolist() == [-2.0, 2.0, 0.5]
    assert (values - 50.0).sum().item() == -149.5


# --- MAIL: losses


@pytest.mark.parametrize(
    ("defense", "order", "expected"),
    [
        (mail_at("code"), ["z_adv"], 2.0318072668),
        (mail_at("paper"), ["z_adv"], 2.1093100871),
        (mail_trades("code"), BOTH, 4.5284726071),
        (mail_trades("paper"), BOTH, 2.9554280221),
        (mail_trades("paper", begin_epoch=2), BOTH, 2.1687917410),
        (mail_mart("code"), BOTH, 5.0783755929),
        (mail_mart("paper"), BOTH, 3.3920587152),
    ],
)
def test_mail_gives_the_sheet_values(defense, order, expected):
    assert common(defense, order)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("normalization", ["paper", "code"])
@pytest.mark.parametrize(
    ("make", "order", "unweighted", "weighted"),
    [
        (mail_at, ["z_adv"], 1.1479408815, {"paper": 2.1093100871, "code": 2.0318072668}),
        (mail_trades, BOTH, 2.1687917410, {"paper": 2.9554280221, "code": 4.5284726071}),
        (mail_mart, BOTH, 2.6794083965, {"paper": 3.3920587152, "code": 5.0783755929}),
    ],
)
def test_begin_epoch_is_the_first_with_weights(make, order, unweighted, weighted, normalization):
    defense = make(normalization, begin_epoch=77)
    assert common(defense, order, epoch=76)[0] == pytest.approx(unweighted, abs=1e-9)
    first = common(defense, order, epoch=77)[0]
    assert first == pytest.approx(weighted[normalization], abs=1e-9)


def test_slope_zero_weighs_all_the_same():
    at, trades = 1.1479408815, 2.1687917410
    clean = 0.3592068245
    assert common(mail_at("paper", slope=0.0), ["z_adv"])[0] == pytest.approx(at, abs=1e-9)
    assert common(mail_at("code", slope=0.0), ["z_adv"])[0] == pytest.approx(1.5 * at, abs=1e-9)
    assert common(mail_trades("paper", slope=0.0), BOTH)[0] == pytest.approx(trades, abs=1e-9)
    assert common(mail_trades("code", slope=0.0), BOTH)[0] == pytest.approx(
        clean + 1.5 * (trades - clean), abs=1e-9
    )


@pytest.mark.parametrize("make", [mail_at, mail_trades, mail_mart])
def test_a_negative_or_infinite_slope_is_refused(make):
    for slope in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="slope="):
            make(slope=slope)


# --- MAIL: gradients, with omega as numbers


def test_mail_at_gradient_has_constant_weights():
    omega = torch.tensor([1.42329282e-5, 2.82960320, 0.170382570], dtype=torch.float64)
    _, model = common(mail_at(), ["z_adv"])
    close(model.z_adv.grad, omega[:, None] * (LOGITS_ADV.softmax(1) - ONEHOT) / 3, atol=1e-8)


def test_mail_trades_gradient_has_constant_weights_and_reaches_both_sides():
    omega = torch.tensor([0.3523073417, 1.5158066138, 1.1318860445], dtype=torch.float64)

    def by_hand(z, z_adv):
        kl = functional.kl_div(z_adv.log_softmax(1), z.softmax(1), reduction="none").sum(1)
        return functional.cross_entropy(z, LABELS) + 5.0 * (omega * kl).mean()

    _, model = common(mail_trades(), BOTH)
    for ours, expected in zip((model.z.grad, model.z_adv.grad), gradients(by_hand), strict=True):
        close(ours, expected)


def test_mail_mart_gradient_has_constant_weights_on_the_boosted_part_alone():
    omega = torch.tensor([0.3523073417, 1.5158066138, 1.1318860445], dtype=torch.float64)

    def by_hand(z, z_adv):
        q = z_adv.softmax(1)
        bce = functional.cross_entropy(z_adv, LABELS, reduction="none")
        bce = bce - torch.log(1.0001 - q[range(3), [1, 2, 1]] + 1e-12)
        p = z.softmax(1)
        kl = (p * (p.log() - (q + 1e-12).log())).sum(1) * (1.0000001 - p[range(3), Y])
        return (omega * bce + 5.0 * kl).mean()

    _, model = common(mail_mart(), BOTH)
    for ours, expected in zip((model.z.grad, model.z_adv.grad), gradients(by_hand), strict=True):
        close(ours, expected)


@pytest.mark.parametrize("epoch", [1, 2])
def test_mail_weighs_the_recipes_label_loss(epoch):
    smooth = CrossEntropy(0.3)

    def per_example(logits):
        log_p = logits.log_softmax(1)
        return -0.7 * log_p[range(3), Y] - 0.3 * log_p.mean(1)

    omega = torch.tensor([0.3523073417, 1.5158066138, 1.1318860445], dtype=torch.float64)
    omega = omega if epoch == 2 else torch.ones(3, dtype=torch.float64)
    at, _ = common(
        mail_at(slope=2.0, bias=0.0, begin_epoch=2), ["z_adv"], epoch=epoch, label_loss=smooth
    )
    assert at == pytest.approx((omega * per_example(LOGITS_ADV)).mean().item(), abs=1e-9)
    trades, _ = common(mail_trades(begin_epoch=2), BOTH, epoch=epoch, label_loss=smooth)
    expected = per_example(LOGITS).mean() + 5.0 * (omega * KL).mean()
    assert trades == pytest.approx(expected.item(), abs=1e-9)


def test_what_mail_logs():
    model = Scripted(BOTH, z=Z, z_adv=Z_ADV)
    scalars = objective_of(mail_trades("code"), model).scalars
    expected = {
        "clean_loss": 0.3592068245,
        "kl": KL.mean().item(),
        "adv_accuracy": 1 / 3,
        "mean_weight": 0.1885898559 + 0.8114101441 + 0.6058977511,  # 3 s, averaged over 3
    }
    assert {name: value.item() for name, value in scalars.items()} == pytest.approx(
        expected, abs=1e-7
    )


# --- MART


@pytest.mark.parametrize(
    ("constants", "ce", "second", "weighted_kl"),
    [
        ("code", 1.1479408815, 0.9225795157, 0.1217775999),
        ("exact", 1.1479408815, 0.9229039726, 0.1217775637),
    ],
)
def test_mart_parts_are_the_sheets(constants, ce, second, weighted_kl):
    bce = boosted_cross_entropy(LOGITS_ADV, LABELS, constants=constants)
    own = functional.cross_entropy(LOGITS_ADV, LABELS, reduction="none")
    assert own.mean().item() == pytest.approx(ce, abs=1e-9)
    assert (bce - own).mean().item() == pytest.approx(second, abs=1e-9)
    kl = misclassified_kl(LOGITS, LOGITS_ADV, LABELS, constants=constants)
    assert kl.mean().item() == pytest.approx(weighted_kl, abs=1e-9)


@pytest.mark.parametrize(
    ("constants", "beta", "expected"),
    [
        ("code", 0.0, 2.0705203972),
        ("code", 5.0, 2.6794083965),
        ("code", 6.0, 2.8011859963),
        ("exact", 0.0, 2.0708448541),
        ("exact", 5.0, 2.6797326724),
        ("exact", 6.0, 2.8015102361),
    ],
)
def test_mart_gives_the_sheet_values(constants, beta, expected):
    loss, _ = common(Mart(crafting(), beta, constants), BOTH)
    assert loss == pytest.approx(expected, abs=1e-9)


def test_mart_takes_the_largest_wrong_class_and_the_clean_label_probability():
    own = functional.cross_entropy(LOGITS_ADV, LABELS, reduction="none")
    second = boosted_cross_entropy(LOGITS_ADV, LABELS, constants="exact") - own
    runner_up = LOGITS_ADV.softmax(1)[range(3), [1, 2, 1]]
    close(second, -torch.log(1.0 - runner_up), atol=1e-12)
    weight = misclassified_kl(LOGITS, LOGITS_ADV, LABELS, constants="exact") / KL
    assert (1.0 - weight).tolist() == pytest.approx(
        [0.9362395519, 0.6652409558, 0.5465493873], abs=1e-8
    )


@pytest.mark.parametrize(("constants", "tolerance"), [("code", 1e-9), ("exact", 1e-6)])
def test_mart_detaches_neither_the_weight_nor_the_target(constants, tolerance):
    z = LOGITS.clone().requires_grad_()
    kl = misclassified_kl(z, LOGITS_ADV, LABELS, constants=constants).mean()
    (gradient,) = torch.autograd.grad(kl, z)
    whole = torch.tensor([0.0169607613, -0.0084481615, -0.0085125998], dtype=torch.float64)
    no_weight = torch.tensor([-0.0017659589, 0.0611830618, -0.0594171029], dtype=torch.float64)
    no_target = torch.tensor([0.0187267202, -0.0696312234, 0.0509045032], dtype=torch.float64)
    close(gradient[1], whole, atol=tolerance)
    for wrong in (no_weight, no_target):
        assert (gradient[1] - wrong).abs().max() > 1e-2


def test_the_defenses_keep_marts_gradient_into_the_clean_branch():
    # The clean branch enters through the weighted KL alone, so beta times the sheet's row.
    row = torch.tensor([0.0169607613, -0.0084481615, -0.0085125998], dtype=torch.float64)
    for defense in (Mart(crafting(), 5.0, "code"), mail_mart()):
        _, model = common(defense, BOTH)
        close(model.z.grad[1], 5.0 * row, atol=1e-8)


def test_the_kl_vanishes_where_the_clean_image_is_certain():
    certain = torch.tensor([[60.0, 0, 0]], dtype=torch.float64)
    adversarial = torch.tensor([[0.0, 1, 0]], dtype=torch.float64)
    y = torch.tensor([0])
    kl = -adversarial.log_softmax(1)[0, 0].item()
    values = {
        constants: misclassified_kl(certain, adversarial, y, constants=constants).item()
        for constants in ("code", "exact")
    }
    assert values["exact"] == 0.0
    assert values["code"] == pytest.approx(1e-7 * kl, rel=1e-6)


def test_the_code_bounds_the_second_term_where_a_wrong_class_is_certain():
    z_adv = torch.tensor([[0.0, 60.0, 0.0]], dtype=torch.float64)
    second = boosted_cross_entropy(z_adv, torch.tensor([0]), constants="code").item() - 60.0
    assert second == pytest.approx(-math.log(1e-4 + 1e-12), abs=1e-9)


@pytest.mark.parametrize("constants", ["code", "exact"])
def test_mart_stays_finite_in_float32_at_extreme_logits_and_for_one_example(constants):
    z = torch.tensor([[0.0, 300.0, 5.0]], requires_grad=True)
    z_adv = torch.tensor([[-200.0, 200.0, 5.0]], requires_grad=True)
    y = torch.tensor([0])
    loss = boosted_cross_entropy(z_adv, y, constants=constants)
    loss = loss + misclassified_kl(z, z_adv, y, constants=constants)
    assert loss.shape == (1,)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(z_adv.grad).all()


def test_mart_replaces_the_label_loss():
    assert Mart.required_label_loss == "cross_entropy"
    assert MailMart.required_label_loss == "cross_entropy"
    assert MailAt.required_label_loss is None
    assert MailTrades.required_label_loss is None


# --- one step on a real network


@pytest.mark.parametrize(
    ("make", "passes", "reference"),
    [
        (lambda attack: mail_at(attack=attack), 1, PgdAt),
        (lambda attack: mail_trades(attack=attack), 2, lambda a: Trades(a, 6.0, False)),
        (lambda attack: mail_mart(attack=attack), 2, PgdAt),
        (lambda attack: Mart(attack, 5.0, "code"), 2, PgdAt),
    ],
)
def test_forward_order_batchnorm_updates_and_the_loss_crafting_ascends(make, passes, reference):
    attack = crafting(steps=4, start="gaussian")
    model, x, updates, _ = one_step(make(attack))
    assert updates == passes
    if passes == 2:
        assert torch.equal(model.seen[0], x)
    assert torch.equal(model.seen[-1], one_step(reference(attack))[0].seen[-1])
    fresh, (images, labels) = Recording().train(), example_images()
    before = {name: value.clone() for name, value in fresh.norm.named_buffers()}
    make(attack).craft({ROBUST: fresh}, make_batch(images, labels))
    assert all(torch.equal(before[name], value) for name, value in fresh.norm.named_buffers())


def test_cross_entropy_and_kl_crafting_differ():
    attack = crafting(steps=4, start="gaussian")
    at, trades = (one_step(make(attack=attack))[0].seen[-1] for make in (mail_at, mail_trades))
    assert not torch.equal(at, trades)
