"""Smallest moves onto a hyperplane in the box: optimal, the authors' own, sound in float32.

The data are the same numbers on every processor: only operations that IEEE 754 rounds in one way
(no exp, no randn: their vectorised forms differ by processor), and sums by `math.fsum`.
"""

import math

import pytest
import torch
from device_waits import syncs
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack.fab_projections import projection_l1, projection_l2, projection_linf
from scipy.optimize import linprog

from robustbench_lite.attacks.autoattack import fab_projections as hyperplane_projections
from robustbench_lite.attacks.autoattack.fab_projections import multiplier, smallest_moves

NORMS = ("Linf", "L2", "L1")
THEIRS = {"Linf": projection_linf, "L2": projection_l2, "L1": projection_l1}


def heavy_tailed(shape, generator, spread):
    """About exp(spread * normal), from uniform draws, sums, products and quotients alone."""
    normal = sum(torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(12)) - 6
    size = 1 + normal.abs() * spread / 32
    for _ in range(5):  # (1 + z/32) ** 32 is about exp(z)
        size = size * size
    return torch.where(normal < 0, 1 / size, size)


def exact_sum(values):
    """Sums over the last dimension (P, B, d), rounded once: no order of adding changes them."""
    sums = [[math.fsum(row) for row in rows] for rows in values.double().tolist()]
    return torch.tensor(sums, dtype=torch.float64)


def problem(rows=20, d=50, seed=0, dtype=torch.float64, spread=1.0, most=1.3):
    """Points with a third of the values on a wall, and rises from 0 to more than possible."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(2, rows, d, generator=generator, dtype=torch.float64)
    points = torch.where(points < 1 / 6, 0.0, torch.where(points > 5 / 6, 1.0, points))
    sign = torch.randint(0, 2, (rows, d), generator=generator) * 2 - 1
    w = sign * heavy_tailed((rows, d), generator, spread)
    share = torch.rand(2, rows, generator=generator, dtype=torch.float64) * 2 * most - most
    rise = share * most_rise(points, w, share)
    return points.to(dtype), w.to(dtype), rise.to(dtype)


def most_rise(points, w, towards):
    """Largest |w.delta| in the box, in the direction of the sign of `towards`."""
    up = (w * towards.sign()[..., None]) > 0
    return exact_sum(w.abs() * torch.where(up, 1 - points, points)).to(w.dtype)


def norm_of(delta, norm):
    return torch.linalg.vector_norm(delta, {"Linf": torch.inf, "L2": 2, "L1": 1}[norm], dim=2)


def rounding(points, w, rise, norm, *, units):
    """How far the moves of a row (P, B, 1) may be off: those of a rise that is wrong by rounding.

    By `units` eps of the rise, and (Linf, L2) of lam * sum(q), whose pieces are subtracted on the
    way. So a row whose moves react strongly to its rise may be off by more.
    """
    eps = units * torch.finfo(w.dtype).eps
    points, w, rise = points.double(), w.double(), rise.double()
    delta, length = smallest_moves(points, w, rise, norm=norm)
    missed = rise.abs()
    if norm == "Linf":
        missed = missed + length * w.abs().sum(dim=1)
    elif norm == "L2":
        missed = missed + (delta / w).abs().amax(dim=2) * w.square().sum(dim=1)
    shifts = [
        (smallest_moves(points, w, rise + sign * eps * missed, norm=norm)[0] - delta).abs()
        for sign in (-1, 1)
    ]
    return torch.maximum(*shifts).amax(dim=2, keepdim=True) + eps


def theirs(points, w, rise, norm):
    p, rows, d = points.shape
    t, w = points.reshape(-1, d), w.expand(p, rows, d).reshape(-1, d)
    b = (w * t).sum(dim=1) + rise.flatten()
    return THEIRS[norm](t, w, b).view(points.shape)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 784])
def test_moves_are_those_of_the_authors(norm, d):
    for seed in range(5):
        for spread in (0.1, 1.0):
            case = problem(d=d, seed=seed, spread=spread)
            delta, length = smallest_moves(*case, norm=norm)
            assert ((delta - theirs(*case, norm)).abs() <= rounding(*case, norm, units=32)).all()
            torch.testing.assert_close(length, norm_of(delta, norm), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [3, 64, 784])
def test_float32_moves_are_as_near_to_the_truth_as_those_of_the_authors(norm, d):
    for seed in range(5):
        case = problem(d=d, seed=seed, dtype=torch.float32, most=0.5)
        points, w, rise = (part.double() for part in case)
        exact, _ = smallest_moves(points, w, rise, norm=norm)
        delta, ours = (part.double() for part in smallest_moves(*case, norm=norm))
        allowed = rounding(*case, norm, units=4)
        error = ((delta - exact).abs() / allowed).max()
        assert error < 1
        assert error <= 2 * ((theirs(*case, norm).double() - exact).abs() / allowed).max()
        missed = ((w * delta).sum(dim=2) - rise).abs()
        assert (missed <= 3e-7 * w.abs().sum(dim=1)).all()
        torch.testing.assert_close(ours, norm_of(delta, norm), rtol=1e-5, atol=1e-6)


@given(st.sampled_from(NORMS), st.integers(1, 60), st.integers(0, 10**6), st.floats(0.0, 3.0))
def test_moves_reach_the_plane_inside_the_box(norm, d, seed, spread):
    points, w, rise = problem(rows=4, d=d, seed=seed, spread=spread)
    delta, _ = smallest_moves(points, w, rise, norm=norm)
    moved = points + delta
    assert ((moved > -1e-12) & (moved < 1 + 1e-12)).all()
    most = most_rise(points, w, torch.where(rise < 0, -1.0, 1.0))
    reached = (w * delta).sum(dim=2)
    wanted = rise.sign() * torch.minimum(rise.abs(), most)
    torch.testing.assert_close(reached, wanted, rtol=1e-9, atol=1e-9 * float(w.abs().sum()))


@pytest.mark.parametrize("norm", ["Linf", "L1"])
@pytest.mark.parametrize("seed", range(4))
def test_no_linear_program_finds_a_shorter_move(norm, seed):
    d = 9
    points, w, rise = problem(rows=1, d=d, seed=seed, most=0.95)
    _, length = smallest_moves(points, w, rise, norm=norm)
    for p in range(2):
        normal = w[0].tolist()
        t = points[p, 0].tolist()
        if norm == "Linf":  # min s, |delta_i| <= s
            cost = [0.0] * d + [1.0]
            rows = [
                [sign * (j == i) for j in range(d)] + [-1.0] for i in range(d) for sign in (1, -1)
            ]
            bounds = [(-v, 1 - v) for v in t] + [(0, None)]
            found = linprog(
                cost, rows, [0.0] * len(rows), [[*normal, 0.0]], [float(rise[p, 0])], bounds
            )
        else:  # delta = up - down
            cost = [1.0] * (2 * d)
            bounds = [(0, 1 - v) for v in t] + [(0, v) for v in t]
            normal = normal + [-v for v in normal]
            found = linprog(cost, None, None, [normal], [float(rise[p, 0])], bounds)
        assert length[p, 0].item() == pytest.approx(found.fun, abs=1e-8)


@given(st.integers(0, 10**6))
def test_no_feasible_change_of_an_l2_move_is_shorter(seed):
    points, w, rise = problem(rows=3, d=6, seed=seed, most=0.9)
    delta, _ = smallest_moves(points, w, rise, norm="L2")
    generator = torch.Generator().manual_seed(seed)
    # Towards any other point of plane and box the length grows: a convex problem's optimum.
    start = torch.rand(points.shape, generator=generator, dtype=torch.float64)
    left = rise - (w * (start - points)).sum(dim=2)
    other = start + smallest_moves(start, w, left, norm="Linf")[0] - points
    feasible = ((w * other).sum(dim=2) - rise).abs() < 1e-9
    growth = (delta * (other - delta)).sum(dim=2)
    assert feasible.any()
    assert (growth[feasible] > -1e-9).all()


@pytest.mark.parametrize("norm", NORMS)
def test_values_without_weight_stay(norm):
    points, w, rise = problem(dtype=torch.float32)
    w[:, ::2] = 0.0
    w[0] = 0.0
    delta, length = smallest_moves(points, w, rise, norm=norm)
    assert not delta[:, :, ::2].any()
    assert not delta[:, 0].any()
    assert not length[:, 0].any()
    assert torch.isfinite(delta).all()
    assert delta[:, 1:, 1::2].any(dim=2).all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_rise_is_no_move(norm):
    points, w, rise = problem(dtype=torch.float32)
    delta, length = smallest_moves(points, w, 0.0 * rise, norm=norm)
    assert not delta.any()
    assert not length.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", [1.0, 1.0001, 1e6])
def test_a_rise_the_box_does_not_allow_brings_every_value_to_its_wall(norm, factor):
    points, w, rise = problem(dtype=torch.float32)
    rise = rise.sign() * most_rise(points, w, rise) * factor
    delta, length = smallest_moves(points, w, rise, norm=norm)
    up = w * rise.sign()[..., None] > 0
    walls = torch.where(up, 1 - points, -points)
    if factor > 1.0:
        torch.testing.assert_close(delta, walls, rtol=0, atol=2e-7)
    else:  # at the edge, rounding decides how far the value of least worth goes
        missing = (w * (walls - delta)).sum(dim=2).abs()
        assert (missing <= 1e-4 * rise.abs()).all()
    torch.testing.assert_close(length, norm_of(delta, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [2.0**-13, 2.0**13, 2.0**27])  # so that nothing is rounded
def test_moves_do_not_depend_on_the_scale_of_the_logits(norm, scale):
    points, w, rise = problem(dtype=torch.float32, most=0.5)
    delta, _ = smallest_moves(points, w, rise, norm=norm)
    scaled, _ = smallest_moves(points, w * scale, rise * scale, norm=norm)
    assert torch.equal(scaled, delta)


def test_weights_below_the_authors_threshold_stay_in_l2_and_l1_and_move_in_linf():
    points, _, _ = problem(rows=1, d=4, dtype=torch.float32)
    w = torch.full((1, 4), 5e-9)
    rise = torch.full((2, 1), 1e-9)
    for norm in NORMS:
        delta, _ = smallest_moves(points, w, rise, norm=norm)
        assert bool(delta.any()) == (norm == "Linf")
        torch.testing.assert_close(delta, theirs(points, w, rise, norm), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_see_each_other(norm):
    points, w, rise = problem(dtype=torch.float32)
    delta, length = smallest_moves(points, w, rise, norm=norm)
    for i in (0, 7):
        alone = smallest_moves(points[:, [i]], w[[i]], rise[:, [i]], norm=norm)
        torch.testing.assert_close(alone[0], delta[:, [i]], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone[1], length[:, [i]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(2, 0, 5), (1, 1, 1), (1, 3, 2)])
def test_any_number_of_points_and_rows(norm, shape):
    points = torch.rand(shape)
    w, rise = torch.ones(shape[1:]), torch.zeros(shape[:2])
    delta, length = smallest_moves(points, w, rise, norm=norm)
    assert delta.shape == shape
    assert length.shape == shape[:2]


# Shares of what is possible: near all of it the pieces of the function follow each other closely.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_the_fixed_number_of_newton_steps_is_enough(monkeypatch, spread, share, dtype):
    """Further steps change no bit, and what is missed of the rise is rounding.

    The slope is a difference of sums of q, so it is wrong by a few eps of sum(q), and what is
    reached by as many eps of lam * sum(q). That is far more than eps of the rise where heavy
    values reach their walls early: no number of steps makes it smaller.
    """
    generator = torch.Generator().manual_seed(0)
    size = heavy_tailed((30, 784), generator, spread)
    room = torch.rand(2, 30, 784, generator=generator, dtype=torch.float64)
    for r, q in ((room, size), (room / size, size.square())):  # Linf, L2
        r, q = r.to(dtype), q.to(dtype)
        rise = (share * exact_sum(r.double() * q.double())).to(dtype)
        lam = multiplier(r, q, rise, stop_early=False)
        with monkeypatch.context() as patch:
            patch.setattr(hyperplane_projections, "_NEWTON_STEPS", 200)
            assert torch.equal(multiplier(r, q, rise, stop_early=False), lam)
            assert torch.equal(multiplier(r, q, rise, stop_early=True), lam)
        reached = exact_sum(q.double() * torch.minimum(r, lam[..., None]).double())
        most = exact_sum(q[None]) * lam.double() + rise.double()
        assert ((reached - rise.double()).abs() <= 32 * torch.finfo(dtype).eps * most).all()


def test_newton_steps_stop_on_the_solution_and_never_pass_it(monkeypatch):
    r = torch.rand(2, 20, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = torch.rand(20, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rise = 0.95 * (r * q).sum(dim=2)
    trail = []
    for steps in range(1, 30):
        monkeypatch.setattr(hyperplane_projections, "_NEWTON_STEPS", steps)
        trail.append(multiplier(r, q, rise, stop_early=False))
        reached = (q * torch.minimum(r, trail[-1][..., None])).sum(dim=2)
        assert (reached <= rise * (1 + 1e-12)).all()
    stops = [i for i in range(1, len(trail)) if torch.equal(trail[i], trail[i - 1])]
    assert stops
    assert stops == list(range(stops[0], len(trail)))  # what stands still once stays so
    torch.testing.assert_close(reached, rise, rtol=1e-12, atol=0)


def test_looking_stops_early(monkeypatch):
    r, q = torch.rand(2, 5, 30), torch.rand(5, 30)
    looks, real = [], torch.equal
    monkeypatch.setattr(torch, "equal", lambda *pair: looks.append(1) or real(*pair))
    multiplier(r, q, 0.1 * (r * q).sum(dim=2), stop_early=True)
    assert 1 < len(looks) < 8
    looks.clear()
    multiplier(r, q, 0.1 * (r * q).sum(dim=2), stop_early=False)
    assert not looks


@pytest.mark.parametrize("norm", NORMS)
def test_moves_wait_for_no_device(norm):
    case = problem(dtype=torch.float32)
    assert syncs(lambda: smallest_moves(*case, norm=norm)) == 0
