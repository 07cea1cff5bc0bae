"""The imbalanced-data builder: counts, draws and shortages."""

import numpy as np
import pytest
import torch

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.imbalance import (
    IMBALANCES,
    Balanced,
    ExponentialImbalance,
    StepImbalance,
)

EXP = {
    10: ([5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500], 20431),
    50: ([5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100], 13996),
    100: ([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], 12406),
}
STEP = {
    10: ([5000] * 5 + [500] * 5, 27500),
    50: ([5000] * 5 + [100] * 5, 25500),
    100: ([5000] * 5 + [50] * 5, 25250),
}
SVHN = [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]


def labels_of(counts, seed=0):
    """Labels with these counts in a random order."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def draws_of_the_public_code(labels, counts, seed):
    """NumPy's global generator, seeded once; shuffle each class's rows, keep the first n_c."""
    before = np.random.get_state()
    np.random.seed(seed)
    kept = []
    for label, count in enumerate(counts):
        rows = np.where(np.array(labels) == label)[0]
        np.random.shuffle(rows)
        kept += rows[:count].tolist()
    np.random.set_state(before)
    return kept


@pytest.mark.parametrize(
    ("kind", "table"), [(ExponentialImbalance, EXP), (StepImbalance, STEP)], ids=["exp", "step"]
)
@pytest.mark.parametrize("ratio", [10, 50, 100])
def test_counts_of_cifar10_are_those_of_the_sheet(kind, table, ratio):
    counts, total = table[ratio]
    labels = labels_of([5000] * 10)
    rows = kind(ratio, 5000, 0).choose(labels, 10)
    assert rows.dtype == torch.int64
    assert torch.bincount(labels[rows]).tolist() == counts
    assert len(rows) == total == len(rows.unique())
    assert (labels[rows].diff() >= 0).all()


def test_counts_of_a_thousand_images():
    exp, step = ExponentialImbalance(100, 1000, 0), StepImbalance(100, 1000, 0)
    assert exp.counts(10) == [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]
    assert sum(exp.counts(10)) == 2478
    assert sum(step.counts(10)) == 5050


def test_ratio_one_is_as_large_everywhere_and_an_odd_class_is_frequent():
    assert ExponentialImbalance(1.0, 7, 0).counts(5) == [7] * 5
    assert StepImbalance(2.0, 9, 0).counts(5) == [9, 9, 9, 4, 4]


@pytest.mark.parametrize("kind", [ExponentialImbalance, StepImbalance])
@pytest.mark.parametrize("seed", [0, 1])
def test_images_are_those_that_the_public_code_draws(kind, seed):
    labels = labels_of([60] * 10, seed=5)
    imbalance = kind(12.0, 60, seed)
    expected = draws_of_the_public_code(labels.tolist(), imbalance.counts(10), seed)
    assert imbalance.choose(labels, 10).tolist() == expected


def test_the_choice_follows_its_seed_and_leaves_the_global_generator_alone():
    labels = labels_of([60] * 10)
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    first, again, other = (StepImbalance(4, 50, seed).choose(labels, 10) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.random.get_state()[1].tolist() == before
    assert torch.equal(labels, labels_of([60] * 10))


@pytest.mark.parametrize("kind", [ExponentialImbalance, StepImbalance])
def test_svhn_s_first_class_cannot_supply_a_tenth_of_the_data_set(kind):
    labels = labels_of(SVHN)
    assert len(labels) == 73257
    with pytest.raises(InputError, match="class 0 has 4948 training images, 7325 are wanted"):
        kind(10, len(labels) // 10, 0).choose(labels, 10)
    rows = kind(100, 1000, 0).choose(labels, 10)
    assert torch.bincount(labels[rows]).tolist() == kind(100, 1000, 0).counts(10)


def test_a_later_class_that_comes_up_short_is_named():
    labels = labels_of([50, 50, 3, 50])
    with pytest.raises(InputError, match="class 2 has 3 training images, 5 are wanted"):
        StepImbalance(10, 50, 0).choose(labels, 4)
    assert len(StepImbalance(20, 50, 0).choose(labels, 4)) == 104


def test_a_class_that_would_be_left_empty_is_refused():
    labels = labels_of([50] * 4)
    with pytest.raises(InputError, match="class 3 has 50 training images, 0 are wanted"):
        ExponentialImbalance(100, 50, 0).choose(labels, 4)


def test_balanced_keeps_everything_in_its_order():
    labels = labels_of([5, 2, 9])
    assert Balanced().choose(labels, 3).tolist() == list(range(16))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.5, 100, 0), "ratio=0.5"),
        ((float("nan"), 100, 0), "ratio=nan"),
        ((float("inf"), 100, 0), "ratio=inf"),
        ((10.0, 0, 0), "largest=0"),
        ((10.0, 100, -1), "seed=-1"),
        ((10.0, 100, 2**32), "seed=4294967296"),
    ],
)
@pytest.mark.parametrize("kind", [ExponentialImbalance, StepImbalance])
def test_values_out_of_range_are_named(kind, arguments, words):
    with pytest.raises(InputError, match=f"imbalance.{words} "):
        kind(*arguments)


def test_imbalances_are_registered():
    loaded = {name: IMBALANCES.load(name) for name in IMBALANCES}
    assert loaded == {"none": Balanced, "exp": ExponentialImbalance, "step": StepImbalance}
