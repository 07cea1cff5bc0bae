"""Exact radii against hand-worked cases and against points found by optimisers of scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from robustbench_lite.selftest.closed_forms import box_radii, linear_radii, staircase_gain
from robustbench_lite.selftest.networks import PIXELS, Staircase, box_network, grid_uniform


@pytest.mark.parametrize(
    ("norm", "expected"), [("Linf", 0.3 / 7), ("L2", 0.3 / 5), ("L1", 0.3 / 4)]
)
def test_far_from_the_box_the_radius_is_the_margin_over_the_dual_norm(norm, expected):
    weight = torch.tensor([[0.0, 0.0], [3.0, -4.0]])
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    bias = torch.tensor([0.3, 0.5])  # z = (0.3, 1.5 - 2 + 0.5 = 0)
    assert linear_radii(weight, bias, x, y, norm=norm).item() == pytest.approx(expected, abs=1e-7)


def test_the_nearest_of_several_classes_counts_and_a_wrong_image_has_radius_0():
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 10.0]])
    bias, x = torch.tensor([2.0, 0.0, -4.0]), torch.tensor([[0.5, 0.5], [0.5, 0.9]])
    radii = linear_radii(weight, bias, x, torch.tensor([0, 0]), norm="L2")
    assert radii.tolist() == pytest.approx([0.1, 0.0])  # class 2; class 1 is out of the box


def test_a_class_that_no_image_has_is_infinitely_far():
    weight, bias = torch.tensor([[0.0], [1.0]]), torch.tensor([2.0, 0.0])
    radii = linear_radii(weight, bias, torch.tensor([[0.5]]), torch.tensor([0]), norm="Linf")
    assert radii.item() == torch.inf


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_in_the_box_the_radius_is_what_scipy_finds(norm):
    x = grid_uniform(5, 6, seed=1, stream="x").double()
    w = 2.0 * grid_uniform(1, 6, seed=1, stream="w")[0].double() - 1.0
    gap = 0.6 * torch.where(w > 0, 1 - x, x).mul(w.abs()).sum(dim=1)  # so faces of the box matter
    for image, needed in zip(x, gap, strict=True):
        bias = torch.stack([image @ w + needed, torch.zeros(()).double()])
        weight = torch.stack([torch.zeros_like(w), w])
        label = torch.tensor([0])
        ours = linear_radii(weight, bias, image[None], label, norm=norm).item()
        scipys = _by_scipy(w.numpy(), float(needed), image.numpy(), norm)
        assert ours == pytest.approx(scipys, rel=1e-5)


def _by_scipy(w, gap, x, norm):
    n = len(w)
    if norm == "L2":
        found = minimize(
            lambda d: d @ d,
            np.zeros(n),
            jac=lambda d: 2 * d,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "ineq", "fun": lambda d: w @ d - gap, "jac": lambda d: w},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return float(np.sqrt(found.fun))
    extra = 1 if norm == "Linf" else n  # one bound for all pixels, or one each
    sizes = np.ones((n, 1)) if norm == "Linf" else np.eye(n)
    rows = np.vstack([np.hstack([s * np.eye(n), -sizes]) for s in (1, -1)])
    rows = np.vstack([rows, np.hstack([-w, np.zeros(extra)])])
    found = linprog(
        np.r_[np.zeros(n), np.ones(extra)],
        A_ub=rows,
        b_ub=np.r_[np.zeros(2 * n), -gap],
        bounds=[*zip(-x, 1 - x, strict=True), *[(0, None)] * extra],
    )
    return float(found.fun)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_box_network_changes_its_mind_at_the_radius(norm):
    center = grid_uniform(1, PIXELS, seed=0, stream="c")[0]
    x = grid_uniform(20, PIXELS, seed=0, stream="x")
    network = box_network(center, half=0.25, slack=1 / 64)
    radii = box_radii(x, center, half=0.25, slack=1 / 64, norm=norm)
    v = ((x - center).abs() - 0.25).clamp_min(0).double()
    if norm == "L1":  # shrink as a whole: any way of taking from v costs the same
        move = v * (radii / v.sum(dim=1))[:, None]
    elif norm == "Linf":
        move = torch.minimum(v, radii[:, None])
    else:  # the level e of max(v - e, 0), found by bisection on the length of the move
        low, high = torch.zeros(20, 1).double(), torch.ones(20, 1).double()
        for _ in range(60):
            middle = (low + high) / 2
            longer = torch.minimum(v, middle).norm(dim=1, keepdim=True) > radii[:, None]
            low, high = torch.where(longer, low, middle), torch.where(longer, middle, high)
        move = torch.minimum(v, low)
    for factor, predicted in ((0.999, 0), (1.001, 1)):
        moved = (x.double() - factor * move * (x - center).sign()).float()
        assert (network(moved).argmax(dim=1) == predicted).all()


def test_the_gain_of_the_staircase_is_the_best_of_all_corners():
    weight = torch.zeros(PIXELS)
    weight[:6] = torch.tensor([0.5, -1.0, 0.25, 2.0, -0.125, 0.75])
    x = ((grid_uniform(4, PIXELS, seed=2, stream="x") * 16).round() / 16).double()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 6).double()
    network = Staircase(weight, 0.0, levels=16)
    for image, gain in zip(x, staircase_gain(weight, x, eps=0.1, levels=16), strict=True):
        moved = image.repeat(len(signs), 1)
        moved[:, :6] = (moved[:, :6] + 0.1 * signs).clamp(0, 1)
        scores = network(torch.cat([image[None], moved]).float().view(-1, 1, 8, 8))[:, 1]
        assert gain.item() == pytest.approx(float((scores.max() - scores[0]).detach()), abs=1e-5)


def test_the_staircase_has_no_gradient():
    network = Staircase(torch.ones(PIXELS), 1.0, levels=16)
    x = torch.full((1, 1, 8, 8), 0.3, requires_grad=True)
    network(x)[0, 1].backward()
    assert not x.grad.any()
