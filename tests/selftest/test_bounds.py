"""Bounds hold at every point that anybody finds, are exact where they can be, and are ordered."""

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.selftest.bounds import (
    Affine,
    Region,
    affine_layers,
    interval_bounds,
    interval_margins,
    relaxed_bounds,
    relaxed_margins,
)
from robustbench_lite.selftest.closed_forms import linear_radii
from robustbench_lite.selftest.complete import can_win, forward
from robustbench_lite.selftest.networks import conv_network, grid_uniform

NORMS = {"Linf": 0.1, "L2": 0.4, "L1": 0.9}


def draws(rows, columns, stream):
    return 2.0 * grid_uniform(rows, columns, seed=5, stream=stream) - 1.0


@pytest.fixture(scope="module")
def network():
    net = conv_network(4, maps=3, hidden=10, classes=4)
    for number, parameter in enumerate(net.parameters()):
        parameter.data = draws(1, parameter.numel(), f"p{number}").view(parameter.shape)
    return net.eval()


@pytest.fixture(scope="module")
def images(network):
    x = grid_uniform(20, 16, seed=5, stream="x").view(-1, 1, 4, 4)
    return x, network(x).argmax(dim=1)


def points(x, norm, eps):
    """Many points of the ball cut by the box, corners and single pixels among them: (P, B, D)."""
    flat = x.flatten(1).double()
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(60):
        delta = 2.0 * torch.rand(flat.shape, generator=generator).double() - 1.0
        if len(found) % 3 == 0:
            delta = delta.sign()
        if len(found) % 3 == 1:  # all on one pixel
            delta = delta * (delta.abs() == delta.abs().amax(dim=1, keepdim=True))
        order = {"Linf": torch.inf, "L2": 2, "L1": 1}[norm]
        delta = eps * delta / delta.norm(p=order, dim=1, keepdim=True)
        found.append((flat + delta).clamp(0.0, 1.0))
    return torch.stack(found)


def test_the_dense_matrices_give_the_networks_logits(network, images):
    layers = affine_layers(network, (1, 4, 4))
    ours = forward(layers, images[0].flatten(1).double())
    torch.testing.assert_close(ours, network(images[0]).double(), rtol=0, atol=1e-5)


def test_a_network_that_the_bounds_do_not_know_is_refused():
    for parts in ([nn.Linear(4, 4), nn.Tanh()], [nn.ReLU()], [nn.Linear(4, 4), nn.Linear(4, 4)]):
        with pytest.raises(TypeError, match="do not know"):
            affine_layers(nn.Sequential(*parts), (1, 2, 2))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [interval_bounds, relaxed_bounds])
def test_every_layer_stays_inside_its_bounds(network, images, norm, bounds):
    layers = affine_layers(network, (1, 4, 4))
    region = Region(images[0].flatten(1).double(), norm, NORMS[norm])
    found = bounds(layers, region)
    for inside in points(images[0], norm, NORMS[norm]):
        z = inside
        for layer, (low, high) in zip(layers, found, strict=True):
            z = z @ layer.weight.T + layer.bias
            assert (z >= low - 1e-9).all()
            assert (z <= high + 1e-9).all()
            z = z.clamp_min(0.0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("margins", [interval_margins, relaxed_margins])
def test_no_point_has_a_smaller_margin(network, images, norm, margins):
    x, y = images
    layers = affine_layers(network, (1, 4, 4))
    least = margins(layers, Region(x.flatten(1).double(), norm, NORMS[norm]), y)
    for inside in points(x, norm, NORMS[norm]):
        logits = forward(layers, inside)
        assert (logits.gather(1, y[:, None]) - logits >= least.clamp_max(1e9) - 1e-9)[
            least.isfinite()
        ].all()


def test_pgd_breaks_nothing_that_is_certified(network, images):
    x, y = images
    layers = affine_layers(network, (1, 4, 4))
    seen = set()
    for eps in (0.005, 0.02, 0.08, 0.3):
        region = Region(x.flatten(1).double(), "Linf", eps)
        certified = (relaxed_margins(layers, region, y) > 1e-6).all(dim=1)
        x_adv = pgd(
            network,
            x,
            y,
            norm="Linf",
            eps=eps,
            alpha=eps / 4,
            steps=20,
            restarts=2,
            loss="dlr",
            start="uniform",
            keep="first_success",
            ids=torch.arange(len(x)),
            seed=0,
        )
        broken = network(x_adv).argmax(dim=1) != y
        assert not (broken & certified).any()
        seen |= {bool(certified.any()), bool(broken.any())}
    assert seen == {True, False}


def test_a_linear_network_is_bounded_exactly():
    weight, bias = draws(3, 9, "w"), draws(1, 3, "b")[0]
    x = 0.4 + 0.2 * grid_uniform(6, 9, seed=5, stream="mild")
    y = (x @ weight.T + bias).argmax(dim=1)
    layers = [Affine(weight.double(), bias.double())]
    for norm in NORMS:
        radii = linear_radii(weight, bias, x, y, norm=norm)
        for row in range(len(x)):
            if radii[row] > 0.35:  # the box is in the way there
                continue
            for factor, certain in ((0.999, True), (1.001, False)):
                region = Region(x[row : row + 1].double(), norm, float(radii[row]) * factor)
                for margins in (interval_margins, relaxed_margins):
                    least = margins(layers, region, y[row : row + 1])
                    assert bool((least > 0).all()) is certain


@pytest.mark.parametrize("norm", NORMS)
def test_the_relaxation_is_never_looser_than_intervals(network, images, norm):
    layers = affine_layers(network, (1, 4, 4))
    region = Region(images[0].flatten(1).double(), norm, NORMS[norm])
    wide, tight = (f(layers, region, images[1]) for f in (interval_margins, relaxed_margins))
    finite = wide.isfinite()
    assert (tight >= wide - 1e-9)[finite].all()
    assert (tight > wide + 1e-3)[finite].any()


def test_the_program_agrees_with_a_grid_over_two_pixels():
    """Two pixels: every point of a fine grid is tried, so the least margin is known."""
    layers = [
        Affine(3.0 * draws(6, 2, "w1").double(), draws(1, 6, "b1")[0].double()),
        Affine(draws(5, 6, "w2").double(), draws(1, 5, "b2")[0].double()),
        Affine(draws(3, 5, "w3").double(), draws(1, 3, "b3")[0].double()),
    ]
    x = grid_uniform(8, 2, seed=5, stream="two").double()
    steps = torch.linspace(-1.0, 1.0, 201).double()
    offsets = torch.cartesian_prod(steps, steps)
    y, seen = forward(layers, x).argmax(dim=1), set()
    for row in range(len(x)):
        for eps in (0.05, 0.2, 0.5):
            grid = forward(layers, (x[row] + eps * offsets).clamp(0.0, 1.0))
            for other in range(3):
                if other == y[row]:
                    continue
                lead = float((grid[:, other] - grid[:, y[row]]).max())
                region = Region(x[row : row + 1], "Linf", eps)
                answer = can_win(layers, region, int(y[row]), other)
                if lead > 1e-3:
                    assert not answer.robust
                    assert answer.found is not None
                if lead < -0.2:  # no point between those of the grid can lead
                    assert answer.robust
                if answer.robust:
                    assert lead < 0.0
                    assert answer.found is None
                if answer.found is not None:
                    assert float((answer.found - x[row]).abs().max()) <= eps + 1e-9
                    logits = forward(layers, answer.found[None])[0]
                    assert logits[other] > logits[y[row]]
                seen.add((answer.robust, answer.found is not None))
    assert {(True, False), (False, True)} <= seen


def test_the_program_prints_nothing(capfd):
    layers = [Affine(torch.eye(2).double(), torch.zeros(2).double())] * 2
    can_win(layers, Region(torch.tensor([[0.6, 0.4]]).double(), "Linf", 0.2), 0, 1)
    assert capfd.readouterr().out == ""
