"""Counter-based random numbers: the published vectors, and what makes them counter-based."""

import pytest
import torch
from scipy import stats

from robustbench_lite.core.random_numbers import fold_seed, normal, philox, random_words, uniform

# Random123's kat_vectors, philox4x32 with 10 rounds (Salmon et al. 2011).
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_vectors(counter, key, expected):
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == expected


def draw(ids, **changes):
    place = {"seed": 3, "stream": "pgd", "restart": 0, "step": 0} | changes
    return uniform(torch.Size((len(ids), 2, 3)), ids=torch.tensor(ids), **place)


def test_draws_do_not_depend_on_batch_or_order():
    together = draw([5, 9, 2, 77])
    assert torch.equal(together[[2, 0]], draw([2, 5]))
    assert torch.equal(together[3:], draw([77]))


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"stream": "pgd2"}, {"restart": 1}, {"step": 1}, {"seed": 3 + 2**32}]
)
def test_draws_depend_on_every_part_of_the_place(change):
    assert not torch.equal(draw([5, 9]), draw([5, 9], **change))


def test_uniform_numbers_are_uniform_and_independent_across_ids():
    numbers = uniform(
        torch.Size((400, 50)), ids=torch.arange(400), seed=0, stream="s", restart=0, step=0
    )
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3
    neighbours = torch.corrcoef(torch.stack([numbers[:-1].flatten(), numbers[1:].flatten()]))
    assert abs(neighbours[0, 1]) < 4 / (399 * 50) ** 0.5


def test_normal_numbers_are_normal_also_for_odd_counts():
    numbers = normal(
        torch.Size((500, 33)), ids=torch.arange(500), seed=1, stream="s", restart=0, step=0
    )
    assert stats.kstest(numbers.flatten().numpy(), "norm").pvalue > 1e-3


def test_words_refuse_a_place_out_of_range():
    with pytest.raises(ValueError, match="out of the counter's range"):
        random_words(1, ids=torch.tensor([0]), seed=0, stream="s", restart=4096, step=0)


def test_fold_seed_separates_paths():
    seeds = {fold_seed(0, "epoch", n) for n in range(100)} | {fold_seed(1, "epoch", 0)}
    assert len(seeds) == 101
