"""The L1 projection is the nearest allowed point, and ranks are those of a sort."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack.autopgd_base import L1_projection as reference_projection
from scipy.optimize import minimize

from robustbench_lite.attacks.projections import kth_largest, l1_projection


def problem(n, size, spread, seed, dtype=torch.float64):
    """Centres with pixels at 0 and 1 among them, and perturbations with zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, size, generator=generator, dtype=dtype)
    x[:, ::5], x[:, 1::7] = 0.0, 1.0
    delta = spread * torch.randn(n, size, generator=generator, dtype=dtype)
    delta[:, ::3] *= 0.0
    return x, delta


def best_move(slope, x, eps):
    """max of slope . move over the allowed moves: greedy, the steepest entries go first."""
    size, room = slope.abs(), torch.where(slope > 0, 1.0 - x, x)
    order = size.argsort(dim=1, descending=True)
    room = room.gather(1, order)
    used = (room.cumsum(1) - room).clamp(max=eps)
    return (size.gather(1, order) * torch.minimum(room, eps - used)).sum(1)


@given(
    st.integers(1, 40),
    st.sampled_from([1e-3, 0.3, 3.0]),
    st.sampled_from([0.0, 0.01, 0.5, 4.0, 100.0]),
    st.integers(0, 10**6),
)
def test_no_allowed_point_is_nearer(size, spread, eps, seed):
    x, delta = problem(8, size, spread, seed)
    moved = l1_projection(x, delta, eps)
    assert (moved.abs().sum(1) <= eps * (1 + 1e-12)).all()
    assert ((x + moved >= 0.0) & (x + moved <= 1.0)).all()
    # A point of a convex set is the nearest exactly when no other one lies ahead of it.
    ahead = best_move(delta - moved, x, eps) - ((delta - moved) * moved).sum(1)
    assert (ahead <= 1e-9 * (1.0 + spread)).all()


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.4, 1.0, 2.0, 6.0])
def test_it_is_what_a_general_solver_finds(eps):
    x, delta = problem(3, 7, 0.6, seed=1)
    moved = l1_projection(x, delta, eps).numpy()
    for row in range(3):
        # delta' = up - down, both at least 0, makes the problem smooth.
        wanted, centre = delta[row].numpy(), x[row].numpy()
        found = minimize(
            lambda v, wanted=wanted: ((v[:7] - v[7:] - wanted) ** 2).sum(),
            np.zeros(14),
            bounds=[(0, 1 - c) for c in centre] + [(0, c) for c in centre],
            constraints={"type": "ineq", "fun": lambda v: eps - v.sum()},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(moved[row], found.x[:7] - found.x[7:], atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 32, 32), (1, 28, 28)])
@pytest.mark.parametrize("eps", [0.3, 12.0, 200.0])
def test_it_is_the_authors_projection(monkeypatch, shape, eps):
    torch.manual_seed(0)
    x, delta = torch.rand(6, *shape).double(), torch.randn(6, *shape).double()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # theirs is in float32
    theirs = delta + reference_projection(x, delta, eps)
    torch.testing.assert_close(l1_projection(x, delta, eps), theirs, rtol=0, atol=1e-9)


def test_float32_stays_inside_and_agrees_with_float64():
    x, delta = problem(20, 3 * 64 * 64, 1.0, seed=2, dtype=torch.float32)
    for eps in (0.05, 3.0, 12.0, 500.0):
        moved = l1_projection(x, delta, eps)
        assert (((x + moved).double() - x.double()).abs().sum(1) <= eps * (1 + 1e-6)).all()
        assert ((x + moved >= 0.0) & (x + moved <= 1.0)).all()
        exact = l1_projection(x.double(), delta.double(), eps)
        torch.testing.assert_close(moved.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("levels", [255, 2**24])
def test_equal_moves_of_many_pixels_do_not_all_round_outwards(levels):
    x = torch.randint(levels // 2, levels, (50, 3000)) / levels
    delta = torch.linspace(1e-4, 2e-4, 50)[:, None].expand(50, 3000) * torch.ones(3000)
    moved = l1_projection(x, delta, 0.2)
    size = ((x + moved).double() - x.double()).abs().sum(1)
    assert (size <= 0.2 * (1 + 1e-6)).all()
    assert (size >= 0.2 * (1 - 3e-3)).all()  # 2**-23 a pixel is lost


def test_a_point_already_allowed_stays_and_a_projection_is_its_own():
    x, delta = problem(10, 30, 0.2, seed=3)
    inside = delta.clamp(-x, 1.0 - x)
    torch.testing.assert_close(l1_projection(x, inside, 1e6), inside, rtol=0, atol=2.3e-16)
    once = l1_projection(x, delta, 0.7)
    torch.testing.assert_close(l1_projection(x, once, 0.7), once, rtol=0, atol=1e-12)


def test_projected_points_are_no_further_apart():
    x, one = problem(50, 20, 0.8, seed=4)
    other = one + 0.3 * torch.randn(one.shape, generator=torch.Generator().manual_seed(5))
    before = (one - other).norm(dim=1)
    after = (l1_projection(x, one, 1.0) - l1_projection(x, other, 1.0)).norm(dim=1)
    assert (after <= before + 1e-12).all()


def test_entries_that_vanish_are_exactly_zero():
    x, delta = problem(20, 100, 1.0, seed=6, dtype=torch.float32)
    moved = l1_projection(x, delta, 1.0)
    assert ((moved != 0).sum(1) < 30).all()
    assert torch.equal((x + moved)[moved == 0], x[moved == 0])


def test_each_example_may_have_its_own_radius_and_does_not_see_the_others():
    x, delta = problem(4, 25, 1.0, seed=7)
    radii = torch.tensor([0.0, 0.3, 2.0, 50.0], dtype=torch.float64)
    together = l1_projection(x, delta, radii)
    for row, eps in enumerate(radii.tolist()):
        alone = l1_projection(x[row : row + 1], delta[row : row + 1], eps)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-12)


def test_the_arguments_are_left_alone():
    x, delta = problem(4, 25, 1.0, seed=8)
    kept = x.clone(), delta.clone()
    l1_projection(x, delta, 0.5)
    assert torch.equal(x, kept[0])
    assert torch.equal(delta, kept[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kth_largest_is_that_of_a_sort(dtype):
    generator = torch.Generator().manual_seed(9)
    values = torch.rand(64, 33, generator=generator, dtype=dtype)
    values[::2] = (4 * values[::2]).round()  # ties and zeros
    values[1::4] *= 1e-30
    k = torch.randint(1, 34, (64,), generator=generator)
    k[:2] = torch.tensor([1, 33])
    ordered = values.sort(dim=1, descending=True).values
    assert torch.equal(kth_largest(values, k), ordered.gather(1, k[:, None] - 1)[:, 0])
