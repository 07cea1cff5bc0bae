"""IRAT (GAIRAT): kappa of a real run, weights, losses and gradients, in float64."""

import math
from fractions import Fraction

import pytest
import torch
from defense_cases import (
    Z_ADV,
    Recording,
    Trajectory,
    Y,
    crafting,
    example_images,
    make_batch,
    objective_of,
    one_step,
)
from torch import nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST
from robustbench_lite.defenses.instance_weights import log_geometry_weights, normalised
from robustbench_lite.defenses.label_losses import CrossEntropy
from robustbench_lite.defenses.methods.irat import Irat
from robustbench_lite.defenses.methods.pgd_at import PgdAt

TEN = crafting(steps=10)
KAPPA = [10, 0, 3]  # of the common example


def irat(lam=-1.0, weight="tanh", begin_epoch=1, attack=TEN):
    return Irat(attack, weight, lam, begin_epoch)


def common(defense, **changes):
    model = Trajectory(["z_adv"], [KAPPA], 10)
    return objective_of(defense, model, **changes), model


def weights(kappa, *, steps=10, lam=-1.0, weight="tanh", dtype=torch.float64):
    """(w, omega) of geometry values."""
    log_w = log_geometry_weights(
        torch.tensor(kappa, dtype=dtype), steps=steps, lam=lam, weight=weight
    )
    return log_w.exp(), normalised(log_w)


class Toy(nn.Module):
    """Logits [10 (c - x), 0], one c for each example; keeps the x it was asked about."""

    def __init__(self, c):
        super().__init__()
        self.c, self.seen = torch.tensor(c, dtype=torch.float64)[:, None], []

    def forward(self, x):
        self.seen.append(x.detach().flatten())
        score = 10 * (self.c - x.flatten(1))
        return torch.cat([score, torch.zeros_like(score)], dim=1)


# --- kappa


def test_kappa_counts_the_iterates_before_each_step_of_the_run_that_crafts():
    toy = Toy([0.49, 0.55, 0.65])
    x = torch.full((3, 1, 1, 1), 0.5, dtype=torch.float64)
    defense = irat(attack=crafting(steps=10, alpha=Fraction(1, 50)))
    crafted = defense.craft({ROBUST: toy}, make_batch(x, [0, 0, 0], classes=2))
    assert crafted["kappa"].tolist() == [0, 3, 10]
    iterates = torch.stack(toy.seen)  # ten forward passes, none after the last step
    expected = [0.50, 0.52, 0.54, 0.56, 0.58, 0.60, 0.60, 0.60, 0.60, 0.60]
    torch.testing.assert_close(
        iterates, torch.tensor([expected] * 3, dtype=torch.float64).T, rtol=0, atol=1e-12
    )
    assert (crafted["x_adv"] - 0.6).abs().max() < 1e-12
    assert toy(crafted["x_adv"]).argmax(1).tolist() == [1, 1, 0]


def test_kappa_is_a_count_so_an_iterate_that_flips_back_counts_again():
    class Flickering(nn.Module):
        calls = 0

        def forward(self, x):
            right = 1.0 - 2.0 * (self.calls % 2)
            self.calls += 1
            score = right + 0.0 * x.flatten(1).sum(1, keepdim=True)
            return torch.cat([score, torch.zeros_like(score)], dim=1)

    x = torch.full((1, 1, 1, 1), 0.5)
    crafted = irat().craft({ROBUST: Flickering()}, make_batch(x, [0], classes=2))
    assert crafted["kappa"].tolist() == [5]


def test_kappa_follows_the_labels_not_the_prediction():
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    x = 0.4 + 0.01 * torch.rand(60, 1, 1, 3)
    x[torch.arange(60), 0, 0, y] += 0.3
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    means = []
    for labels in (y, y[torch.randperm(60)]):
        crafted = irat().craft({ROBUST: model}, make_batch(x, labels))
        means.append(crafted["kappa"].double().mean().item())
    assert means[0] == 10.0
    assert means[1] < 5.0


# --- weights


@pytest.mark.parametrize(
    ("weight", "lam", "w", "omega"),
    [
        (
            "tanh",
            -1.0,
            [0.999664650, 0.880797078, 0.119202922, 3.35350130e-4, 6.14417460e-6],
            [2.49915395, 2.20198593, 0.298006390, 8.38372751e-4, 1.53603893e-5],
        ),
        (
            "tanh",
            0.0,
            [0.999954602, 0.982013790, 0.5, 2.47262316e-3, 4.53978687e-5],
            [2.01239700, 1.97629133, 1.00624418, 4.97612533e-3, 9.13626826e-5],
        ),
        (
            "sigmoid",
            -1.0,
            [0.982013790, 0.731058579, 0.268941421, 0.0179862100, 2.47262316e-3],
            [2.45200304, 1.82538970, 0.671523341, 0.0449100021, 6.17392500e-3],
        ),
        (
            "discrete",
            7.0,
            [1, 8 / 11, 6 / 11, 3 / 11, 1 / 11],
            [55 / 29, 40 / 29, 30 / 29, 15 / 29, 5 / 29],
        ),
    ],
)
def test_weights_are_the_sheets(weight, lam, w, omega):
    ours = weights([0, 3, 5, 8, 10], lam=lam, weight=weight)
    for values, expected in zip(ours, (w, omega), strict=True):
        assert values.tolist() == pytest.approx(expected, rel=1e-8)
    assert ours[1].sum().item() == pytest.approx(5.0, abs=1e-12)


def test_odd_step_counts_follow_the_paper_not_the_code():
    paper = [0.99966465, 0.98201379, 0.5, 0.01798621, 3.35350130e-4, 6.14417460e-6]
    code = [0.99966465, 0.95257413, 0.11920292, 9.11051194e-4, 6.14417460e-6, 4.13993755e-8]
    ours = weights([0, 1, 2, 3, 4, 5], steps=5)[0].tolist()
    assert ours == pytest.approx(paper, rel=1e-8)
    assert all(abs(a - b) > 1e-7 for a, b in zip(ours[1:], code[1:], strict=True))


def test_one_step_is_enough():
    assert weights([0, 1], steps=1, lam=0.0)[0].tolist() == pytest.approx(
        [0.999954602, 4.53978687e-5], rel=1e-8
    )


@pytest.mark.parametrize("weight", ["tanh", "sigmoid", "discrete"])
def test_weights_sum_to_the_batch_fall_with_kappa_and_rise_with_lambda(weight):
    kappa = list(range(11))
    previous = torch.zeros(11, dtype=torch.float64)
    for lam in (-4.0, -1.0, 0.0, 2.0):
        w, omega = weights(kappa, lam=lam, weight=weight)
        assert omega.sum().item() == pytest.approx(11.0, abs=1e-12)
        assert (omega >= 0).all()
        assert not omega.requires_grad
        assert (w.diff() < 0).all()
        assert (w >= previous).all()
        previous = w


@pytest.mark.parametrize("lam", [-5.0, -60.0])
def test_weights_stay_finite_in_float32_where_all_are_tiny(lam):
    _, omega = weights([10] * 7, lam=lam, dtype=torch.float32)
    assert omega.sum().item() == pytest.approx(7.0, rel=1e-6)
    torch.testing.assert_close(omega, torch.ones(7))
    _, omega = weights([10, 9], lam=lam, dtype=torch.float32)  # s differs by 1
    assert (omega[1] / omega[0]).item() == pytest.approx(math.exp(2.0), rel=1e-4)


def test_weights_follow_a_permutation_of_the_batch():
    order = torch.tensor([3, 0, 4, 1, 2])
    kappa = torch.tensor([0, 3, 5, 8, 10])
    torch.testing.assert_close(
        weights(kappa[order].tolist())[1], weights(kappa.tolist())[1][order], rtol=1e-14, atol=0
    )


# --- loss


@pytest.mark.parametrize(
    ("lam", "expected", "omega"),
    [
        (-1.0, 1.6706663605, [9.80209451e-6, 1.59481265, 1.40517755]),
        (0.0, 1.6417780343, [6.87147621e-5, 1.51354336, 1.48638793]),
        (math.inf, 1.1479408815, [1.0, 1.0, 1.0]),
    ],
)
def test_loss_is_the_sheets_and_its_gradient_has_constant_weights(lam, expected, omega):
    objective, model = common(irat(lam))
    assert objective.loss.item() == pytest.approx(expected, abs=1e-9)
    z_adv = torch.tensor(Z_ADV, dtype=torch.float64)
    residual = z_adv.softmax(1) - nn.functional.one_hot(torch.tensor(Y), 3)
    by_hand = torch.tensor(omega, dtype=torch.float64)[:, None] * residual / 3
    torch.testing.assert_close(model.z_adv.grad, by_hand, rtol=1e-7, atol=1e-12)
    assert model.z.grad is None


def test_equal_kappas_are_plain_adversarial_training():
    model = Trajectory(["z_adv"], [[4, 4, 4]], 10)
    plain = Trajectory(["z_adv"], [[4, 4, 4]], 10)
    loss = objective_of(irat(), model).loss.item()
    assert loss == pytest.approx(objective_of(PgdAt(TEN), plain).loss.item(), abs=1e-12)
    torch.testing.assert_close(model.z_adv.grad, plain.z_adv.grad, rtol=0, atol=1e-12)


def test_begin_epoch_is_the_first_with_weights():
    before, _ = common(irat(begin_epoch=60), epoch=59)
    assert before.loss.item() == pytest.approx(1.1479408815, abs=1e-9)
    first, _ = common(irat(begin_epoch=60), epoch=60)
    assert first.loss.item() == pytest.approx(1.6706663605, abs=1e-9)


@pytest.mark.parametrize("epoch", [1, 2])
def test_the_recipes_label_loss_is_what_is_weighted(epoch):
    defense = irat(lam=0.0, begin_epoch=2)
    objective, _ = common(defense, epoch=epoch, label_loss=CrossEntropy(0.3))
    omega = weights(KAPPA, lam=0.0)[1] if epoch == 2 else torch.ones(3, dtype=torch.float64)
    log_p = torch.tensor(Z_ADV, dtype=torch.float64).log_softmax(1)
    smooth = -0.7 * log_p[range(3), Y] - 0.3 * log_p.mean(1)
    assert objective.loss.item() == pytest.approx((omega * smooth).mean().item(), abs=1e-12)


def test_what_is_logged_is_unweighted():
    objective, _ = common(irat())
    scalars = {name: value.item() for name, value in objective.scalars.items()}
    assert scalars == pytest.approx(
        {"adv_loss": 1.1479408815, "adv_accuracy": 1 / 3, "kappa": 13 / 3}, abs=1e-7
    )
    assert not any(value.requires_grad for value in objective.scalars.values())


# --- one step on a real network


def test_only_the_crafted_batch_is_forwarded_and_crafting_leaves_batchnorm_alone():
    model, x, updates, _ = one_step(irat(attack=crafting(steps=3, start="uniform")))
    assert updates == 1
    assert not torch.equal(model.seen[0], x)
    fresh, (images, labels) = Recording().train(), example_images()
    before = {name: value.clone() for name, value in fresh.norm.named_buffers()}
    irat().craft({ROBUST: fresh}, make_batch(images, labels))
    assert all(torch.equal(before[name], value) for name, value in fresh.norm.named_buffers())


def test_crafting_ascends_cross_entropy_as_plain_adversarial_training_does():
    attack = crafting(steps=4, start="uniform")
    ours = one_step(irat(lam=math.inf, attack=attack))
    plain = one_step(PgdAt(attack))
    assert torch.equal(ours[0].seen[0], plain[0].seen[0])
    assert ours[3].loss.item() == pytest.approx(plain[3].loss.item(), abs=1e-6)


# --- errors


@pytest.mark.parametrize("lam", [math.nan, -math.inf])
def test_a_lambda_without_weights_is_refused(lam):
    with pytest.raises(InputError, match="lam="):
        irat(lam=lam)


def test_an_attack_without_steps_is_refused():
    with pytest.raises(InputError, match=r"crafting.steps=0"):
        irat(attack=crafting(steps=0))
