"""Friendly and helper-based training, and AT-BSL, against the authors' formulas in float64."""

import pytest
import torch
from defense_cases import (
    Z_ADV,
    Recording,
    Scripted,
    Trajectory,
    Y,
    Z,
    crafting,
    evaluate,
    example_images,
    make_batch,
    one_step,
    step,
)
from torch import nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import normal, uniform
from robustbench_lite.defenses.contract import ROBUST, FrozenNetwork
from robustbench_lite.defenses.label_losses import BalancedSoftmax
from robustbench_lite.defenses.methods.balanced_softmax import BalancedSoftmaxAt
from robustbench_lite.defenses.methods.fat import Fat
from robustbench_lite.defenses.methods.hat import HELPER, Hat
from robustbench_lite.defenses.methods.pgd_at import PgdAt

CE, CE_ADV = 0.3592068245, 1.1479408815  # of the sheets' example
KL = (2.5307087243 - CE) / 6.0  # TRADES of the same sheet, beta 6


def fat(tau=(0,), begin=(1,), noise=0.0, **changes):
    arguments = {"steps": 4, "start": "uniform"}
    return Fat(crafting(**(arguments | changes)), noise, tau, begin)


# --- FAT


def early_stopped(model, x, y, tau, noise, steps=4, eps=0.1, alpha=0.025):
    """Algorithm 1 as the authors' code has it: one example after the other, lists of what is done.

    Draws are those of the counters that `Fat` names, for ids 0, 1, ... and seed 0.
    """
    found, taken = [], []
    ids = torch.arange(len(x))
    place = {"ids": ids, "seed": 0, "restart": 0}
    u = 2.0 * uniform(x.shape, **place, stream="crafting", step=0).to(x.dtype) - 1.0
    omega = [normal(x.shape, **place, stream="fat", step=k).to(x.dtype) for k in range(steps)]
    for i in range(len(x)):
        image, control, count = x[i : i + 1], tau, 0
        now = (image + eps * u[i : i + 1]).clamp(0, 1)
        for k in range(steps):
            now = now.clone().requires_grad_(True)
            logits = model(now)
            if logits.argmax(1).item() != y[i].item():
                if control == 0:
                    break
                control -= 1
            loss = nn.functional.cross_entropy(logits, y[i : i + 1])
            (gradient,) = torch.autograd.grad(loss, now)
            now = now.detach() + alpha * gradient.sign() + noise * omega[k][i : i + 1]
            now = torch.min(torch.max(now, image - eps), image + eps).clamp(0, 1)
            count += 1
        found.append(now.detach())
        taken.append(count)
    return torch.cat(found), taken


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("tau", [0, 1, 2, 4])
def test_fat_stops_each_example_as_the_authors_do(tau, noise):
    x, y = example_images(24)
    x = x.double()
    model = Recording().double().train()
    model.out.weight.data *= 8  # some predictions are wrong, some change on the way
    crafted = fat((tau,), noise=noise).craft({ROBUST: model}, make_batch(x, y))
    expected, taken = early_stopped(model.eval(), x, y, tau, noise)
    torch.testing.assert_close(crafted["x_adv"], expected, rtol=0, atol=1e-12)
    assert crafted["steps"].tolist() == taken
    assert (len(set(taken)) > 1) == (tau < 4), "the case tells examples apart"
    assert (crafted["x_adv"] - x).abs().max() <= 0.1 + 1e-12


def test_wrong_iterates_count_whether_or_not_they_follow_each_other():
    """Right at iterates 0 .. kappa - 1: with tau t an example takes kappa + t steps, at most K."""
    for tau, expected in ((0, [0, 2, 4]), (1, [1, 3, 4]), (3, [3, 4, 4])):
        model = Trajectory(["z_adv"], [[0, 2, 4]], steps=4).train()
        x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
        crafted = fat((tau,)).craft({ROBUST: model}, make_batch(x, Y))
        assert crafted["steps"].tolist() == expected


def test_with_tau_k_fat_is_pgd_adversarial_training():
    inner = crafting(steps=4, start="uniform")
    at, ours = one_step(PgdAt(inner)), one_step(fat((4,)))
    assert torch.equal(at[0].seen[-1], ours[0].seen[-1])
    assert torch.equal(at[3].loss, ours[3].loss)
    assert ours[3].scalars["steps"] == 4.0


def test_fat_trains_on_the_crafted_batch_alone_with_one_batchnorm_update():
    loss, model = evaluate(fat(steps=0, start="none"), ["z_adv"])
    assert loss == pytest.approx(CE_ADV, abs=1e-9)
    assert model.z.grad is None
    network, x, updates, _ = one_step(fat((1,)))
    assert updates == 1
    assert ((network.seen[0] >= 0) & (network.seen[0] <= 1)).all()
    assert (network.seen[0] - x).abs().max() <= 0.1 + 1e-7


def test_tau_follows_the_epoch():
    defense = fat((0, 1, 4), (1, 3, 5))
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    taken = []
    for epoch in range(1, 7):
        model = Trajectory(["z_adv"], [[0, 0, 0]], steps=4).train()
        crafted = defense.craft({ROBUST: model}, make_batch(x, Y, epoch=epoch))
        taken.append(crafted["steps"][0].item())
    assert taken == [0, 0, 1, 1, 4, 4]


@pytest.mark.parametrize(
    ("tau", "begin"), [((), ()), ((0,), (2,)), ((0, 1), (1, 1)), ((0, 1), (1,)), ((-1,), (1,))]
)
def test_stretches_of_tau_that_make_no_sense_are_refused(tau, begin):
    with pytest.raises(InputError, match="defense.tau_begin="):
        fat(tau, begin)


# --- HAT


class Constant(nn.Module):
    """Labels every image with the classes given."""

    def __init__(self, labels):
        super().__init__()
        self.labels, self.seen = labels, []

    def forward(self, x):
        self.seen.append(x)
        return nn.functional.one_hot(torch.tensor(self.labels), 3).double()


def hat(robust_loss="kl", beta=2.5, gamma=0.5, h=2.0, **changes):
    return Hat(crafting(**changes), robust_loss, "unused", beta, gamma, h)


Z_HELPER = [[0.0, 1, 0], [2, 0, 0], [0, 0, 3]]


def hat_step(defense, labels=(1, 0, 0)):
    model = Scripted(["z", "z_adv", "z_helper"], z=Z, z_adv=Z_ADV, z_helper=Z_HELPER)
    batch = make_batch(torch.rand(3, 1, 2, 2, dtype=torch.float64), Y)
    objective = step(defense, {ROBUST: model, HELPER: Constant(labels).eval()}, batch)
    objective.loss.backward()
    assert model.calls == 3, "f(x), f(x'), f(helper), in this order"
    return objective, model


@pytest.mark.parametrize(
    ("robust_loss", "beta", "gamma"),
    [("kl", 2.5, 0.5), ("ce", 1.0, 1.0), ("kl", 0.0, 0.0), ("kl", 6.0, 0.0)],
)
def test_hat_is_the_authors_formula_values_and_gradients(robust_loss, beta, gamma):
    objective, model = hat_step(hat(robust_loss, beta, gamma))
    z, z_adv, z_helper = (
        torch.tensor(rows, dtype=torch.float64, requires_grad=True) for rows in (Z, Z_ADV, Z_HELPER)
    )
    y, y_helper = torch.tensor(Y), torch.tensor([1, 0, 0])
    clean = nn.functional.cross_entropy(z, y)
    kl = nn.KLDivLoss(reduction="sum")(z_adv.log_softmax(1), z.softmax(1)) / 3
    robust = kl if robust_loss == "kl" else nn.functional.cross_entropy(z_adv, y)
    loss = clean + beta * robust + gamma * nn.functional.cross_entropy(z_helper, y_helper)
    loss.backward()
    assert objective.loss.item() == pytest.approx(loss.item(), abs=1e-12)
    for mine, theirs in ((model.z, z), (model.z_adv, z_adv), (model.z_helper, z_helper)):
        expected = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(mine.grad, expected, rtol=0, atol=1e-12)


def test_hat_by_the_sheet_and_by_hand():
    """Helper terms by hand: log(2 + e) - 1, log(2 + e^2) - 2 and log(2 + e^3)."""
    objective, _ = hat_step(hat("kl", 2.5, 0.5))
    helper = (0.5514447140 + 0.2395447662 + 3.0949208987) / 3
    assert objective.scalars["helper_loss"].item() == pytest.approx(helper, abs=1e-4)
    helper = objective.scalars["helper_loss"].item()
    assert objective.loss.item() == pytest.approx(CE + 2.5 * KL + 0.5 * helper, abs=1e-9)
    objective, _ = hat_step(hat("ce", 1.0, 0.0))
    assert objective.loss.item() == pytest.approx(CE + CE_ADV, abs=1e-9)


@pytest.mark.parametrize("h", [2.0, 0.0])
def test_the_helper_image_lies_beyond_the_crafted_one_and_may_leave_the_box(h):
    x, y = example_images()
    x[0], x[1] = 0.0, 1.0
    model, helper = Recording().train(), Constant([0] * 8).eval()
    step(hat(h=h, steps=3, start="gaussian"), {ROBUST: model, HELPER: helper}, make_batch(x, y))
    clean, crafted, beyond = model.seen
    assert torch.equal(clean, x)
    assert (crafted - x).abs().max() <= 0.1 + 1e-7
    assert ((crafted >= 0) & (crafted <= 1)).all()
    torch.testing.assert_close(beyond, x + h * (crafted - x), rtol=0, atol=1e-7)
    if h == 2.0:
        assert (beyond - x).abs().max() > 0.1
    (seen,) = helper.seen
    assert torch.equal(seen, crafted), "the helper labels the crafted image, not the far one"
    assert model.norm.num_batches_tracked.item() == 3


def test_hat_crafts_on_its_robust_loss():
    x, y = example_images()
    crafted = {
        (kind, shift): hat(kind, steps=3, start="gaussian").craft(
            {ROBUST: Recording().train(), HELPER: Constant([0] * 8).eval()},
            make_batch(x, (y + shift) % 3),
        )["x_adv"]
        for kind in ("kl", "ce")
        for shift in (0, 1)
    }
    assert torch.equal(crafted["kl", 0], crafted["kl", 1]), "labels play no part in the KL"
    assert not torch.equal(crafted["ce", 0], crafted["ce", 1])


def test_hat_has_a_frozen_helper_in_eval_mode():
    assert hat().extra_networks == {HELPER: FrozenNetwork("unused")}
    x, y = example_images()
    networks = {ROBUST: Recording().train(), HELPER: Recording(seed=1).train()}
    with pytest.raises(InputError, match="network 'helper' is in train mode"):
        hat().craft(networks, make_batch(x, y))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: hat("mse"), "robust_loss='mse' is unknown; available: kl, ce"),
        (lambda: hat(gamma=-1.0), "defense.gamma=-1.0"),
        (lambda: hat(h=-1.0), "defense.h=-1.0"),
    ],
)
def test_hat_refuses_what_makes_no_sense(make, words):
    with pytest.raises(InputError, match=words):
        make()


# --- AT-BSL


def test_at_bsl_is_balanced_softmax_of_the_crafted_batch_and_crafts_on_plain_cross_entropy():
    counts = torch.tensor([100, 10, 1])
    inner = crafting(steps=3, start="uniform")
    defense, changes = BalancedSoftmaxAt(inner), {"class_counts": counts}
    model = Scripted(["z_adv"], z=Z, z_adv=Z_ADV)
    batch = make_batch(torch.rand(3, 1, 2, 2), Y, label_loss=BalancedSoftmax(), **changes)
    objective = defense.objective({ROBUST: model}, batch, {"x_adv": batch.x})
    objective.loss.backward()
    z = torch.tensor(Z_ADV, dtype=torch.float64)
    shares = counts.double() * z.exp() / (counts.double() * z.exp()).sum(1, keepdim=True)
    expected = -shares[torch.arange(3), torch.tensor(Y)].log().mean()
    assert objective.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    gradient = (shares - torch.eye(3).double()[Y]) / 3
    torch.testing.assert_close(model.z_adv.grad, gradient, rtol=0, atol=1e-12)
    x, y = example_images()
    crafted = [
        defense.craft({ROBUST: Recording().train()}, make_batch(x, y, **more))["x_adv"]
        for more in ({}, {"label_loss": BalancedSoftmax(), **changes})
    ]
    assert torch.equal(*crafted)


def test_at_bsl_is_itself_with_its_loss_alone_and_on_every_class():
    assert BalancedSoftmaxAt.required_label_loss == "balanced_softmax"
    assert BalancedSoftmax.needs_every_class
