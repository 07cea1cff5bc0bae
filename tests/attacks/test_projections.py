"""Projections: onto ball and box, idempotent, non-expansive; the sheets' worked numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustbench_lite.attacks.projections import (
    l2_norm,
    linf_norm,
    per_example,
    project,
    steepest_ascent,
)

norms = st.sampled_from(["Linf", "L2"])


@given(norms, st.floats(0.0, 2.0), st.integers(0, 1000))
def test_projection_stays_inside_and_is_idempotent(norm, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, 4, 3, generator=generator, dtype=torch.float64)
    far = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    point = project(far, x, norm=norm, eps=eps)
    size = linf_norm(point - x) if norm == "Linf" else l2_norm(point - x)
    assert (size <= eps + 1e-12).all()
    assert ((point >= 0) & (point <= 1)).all()
    torch.testing.assert_close(project(point, x, norm=norm, eps=eps), point, rtol=0, atol=1e-12)


@given(norms, st.integers(0, 1000))
def test_projection_brings_no_two_points_further_apart(norm, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64)
    a, b = (x + torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    after = [project(point, x, norm=norm, eps=0.3) for point in (a, b)]
    assert l2_norm(after[0] - after[1]) <= l2_norm(a - b) + 1e-12


def test_l2_projection_of_3_4_to_radius_1():
    # Rows, not columns; a point inside stays exactly (Rice et al. 2020 sheet, check 3).
    x = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    far = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64).view(2, 1, 1, 2)
    out = project(far, x, norm="L2", eps=1.0).view(2, 2)
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    assert torch.equal(out[1], expected[1])


@pytest.mark.parametrize(
    ("x", "delta", "expected"),
    # eps 8/255, step 2/255, gradient above 0 (Rice et al. 2020 sheet, check 4)
    [(0.98, 0.010, 0.017843), (0.98, 0.015, 0.020), (0.5, 0.030, 0.031373)],
)
def test_linf_step_with_each_clip(x, delta, expected):
    clean = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
    stepped = clean + delta + 2 / 255
    out = project(stepped, clean, norm="Linf", eps=8 / 255) - clean
    assert out.item() == pytest.approx(expected, abs=1e-6)


def test_steepest_ascent_is_a_unit_step_and_zero_stays_zero():
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert steepest_ascent(gradient, norm="Linf").flatten().tolist() == [1.0, -1.0, 0.0, 0.0]
    torch.testing.assert_close(
        steepest_ascent(gradient, norm="L2").flatten(), torch.tensor([0.6, -0.8, 0.0, 0.0])
    )


def test_per_example_broadcasts_over_the_batch():
    assert per_example(torch.ones(3), torch.zeros(3, 2, 4, 5)).shape == (3, 1, 1, 1)
