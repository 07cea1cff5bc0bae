"""AWP and corruption-resistant training, against worked examples and the definitions."""

import math

import pytest
import torch
from defense_cases import Recording, crafting, example_images, make_batch
from torch import nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST, Objective
from robustbench_lite.defenses.methods.lbgat import Lbgat
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.weight_perturbation import (
    Awp,
    Corruption,
    Unperturbed,
    steepest_corruption,
    worst_corruption,
)

G = torch.tensor([3.0, -4.0, 1.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("p", "n", "expected", "value"),
    [
        (2.0, 4, [0.058835, -0.078446, 0.019612, 0], 0.509902),
        (2.0, 2, [0.06, -0.08, 0, 0], 0.5),
        (math.inf, 2, [0.1, -0.1, 0, 0], 0.7),
        (math.inf, 4, [0.1, -0.1, 0.1, 0], 0.8),
        (2.0, 1, [0, -0.1, 0, 0], 0.4),
        (3.0, 1, [0, -0.1, 0, 0], 0.4),
        (math.inf, 1, [0, -0.1, 0, 0], 0.4),
        (3.0, 2, [0.073296, -0.084635, 0, 0], 0.558425),
    ],
)
def test_the_single_step_corruption_maximises_the_linear_increase(p, n, expected, value):
    corruption = steepest_corruption(G, eps=0.1, p=p, n=n)
    torch.testing.assert_close(
        corruption, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert (corruption @ G).item() == pytest.approx(value, abs=1e-6)


def test_the_lower_place_wins_a_tie_and_no_gradient_means_no_corruption():
    tied = steepest_corruption(torch.tensor([1.0, -1.0, 1.0]), eps=0.1, p=2.0, n=1)
    assert tied.tolist() == pytest.approx([0.1, 0, 0])
    assert steepest_corruption(torch.zeros(3), eps=0.1, p=2.0).tolist() == [0, 0, 0]


def quadratic(corruption):
    w = torch.ones(2, dtype=torch.float64) + corruption
    scale = torch.tensor([1.0, 4.0], dtype=torch.float64)
    return 0.5 * (scale * w * w).sum(), scale * w


@pytest.mark.parametrize(
    ("steps", "expected", "increase"),
    [
        (1, [0.121268, 0.485071], 2.539494),
        (10, [0.101165, 0.489659], 2.544448),
    ],
)
def test_corruption_of_the_quadratic_bowl(steps, expected, increase):
    base, gradient = quadratic(torch.zeros(2, dtype=torch.float64))
    found = worst_corruption(quadratic, gradient, eps=0.5, p=2.0, steps=steps)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert (quadratic(found)[0] - base).item() == pytest.approx(increase, abs=1e-6)
    assert found.norm() <= 0.5 + 1e-12
    if steps == 1:
        assert (found @ gradient).item() == pytest.approx(2.061553, abs=1e-6)


def test_two_steps_of_a_quarter_need_no_rescaling():
    first = steepest_corruption(quadratic(torch.zeros(2, dtype=torch.float64))[1], eps=0.25, p=2.0)
    second = first + steepest_corruption(quadratic(first)[1], eps=0.25, p=2.0)
    assert second.tolist() == pytest.approx([0.112809, 0.487030], abs=1e-6)
    assert second.norm().item() == pytest.approx(0.499925, abs=1e-6)


def test_the_iterate_of_the_largest_loss_comes_back_not_the_last():
    losses = iter([3.0, 5.0, 4.0])
    gradients = iter([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    seen = []

    def script(corruption):
        seen.append(corruption)
        return torch.tensor(next(losses)), torch.tensor(next(gradients))

    found = worst_corruption(script, torch.tensor([1.0, 0.0]), eps=1.0, p=2.0, steps=3)
    assert torch.equal(found, seen[1])
    assert not torch.equal(found, seen[2])


class Bowl(nn.Module):
    """The quadratic above, its two weights in a matrix so that they count as weights."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, 2, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def objective(self):
        scale = torch.tensor([1.0, 4.0], dtype=torch.float64)
        return Objective(0.5 * (scale * self.w * self.w).sum() + self.bias.sum(), {})


@pytest.mark.parametrize(
    ("mix", "expected"), [(0.5, [1.060634, 4.970143]), (1.0, [1.121268, 5.940285]), (0.0, [1, 4])]
)
def test_corruption_resistant_training_mixes_the_two_gradients(mix, expected):
    bowl = Bowl()
    result = Corruption(0.5, 2.0, 1, mix).backward(bowl.objective, bowl, epoch=1)
    assert bowl.w.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(bowl.w, torch.ones(1, 2, dtype=torch.float64))
    assert bowl.bias.grad.item() == 1.0  # biases do not move, but train
    assert result.loss.item() == pytest.approx(2.5)


def a_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def closure_of(network):
    x = torch.rand(16, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(16) % 3
    return lambda: Objective(nn.functional.cross_entropy(network(x), y), {})


def test_with_p_2_and_mix_1_it_is_sam():
    ours, sam, rho = a_network(), a_network(), 0.05
    Corruption(rho, 2.0, 1, 1.0).backward(closure_of(ours), ours, epoch=1)
    objective = closure_of(sam)
    weights = [p for p in sam.parameters() if p.dim() >= 2]
    gradients = torch.autograd.grad(objective().loss, weights)
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.add_(rho * gradient / norm)
    objective().loss.backward()
    for mine, theirs in zip(ours.parameters(), sam.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-12, rtol=1e-9)


def test_more_steps_never_find_a_smaller_loss():
    network = a_network()
    objective, weights = closure_of(network), [p for p in network.parameters() if p.dim() >= 2]
    losses = []
    for steps in (1, 5):
        seen = []

        def watched(seen=seen):
            result = objective()
            seen.append(result.loss.item())
            return result

        Corruption(1.0, 2.0, steps, 1.0).backward(watched, network, epoch=1)
        losses.append(seen[-1])  # at the worst corruption
        network.zero_grad()
    assert losses[1] >= losses[0] > objective().loss.item()
    assert all(weight.requires_grad for weight in weights)


def test_awp_moves_each_weight_tensor_by_gamma_times_its_norm_uphill():
    network, gamma, moved = a_network(), 0.01, []
    before = [p.detach().clone() for p in network.parameters()]
    objective = closure_of(network)

    def watched():
        moved.append([p.detach() - b for p, b in zip(network.parameters(), before, strict=True)])
        return objective()

    result = Awp(gamma, 1).backward(watched, network, epoch=1)
    at_w, at_v = moved
    assert all(move.abs().max() == 0 for move in at_w)
    for move, weight in zip(at_v, before, strict=True):
        expected = gamma * weight.norm() if weight.dim() >= 2 else torch.tensor(0.0).double()
        assert move.norm().item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-15)
    assert result.loss > objective().loss
    for parameter, old in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is not None


def test_awp_without_radius_or_before_its_epoch_is_plain_training():
    plain, zero, early = a_network(), a_network(), a_network()
    Unperturbed().backward(closure_of(plain), plain, epoch=1)
    Awp(0.0, 1).backward(closure_of(zero), zero, epoch=1)
    Awp(0.01, 2).backward(closure_of(early), early, epoch=1)
    for a, b, c in zip(plain.parameters(), zero.parameters(), early.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
        assert torch.equal(a.grad, c.grad)


@pytest.mark.parametrize("perturbation", [Awp(0.01, 1), Corruption(0.05, 2.0, 2, 0.5)])
def test_batchnorm_sees_one_training_pass_and_the_method_crafts_once(perturbation):
    model, (x, y) = Recording().train(), example_images()
    batch, defense = make_batch(x, y), PgdAt(crafting(steps=2, start="uniform"))
    crafted = defense.craft({ROBUST: model}, batch)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    perturbation.backward(lambda: defense.objective({ROBUST: model}, batch, crafted), model, 1)
    assert model.norm.num_batches_tracked.item() == 1
    assert all(torch.equal(seen, crafted["x_adv"]) for seen in model.seen)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "make",
    [
        lambda: Awp(-0.1, 1),
        lambda: Corruption(0.1, 1.0, 1, 0.5),
        lambda: Corruption(0.1, 2.0, 1, 1.5),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="weight_perturbation"):
        make()


@pytest.mark.parametrize("perturbation", [Awp(0.01, 1), Corruption(0.05, 2.0, 2, 1.0)])
def test_a_network_beside_it_keeps_its_weights_and_sees_one_training_pass(perturbation):
    robust, natural = Recording().train(), Recording(seed=1).train()
    x, y = example_images()
    networks, batch = {ROBUST: robust, "natural": natural}, make_batch(x, y)
    defense = Lbgat(crafting(steps=2, start="gaussian"), "unused", 1.0)
    crafted = defense.craft(networks, batch)
    before = {name: value.clone() for name, value in natural.named_parameters()}
    perturbation.backward(
        lambda: defense.objective(networks, batch, crafted), robust, 1, beside=[natural]
    )
    assert robust.norm.num_batches_tracked.item() == 1
    assert natural.norm.num_batches_tracked.item() == 1
    for name, value in natural.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad.abs().sum() > 0


def test_a_weight_that_the_loss_does_not_see_stays_and_gets_no_gradient():
    network = a_network()
    network.unused = nn.Linear(3, 3).double()

    def first_layers():
        x = torch.rand(4, 6, dtype=torch.float64)
        return Objective(network[2](network[1](network[0](x))).square().mean(), {})

    before = network.unused.weight.clone()
    for perturbation in (Awp(0.01, 1), Corruption(0.05, 2.0, 2, 0.5)):
        network.zero_grad()
        perturbation.backward(first_layers, network, 1)
        assert torch.equal(network.unused.weight, before)
        assert network[0].weight.grad.abs().sum() > 0
