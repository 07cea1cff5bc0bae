"""Learning-rate traces."""

import pytest

from robustbench_lite.core.errors import InputError
from robustbench_lite.training.recipe import load_recipe
from robustbench_lite.training.schedules import Cosine, OneCycle, PerEpoch, Step


@pytest.mark.parametrize(
    ("t", "lr"), [(0.01, 0.1), (99.999, 0.1), (100, 0.01), (149.99, 0.01), (150, 0.001)]
)
def test_step_gives_the_trace_of_rice_et_al(t, lr):
    assert 0.1 * Step((100, 150), 0.1).factor(t, 200) == pytest.approx(lr)


def test_cosine_goes_from_one_to_zero_through_a_half():
    assert [Cosine(0.0).factor(t, 8) for t in (0, 4, 8)] == pytest.approx([1.0, 0.5, 0.0])


def test_one_cycle_is_linear_up_and_down():
    cycle = OneCycle(0.25)
    assert [cycle.factor(t, 8) for t in (0, 1, 2, 5, 8)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_wrong_schedules_are_named():
    with pytest.raises(InputError, match=r"milestones=\[5, 3\] must rise"):
        Step((5, 3), 0.1)
    with pytest.raises(InputError, match=r"peak=1.0"):
        OneCycle(1.0)
    with pytest.raises(InputError, match=r"begin=\[2\], factors=\[1.0\]: begin starts with 1"):
        PerEpoch((2,), (1.0,))
    with pytest.raises(InputError, match="one factor for each"):
        PerEpoch((1, 5), (1.0,))
    with pytest.raises(InputError, match=r"final=2.0"):
        Cosine(2.0)


def rates(name, epochs):
    """Rate of the first and the last of 390 batches of each epoch (from 1), by a recipe."""
    recipe = load_recipe(name)
    base, total = recipe.optimizer.lr, recipe.training.epochs
    both = [
        [base * recipe.schedule.factor(epoch - 1 + i / 390, total) for i in (1, 390)]
        for epoch in epochs
    ]
    assert all(first == last for first, last in both), "constant within an epoch"
    return dict(zip(epochs, (first for first, _ in both), strict=True))


@pytest.mark.parametrize(
    ("name", "trace"),
    [
        (
            "cifar100_lbgat_trades",
            {1: 0.02, 2: 0.1, 75: 0.1, 76: 0.01, 90: 0.01, 91: 0.001, 100: 0.001},
        ),
        ("cifar10_trades", {1: 0.1, 74: 0.1, 75: 0.01, 76: 0.01}),
        ("cifar10_irat", {59: 0.1, 60: 0.01, 89: 0.01, 90: 0.001, 109: 0.001, 110: 0.0005}),
        ("cifar10_mart", {74: 0.01, 75: 0.001, 90: 0.0001, 100: 0.00001, 120: 0.00001}),
        ("cifar10_srat", {1: 0.02, 5: 0.1, 160: 0.1, 161: 0.001, 180: 0.001, 181: 0.00001}),
        ("cifar10_random_mask", {150: 0.1, 151: 0.01, 250: 0.01, 251: 0.001}),
        ("mnist_trades_zhang", {54: 0.01, 55: 0.001, 75: 0.0001, 90: 0.00001}),
    ],
)
def test_published_schedules_give_their_authors_traces(name, trace):
    assert rates(name, list(trace)) == pytest.approx(trace)


def test_aloes_cosine_runs_over_single_steps():
    recipe = load_recipe("cifar10_aloe")
    steps, per_epoch = 78_200, 782
    for step, lr in {0: 0.1, 39_100: 0.0500005, 78_200: 1e-6}.items():
        factor = recipe.schedule.factor(step / per_epoch, recipe.training.epochs)
        assert recipe.optimizer.lr * factor == pytest.approx(lr, rel=1e-9)
    assert steps == per_epoch * recipe.training.epochs
