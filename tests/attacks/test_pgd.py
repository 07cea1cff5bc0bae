"""PGD: closed forms, the iterate kept, the start, and what it leaves alone."""

import itertools

import pytest
import torch
from conftest import as_function
from device_waits import syncs
from torch import nn

from robustbench_lite.attacks.first_order.cw_l2 import CwL2
from robustbench_lite.attacks.first_order.fgsm import Fgsm
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.core.errors import InputError

cw_l2 = as_function(CwL2, "cw_l2")
fgsm = as_function(Fgsm, "fgsm")

BASE = {
    "norm": "Linf",
    "eps": 0.1,
    "alpha": 0.025,
    "steps": 10,
    "restarts": 1,
    "loss": "ce",
    "start": "uniform",
    "keep": "best_loss",
    "seed": 0,
}


def run(model, x, y, **changes):
    arguments = BASE | {"ids": torch.arange(len(x))} | changes
    return pgd(model, x, y, **arguments)


def distance(model, x, norm):
    """Exact distance of each image to the decision plane: |w.x + b| over the dual norm."""
    score = (x.flatten(1) @ model.weight + model.bias).abs()
    dual = model.weight.abs().sum() if norm == "Linf" else model.weight.norm()
    return score / dual


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_pgd_finds_the_exact_robust_accuracy_of_a_linear_classifier(linear, norm, loss):
    model, x, y = linear
    exact = distance(model, x, norm)
    for eps in (0.02, 0.05, 0.1):
        eps = eps if norm == "Linf" else 3 * eps
        x_adv = run(model, x, y, norm=norm, eps=eps, alpha=eps / 4, loss=loss, kappa=50.0)
        broken = model(x_adv).argmax(1) != y
        clear = (exact - eps).abs() > 1e-4  # a point on the edge may fall either way
        assert torch.equal(broken[clear], (exact < eps)[clear])


def test_fgsm_is_one_signed_step(linear):
    model, x, y = linear
    x_adv = fgsm(model, x, y, norm="Linf", eps=0.05, ids=torch.arange(len(x)), seed=0)
    sign = model.weight.sign().view(1, 1, 3, 4) * (1 - 2 * y).view(-1, 1, 1, 1)
    torch.testing.assert_close(x_adv, (x + 0.05 * sign).detach())


def test_the_toy_of_the_sheet_reaches_the_edge_and_stays():
    # Logits [10 (c - x), 0], c = 0.55; x = 0.5, label 0; ten steps of 0.02 in a ball of 0.1.
    class Toy(nn.Module):
        def forward(self, x):
            score = 10 * (0.55 - x.flatten(1))
            return torch.cat([score, torch.zeros_like(score)], dim=1)

    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    y = torch.tensor([0])
    out = run(Toy(), x, y, eps=0.1, alpha=0.02, start="none", keep="last")
    assert abs(out.item() - 0.6) < 1e-12


def test_keep_first_success_stops_where_the_example_first_breaks():
    class Toy(nn.Module):
        def forward(self, x):
            score = 10 * (0.55 - x.flatten(1))
            return torch.cat([score, torch.zeros_like(score)], dim=1)

    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    toy = {"eps": 0.1, "alpha": 0.02, "start": "none"}
    first = run(Toy(), x, y, keep="first_success", **toy)
    assert abs(first.item() - 0.56) < 1e-12  # 0.52, 0.54 still right, 0.56 wrong
    best = run(Toy(), x, y, keep="best_loss", **toy)
    assert abs(best.item() - 0.6) < 1e-12


def test_best_loss_prefers_a_misclassified_iterate_to_one_of_larger_loss():
    class Ridge(nn.Module):
        """Class 0 of three is right up to 0.53, unsure; beyond, barely beaten, so its CE drops."""

        def forward(self, x):
            value = x.flatten(1)
            right = torch.cat([0.0 * value, -0.01 - 0.0 * value, value - 0.55], dim=1)
            beaten = torch.cat([3.0 + 0.0 * value, 3.1 + 0.0 * value, value - 9.0], dim=1)
            return torch.where(value < 0.53, right, beaten)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    losses = {}
    out = run(
        Ridge(),
        x,
        y,
        eps=0.1,
        alpha=0.02,
        start="none",
        steps=3,
        on_step=lambda k, z: losses.update({k: nn.functional.cross_entropy(z, y).item()}),
    )
    assert losses[1] > losses[2]  # the right-side iterate has the larger loss ...
    assert Ridge()(out).argmax(1).item() == 1  # ... and the wrong-side one is kept


class Corner(nn.Module):
    """Wrong only where the mean pixel is above 0.53, with no gradient to it: starts decide."""

    def forward(self, x):
        value = x.flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([0.0 * value, torch.where(value > 0.53, 1.0, -1.0) + 0 * value], 1)


@pytest.mark.parametrize("keep", ["last", "first_success", "best_loss"])
def test_more_restarts_never_lose_a_success(keep):
    x, y = torch.full((64, 1, 1, 1), 0.5), torch.zeros(64, dtype=torch.long)
    wrong = []
    for restarts in (1, 2, 4, 8):
        x_adv = run(Corner(), x, y, steps=1, alpha=0.0, restarts=restarts, keep=keep)
        wrong.append(Corner()(x_adv).argmax(1) != y)
    for fewer, more in itertools.pairwise(wrong):
        assert (more | ~fewer).all()
    assert wrong[0].sum() < wrong[-1].sum() < 64


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("start", ["uniform", "gaussian", "none"])
@pytest.mark.parametrize("keep", ["last", "first_success", "best_loss"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_result_is_inside_ball_and_box(net, images, norm, start, keep, steps):
    x, y = images  # with pixels that are exactly 0 and 1
    out = run(net, x, y, norm=norm, eps=0.3, alpha=0.2, start=start, keep=keep, steps=steps)
    assert ((out >= 0.0) & (out <= 1.0)).all()
    size = (out - x).double().flatten(1)
    size = size.abs().amax(1) if norm == "Linf" else size.norm(dim=1)
    # The Gaussian start without a step is clipped to the box only (TRADES sheet, property 8).
    assert (size <= 0.3 + 1e-6).all() or (start == "gaussian" and steps == 0)


def test_l2_results_of_large_images_stay_within_the_verifiers_tolerance():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5))
    x = 0.2 + 0.6 * torch.rand(40, 3, 64, 64)
    y = torch.zeros(40, dtype=torch.long)
    for eps in (3.0, 8.0):
        out = run(model, x, y, norm="L2", eps=eps, alpha=eps / 2, steps=4)
        assert ((out - x.double()).flatten(1).norm(dim=1) <= eps + 1e-6).all()


def test_restarts_break_what_one_start_does_not():
    x, y = torch.full((64, 1, 1, 1), 0.5), torch.zeros(64, dtype=torch.long)
    few, many = (run(Corner(), x, y, steps=1, alpha=0.0, restarts=n, keep="last") for n in (1, 8))
    broken = [(Corner()(x_adv).argmax(1) != y).sum().item() for x_adv in (few, many)]
    assert 0 < broken[0] < broken[1]


def test_steps_zero_returns_a_start_uniform_in_the_ball():
    x = torch.full((200, 1, 5, 5), 0.5)
    y = torch.zeros(200, dtype=torch.long)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
    delta = run(model, x, y, steps=0, keep="last") - x
    assert delta.abs().max() <= 0.1 + 1e-7
    assert delta.abs().mean().item() == pytest.approx(0.05, rel=0.05)


def test_l2_start_is_inside_the_ball_with_uniform_radius():
    x = torch.full((2000, 1, 4, 4), 0.5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    y = torch.zeros(len(x), dtype=torch.long)
    radius = (run(model, x, y, norm="L2", steps=0, keep="last") - x).flatten(1).norm(dim=1)
    assert radius.max() <= 0.1 + 1e-6
    assert radius.mean().item() == pytest.approx(0.05, rel=0.05)


def test_gaussian_start_has_the_size_of_the_sheet_and_follows_the_seed():
    # Step 0, x in [0.1, 0.9]: mean |x' - x| = 0.001 sqrt(2 / pi) (TRADES sheet, property 4).
    generator = torch.Generator().manual_seed(0)
    x = 0.1 + 0.8 * torch.rand(50, 1, 20, 20, generator=generator)
    y = torch.zeros(50, dtype=torch.long)
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 3))
    outs = [
        run(model, x, y, loss="kl", start="gaussian", alpha=0.0, steps=1, keep="last", seed=seed)
        for seed in (0, 1)
    ]
    assert (outs[0] - x).abs().mean().item() == pytest.approx(7.98e-4, rel=0.02)
    assert not torch.equal(outs[0], outs[1])


def test_eps_zero_is_the_identity(net, images):
    x, y = images
    for start in ("uniform", "gaussian", "none"):
        for norm in ("Linf", "L2"):
            out = run(net, x, y, eps=0.0, start=start, norm=norm, steps=2)
            torch.testing.assert_close(out, x, rtol=0, atol=1e-7)


def test_kl_attack_ignores_the_labels_and_ce_does_not(net, images):
    x, y = images
    other = (y + 1) % 5
    kl = [run(net, x, label, loss="kl", start="gaussian", keep="last") for label in (y, other)]
    ce = [run(net, x, label, keep="last") for label in (y, other)]
    assert torch.equal(kl[0], kl[1])
    assert not torch.equal(ce[0], ce[1])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_result_does_not_depend_on_batch_or_order(net, images, norm):
    x, y = images
    net.eval()
    ids = torch.arange(len(x))
    together = run(net, x, y, norm=norm, keep="last", steps=3)
    order = torch.tensor([4, 0, 6])
    apart = run(net, x[order], y[order], ids=ids[order], norm=norm, keep="last", steps=3)
    # Sign steps may amplify float rounding; three steps on a smooth net do not.
    torch.testing.assert_close(apart, together[order], rtol=0, atol=1e-6)


def test_attack_leaves_modes_gradients_and_parameters_alone(net, images):
    x, y = images
    net.train()
    net[3].eval()  # a mixed state must come back mixed
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    out = run(net, x, y)
    assert [module.training for module in net] == [True, True, True, False, True, True]
    assert not net[0].weight.requires_grad
    assert net[5].weight.requires_grad
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))
    assert net[1].weight.grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not out.requires_grad


def test_train_mode_crafting_moves_batchnorm_and_restores_the_mode(net, images):
    x, y = images
    net.eval()
    before = net[1].running_mean.clone()
    run(net, x, y, mode="train", keep="last")
    assert not torch.equal(before, net[1].running_mean)
    assert not net.training


def test_mode_is_restored_after_an_error(net, images):
    x, y = images
    net.train()
    with torch.no_grad():
        net[5].weight.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite at step 0 of 10"):
        run(net, x, y)
    assert net.training
    assert net[0].weight.requires_grad


def test_on_step_sees_every_forward_pass_in_order(net, images):
    x, y = images
    seen = []
    run(net, x, y, steps=3, on_step=lambda k, logits: seen.append((k, tuple(logits.shape))))
    assert seen == [(k, (7, 5)) for k in range(4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "L3"}, "norm='L3'"),
        ({"start": "zero"}, "start='zero'"),
        ({"keep": "any"}, "keep='any'"),
        ({"steps": -1}, "steps=-1"),
        ({"restarts": 0}, "restarts=0"),
        ({"loss": "hinge"}, "unknown loss"),
    ],
)
def test_wrong_options_are_named(net, images, change, message):
    with pytest.raises(InputError, match=message):
        run(net, *images, **change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"norm": "L2"},
        {"keep": "first_success"},
        {"keep": "last", "loss": "kl", "start": "gaussian"},
        {"loss": "margin", "kappa": 50.0},
        {"loss": "dlr"},
    ],
)
def test_pgd_does_not_wait_for_the_device_inside_its_loop(net, images, change):
    few, many = (syncs(lambda n=n: run(net, *images, steps=n, **change)) for n in (2, 9))
    assert few == many  # what there is lies outside the loop
    assert many <= 1


def test_cw_l2_does_not_wait_for_the_device_inside_its_loop(net, images):
    x, y = images
    place = {"ids": torch.arange(len(x)), "seed": 0}
    few, many = (
        syncs(
            lambda n=n: cw_l2(
                net, x, y, kappa=0.0, lr=0.01, steps=n, search_steps=2, initial_c=1.0, **place
            )
        )
        for n in (2, 9)
    )
    assert few == many
    assert many <= 2  # one a value of c


def test_the_counter_of_waits_sees_one():
    assert syncs(lambda: torch.ones(1).item()) == 1
    assert syncs(lambda: torch.ones(3)[torch.tensor([True, False, True])]) == 1
