"""Losses on labels against worked examples and closed forms, values and gradients, in float64."""

import math

import pytest
import torch

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.catalogue import LABEL_LOSSES
from robustbench_lite.defenses.contract import weighted_mean
from robustbench_lite.defenses.label_losses import (
    BalancedSoftmax,
    CrossEntropy,
    Encouraging,
    Focal,
    LabelLoss,
    Ldam,
)

BALANCED = torch.tensor([7, 7, 7])
LONG_TAIL = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
ALL_LOSSES = [
    CrossEntropy(0.0),
    CrossEntropy(0.1),
    Encouraging(1.0),
    Encouraging(0.75),
    Focal(0.0),
    Focal(1.0),
    Focal(2.0),
    Ldam(0.5, 30.0),
    BalancedSoftmax(),
]


def values(loss, logits, y, counts=BALANCED):
    """Losses and the gradient of their sum, of logits given as rows of numbers."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    losses = loss.per_example(z, torch.tensor(y), counts)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    return losses.detach(), gradient


def with_probability(p):
    """Logits of three classes: the first has probability p, the rest is split equally."""
    return [math.log(p), math.log((1 - p) / 2), math.log((1 - p) / 2)]


def close(tensor, numbers, tolerance):
    expected = torch.tensor(numbers, dtype=torch.float64)
    torch.testing.assert_close(tensor, expected, rtol=0, atol=tolerance)


# --- cross-entropy


def test_smoothed_cross_entropy_is_that_of_mixed_labels():
    losses, gradient = values(CrossEntropy(0.3), [[2.0, 1, 0]], [0])
    p = torch.tensor([2.0, 1, 0], dtype=torch.float64).softmax(dim=0)
    target = torch.tensor([0.8, 0.1, 0.1], dtype=torch.float64)
    torch.testing.assert_close(losses[0], -(target * p.log()).sum())
    torch.testing.assert_close(gradient[0], p - target)


# --- balanced softmax


def test_balanced_softmax_is_equation_4_by_hand():
    """Logits log 2, log 1, log 4 and counts 10, 20, 5: each class has a share of 20 in 60."""
    z = [[math.log(2), 0.0, math.log(4)]]
    losses, gradient = values(BalancedSoftmax(), z, [2], torch.tensor([10, 20, 5]))
    close(losses, [math.log(3)], 1e-12)
    close(gradient[0], [1 / 3, 1 / 3, -2 / 3], 1e-12)


def test_balanced_softmax_is_the_ratio_of_the_paper_in_float64():
    torch.manual_seed(0)
    z, y = torch.rand(6, 10).double() * 8 - 4, torch.tensor([0, 9, 4, 5, 1, 9])
    losses, gradient = values(BalancedSoftmax(), z.tolist(), y.tolist(), torch.tensor(LONG_TAIL))
    n = torch.tensor(LONG_TAIL).double()
    share = n * z.exp() / (n * z.exp()).sum(dim=1, keepdim=True)
    close(losses, (-share[torch.arange(6), y].log()).tolist(), 1e-12)
    close(gradient, (share - torch.eye(10).double()[y]).tolist(), 1e-12)


def test_balanced_softmax_on_balanced_data_is_cross_entropy_and_rarity_costs():
    z, y = [[2.0, 1, 0], [0.0, 1, 2]], [0, 1]
    even, plain = values(BalancedSoftmax(), z, y), values(CrossEntropy(0.0), z, y)
    close(even[0], plain[0].tolist(), 1e-12)
    close(even[1], plain[1].tolist(), 1e-12)
    rare = values(BalancedSoftmax(), z, [2, 2], torch.tensor([100, 100, 1]))[0]
    assert (rare > values(CrossEntropy(0.0), z, [2, 2])[0]).all()


# --- encouraging loss


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CrossEntropy(0.0), 0.407606),
        (Encouraging(1.0), -0.686738),
        (Encouraging(0.75), -0.686738),
        (Encouraging(0.5), -0.616023),
    ],
)
def test_the_example_of_the_sheet(loss, expected):
    close(values(loss, [[2.0, 1, 0]], [0])[0], [expected], 1e-6)


TABLE = [  # p, CE, and per log_end: loss, dL/dz_y
    (0.25, 1.386294, {1.0: (1.098612, -1), 0.75: (1.098612, -1), 0.5: (1.098612, -1)}),
    (0.50, 0.693147, {1.0: (0.0, -1), 0.75: (0.0, -1), 0.5: (0.0, -1)}),
    (0.75, 0.287682, {1.0: (-1.098612, -1), 0.75: (-1.098612, -1), 0.5: (-0.905465, -0.625)}),
    (0.90, 0.105361, {1.0: (-2.197225, -1), 0.75: (-1.880934, -0.46), 0.5: (-1.387787, -0.28)}),
]


@pytest.mark.parametrize(("p", "ce", "by_log_end"), TABLE)
def test_encouraging_gives_the_table_of_values_and_slopes(p, ce, by_log_end):
    close(values(CrossEntropy(0.0), [with_probability(p)], [0])[0], [ce], 1e-6)
    for log_end, (expected, slope) in by_log_end.items():
        losses, gradient = values(Encouraging(log_end), [with_probability(p)], [0])
        close(losses, [expected], 1e-6)
        close(gradient[0], [slope, -slope / 2, -slope / 2], 1e-9)


def test_unbounded_encouraging_is_the_soft_margin_of_logits():
    z = [[2.0, 1, -0.5], [-1, 3, 0.2]]
    losses, gradient = values(Encouraging(1.0), z, [0, 2])
    rest = [[1, -0.5], [-1, 3]]
    expected = [math.log(sum(map(math.exp, row))) for row in rest]
    close(losses, [expected[0] - 2.0, expected[1] - 0.2], 1e-12)
    share = torch.tensor([1, -0.5], dtype=torch.float64).softmax(dim=0)
    close(gradient[0], [-1.0, *share.tolist()], 1e-12)


def test_beyond_its_end_the_slope_is_shared_by_the_others_in_proportion():
    z = [3.0, 1, -0.5]
    p = torch.tensor(z, dtype=torch.float64).softmax(dim=0)
    _, gradient = values(Encouraging(0.6), [z], [0])
    pull = (1 - p[0]) * (1 + p[0] / (1 - 0.6))
    torch.testing.assert_close(gradient[0, 0], -pull)
    torch.testing.assert_close(gradient[0, 1:], pull * p[1:] / (1 - p[0]))


@pytest.mark.parametrize("log_end", [0.3, 0.5, 0.75, 0.999, 0.99999])
def test_encouraging_is_continuous_with_its_slope_where_the_tangent_begins(log_end):
    tiny = (1 - log_end) * 1e-7
    losses, gradient = values(
        Encouraging(log_end),
        [with_probability(log_end - tiny), with_probability(log_end + tiny)],
        [0, 0],
    )
    close(losses[:1], losses[1:].tolist(), 1e-6)
    close(gradient[:, 0], [-1.0, -1.0], 1e-6)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_gradients_over_logits_sum_to_zero_also_below_the_floor(loss):
    z = [[2.0, 1, 0], [0, -3, 1], [20, 0, 0], [13, 0.5, 0.1], [-20, 3, 3]]
    _, gradient = values(loss, z, [0, 1, 0, 0, 0])
    close(gradient.sum(dim=1), [0.0] * 5, 1e-12)


def test_below_the_floor_only_the_gradient_of_cross_entropy_is_left():
    losses, gradient = values(Encouraging(1.0), [[20.0, 0, 0]], [0])
    close(losses, [4.12e-9 + math.log(1e-5)], 1e-11)
    close(losses, [-11.512925], 1e-6)
    close(gradient[0, :1], [-4.12e-9], 5e-12)
    torch.testing.assert_close(gradient, values(CrossEntropy(0.0), [[20.0, 0, 0]], [0])[1])


def test_cross_entropy_of_large_logits_has_no_gradient_in_float32():
    """Why networks trained with the encouraging loss are not to be judged by PGD on CE."""
    z = torch.tensor([[104.0, 0, 0], [103, 0, 0]], requires_grad=True)
    losses = CrossEntropy(0.0).per_example(z, torch.tensor([0, 0]), BALANCED)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    assert gradient[0].tolist() == [0.0, 0.0, 0.0]
    assert gradient[1].tolist() == [0.0, 2.0**-149, 2.0**-149]


# --- focal loss


def test_focal_puts_the_weight_outside():
    losses, _ = values(Focal(1.0), [[0.0, 0.0]], [0])
    assert weighted_mean(torch.tensor([2.0]), losses).item() == pytest.approx(0.693147, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_is_its_formula(gamma):
    losses, _ = values(Focal(gamma), [with_probability(p) for p in (0.1, 0.5, 0.99)], [0, 0, 0])
    close(losses, [(1 - p) ** gamma * -math.log(p) for p in (0.1, 0.5, 0.99)], 1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_finite_gradient_where_the_probability_rounds_to_one(gamma):
    z = torch.tensor([[200.0, 0, 0]], requires_grad=True)
    Focal(gamma).per_example(z, torch.tensor([0]), BALANCED).sum().backward()
    assert z.grad.tolist() == [[0.0, 0.0, 0.0]]


# --- LDAM


@pytest.mark.parametrize(
    ("scale", "expected"), [(30.0, [0.000705, 9.000123]), (1.0, [0.579500, 0.854355])]
)
def test_ldam_gives_the_worked_example(scale, expected):
    counts = torch.tensor([5000, 50])
    losses, _ = values(Ldam(0.5, scale), [[0.6, 0.2], [0.3, 0.5]], [0, 1], counts)
    close(losses, expected, 1e-6)


def test_ldam_margins_grow_as_the_fourth_root_of_rarity():
    losses, _ = values(Ldam(0.5, 1.0), [[0.0] * 10] * 10, list(range(10)), torch.tensor(LONG_TAIL))
    margins = ((losses.exp() - 1) / 9).log()  # exp(loss) = 1 + 9 exp(m) at equal logits
    expected = [0.158114, 0.179697, 0.204238, 0.232091, 0.263829]
    expected += [0.299768, 0.340675, 0.387221, 0.440497, 0.5]
    close(margins, expected, 1e-6)


def test_ldam_subtracts_the_label_s_margin_alone_and_then_scales():
    z = [[0.1, 0.2, 0.3]]
    losses, _ = values(Ldam(0.4, 5.0), z, [1], torch.tensor([16, 1, 81]))
    scaled = [5 * 0.1, 5 * (0.2 - 0.4), 5 * 0.3]
    expected = math.log(sum(map(math.exp, scaled))) - scaled[1]
    close(losses, [expected], 1e-12)


# --- all of them


@pytest.mark.parametrize("loss", [*ALL_LOSSES, Focal(0.5)])
def test_gradients_are_those_of_the_whole_loss(loss):
    """Nothing is detached: the slopes agree with finite differences."""
    z = torch.tensor([[2.0, 1, 0], [0, -1, 1], [0.9, 0.2, 1.1], [4, 0, 1]], dtype=torch.float64)
    y, counts = torch.tensor([0, 1, 2, 0]), torch.tensor([40, 10, 5])
    assert torch.autograd.gradcheck(
        lambda logits: loss.per_example(logits, y, counts), z.requires_grad_()
    )


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_half_precision_logits_are_judged_in_float32(loss):
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).mul(6).bfloat16()
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    losses = loss.per_example(z, y, BALANCED)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, loss.per_example(z.float(), y, BALANCED))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CrossEntropy(1.0), "smoothing=1.0"),
        (lambda: CrossEntropy(-0.1), "smoothing=-0.1"),
        (lambda: Encouraging(0.0), "log_end=0.0"),
        (lambda: Encouraging(1.1), "log_end=1.1"),
        # its tangent would begin below the floor, where the bonus is constant
        (lambda: Encouraging(0.999999), "log_end=0.999999"),
        (lambda: Focal(-1.0), "gamma=-1.0"),
        (lambda: Focal(math.nan), "gamma=nan"),
        (lambda: Ldam(-0.5, 30.0), "max_margin=-0.5"),
        (lambda: Ldam(math.inf, 30.0), "max_margin=inf"),
        (lambda: Ldam(0.5, 0.0), "scale=0.0"),
        (lambda: Ldam(0.5, math.inf), "scale=inf"),
    ],
)
def test_constants_out_of_range_are_named(make, words):
    with pytest.raises(InputError, match=f"label_loss.{words} must be"):
        make()


def test_every_label_loss_is_registered():
    names = ["balanced_softmax", "cross_entropy", "encouraging", "focal", "ldam"]
    assert list(LABEL_LOSSES) == names
    loaded = [LABEL_LOSSES.load(name) for name in LABEL_LOSSES]
    assert loaded == [BalancedSoftmax, CrossEntropy, Encouraging, Focal, Ldam]
    assert all(issubclass(kind, LabelLoss) for kind in loaded)
