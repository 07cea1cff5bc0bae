"""Statistical quality of the counter-based numbers, and proof that each test can fail.

Neighbours along every axis of the counter (examples, steps, runs, streams, seeds, words of a row)
must look independent: an attack's draws are neighbours on all of them.
"""

import math

import pytest
import torch
from scipy import stats

from robustbench_lite.core import random_numbers
from robustbench_lite.core.random_numbers import normal, philox, random_words, uniform

N = 256  # places along an axis, and words at each
LEAST = 1e-4  # smallest p-value of a good generator; all draws here are fixed
PLACE = {"seed": 7, "stream": "square", "restart": 0, "step": 0}


# ---- words at neighbouring places: (N, N), neighbours in the first dimension ----


def along_ids(words, first=0):
    return words(N, ids=torch.arange(first, first + N), **PLACE)


def along_large_ids(words):
    return along_ids(words, first=2**32 - N)


def along_steps(words):
    steps = torch.arange(N).expand(N, N)
    return words(1, ids=torch.arange(N), **PLACE | {"step": steps})[..., 0].T


def along_restarts(words):
    return words(N, ids=torch.full((N,), 3), **PLACE | {"restart": torch.arange(N)})


def along_seeds(words):
    return torch.cat([words(N, ids=torch.tensor([3]), **PLACE | {"seed": n}) for n in range(N)])


def along_high_seeds(words):
    return torch.cat(
        [words(N, ids=torch.tensor([3]), **PLACE | {"seed": n << 32}) for n in range(N)]
    )


def along_streams(words):
    return torch.cat(
        [words(N, ids=torch.tensor([3]), **PLACE | {"stream": f"stage{n}"}) for n in range(N)]
    )


def along_words(words):
    return words(N, ids=torch.arange(N), **PLACE).T


def swapped(words):
    """Run r of step s beside run s of step r: places that a careless counter adds up."""
    r, s = torch.arange(1, N // 2 + 1), torch.arange(N // 2 + 1, N + 1)
    ids = torch.full((N // 2,), 3)
    one = words(N, ids=ids, **PLACE | {"restart": r, "step": s})
    other = words(N, ids=ids, **PLACE | {"restart": s, "step": r})
    return torch.stack([one, other], dim=1).flatten(0, 1)


AXES = [
    along_ids,
    along_large_ids,
    along_steps,
    along_restarts,
    along_seeds,
    along_high_seeds,
    along_streams,
    along_words,
    swapped,
]


# ---- tests of a table of words: a p-value, small also when the fit is too good ----


def two_sided(p):
    return 2 * min(p, 1 - p)


def bits(table):
    """Each of the 32 bits is 1 half of the time."""
    n = table.numel()
    ones = torch.stack([(table >> bit & 1).sum() for bit in range(32)]).double()
    return two_sided(stats.chi2.sf(((ones - n / 2) ** 2 / (n / 4)).sum().item(), 32))


def counts_fit(places, n_bins):
    counts = torch.bincount(places.flatten(), minlength=n_bins)
    return two_sided(stats.chisquare(counts.numpy()).pvalue)


def low_byte(table):
    return counts_fit(table & 255, 256)


def high_byte(table):
    return counts_fit(table >> 24, 256)


def pairs_of_high_bits(table):
    """The four highest bits of neighbours fall evenly into 256 cells."""
    return counts_fit((table[:-1] >> 28) * 16 + (table[1:] >> 28), 256)


def pairs_of_low_bits(table):
    return counts_fit((table[:-1] & 15) * 16 + (table[1:] & 15), 256)


def correlation(table):
    """Neighbours as numbers in [0, 1) are uncorrelated."""
    pair = torch.stack([table[:-1].flatten(), table[1:].flatten()]).double()
    z = torch.corrcoef(pair)[0, 1].item() * math.sqrt(pair.shape[1])
    return 2 * stats.norm.sf(abs(z))


def differing_bits(table):
    """Neighbours differ in a binomial number of their 32 bits (avalanche)."""
    different = table[:-1] ^ table[1:]
    ones = sum(different >> bit & 1 for bit in range(32))
    counts = torch.bincount(ones.flatten(), minlength=33).double()
    expected = torch.tensor(stats.binom.pmf(range(33), 32, 0.5)) * different.numel()
    inner = slice(7, 26)  # the rest together: cells of fewer than five do not follow chi-square
    folded = [torch.cat([c[inner], (c.sum() - c[inner].sum())[None]]) for c in (counts, expected)]
    return two_sided(stats.chisquare(folded[0].numpy(), folded[1].numpy()).pvalue)


def repeated_words(table):
    """Equal words are as rare as birthdays of 2**32 days say."""
    repeats = table.numel() - table.unique().numel()
    expected = table.numel() ** 2 / 2**33
    return stats.poisson.sf(repeats - 1, expected)


TESTS = [
    bits,
    low_byte,
    high_byte,
    pairs_of_high_bits,
    pairs_of_low_bits,
    correlation,
    differing_bits,
    repeated_words,
]


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.__name__)
def test_words_look_independent_between_neighbours(axis):
    table = axis(random_words)
    assert table.shape == (N, N)
    for test in TESTS:
        assert test(table) > LEAST, test.__name__


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.__name__)
def test_bits_of_a_word_are_independent_of_each_other(axis):
    table = axis(random_words).flatten()
    ones = torch.stack([table >> bit & 1 for bit in range(32)]).double()
    pairs = torch.corrcoef(ones)[*torch.triu_indices(32, 32, offset=1)]
    z = pairs.abs().max().item() * math.sqrt(table.numel())
    assert len(pairs) * 2 * stats.norm.sf(z) > LEAST


# ---- generators with a fault: each is caught, and each test catches one ----


def ignoring(name, axis):
    def words(n, **place):
        fixed = torch.zeros_like(place["ids"]) if name == "ids" else PLACE[name]
        if name == "step" and isinstance(place["step"], torch.Tensor):
            fixed = torch.zeros_like(place["step"])
        return random_words(n, **place | {name: fixed})

    return pytest.param(axis, words, id=f"ignores {name}")


def adding(n, **place):
    """A counter that adds run and step up."""
    return random_words(n, **place | {"restart": 0, "step": place["restart"] + place["step"]})


def blind_to_the_high_seed(n, **place):
    return random_words(n, **place | {"seed": place["seed"] % 2**32})


def repeating_blocks(n, **place):
    """The four words of a block, again and again."""
    return random_words(4, **place)[..., torch.arange(n) % 4]


@pytest.mark.parametrize(
    ("axis", "generator"),
    [
        ignoring("ids", along_ids),
        ignoring("step", along_steps),
        ignoring("restart", along_restarts),
        ignoring("seed", along_seeds),
        ignoring("stream", along_streams),
        pytest.param(swapped, adding, id="adds run and step"),
        pytest.param(along_high_seeds, blind_to_the_high_seed, id="ignores the high seed"),
        pytest.param(along_words, repeating_blocks, id="repeats blocks"),
    ],
)
def test_a_counter_that_loses_a_part_of_the_place_is_caught(axis, generator):
    table = axis(generator)
    caught = [test.__name__ for test in TESTS if test(table) < LEAST]
    assert "repeated_words" in caught
    if axis is not swapped and axis is not along_words:
        assert {"correlation", "differing_bits", "pairs_of_high_bits"} <= set(caught)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_philox_with_too_few_rounds_is_caught(monkeypatch, rounds):
    def weak(counter, key):  # too few rounds do not mix all parts, so broadcast them before
        return philox(torch.broadcast_tensors(*counter), key)

    monkeypatch.setattr(random_numbers, "_ROUNDS", rounds)
    monkeypatch.setattr(random_numbers, "philox", weak)
    caught = set()
    for axis in (along_ids, along_steps, along_words, along_seeds):
        table = axis(random_words)
        caught |= {(axis.__name__, test.__name__) for test in TESTS if test(table) < LEAST}
    assert caught


def changed(change):
    def words(n, **place):
        return change(random_words(n, **place))

    return words


FAULTS = {
    bits: changed(lambda w: w | (w >> 3 & w >> 5 & 1)),  # the lowest bit is 1 too often
    low_byte: changed(lambda w: w - (w & 255 == 77).long()),
    high_byte: changed(lambda w: w ^ ((w >> 24 == 200).long() << 24)),
    pairs_of_high_bits: changed(lambda w: w.cumsum(0) % 2**32 // 2**28 * 2**27 + w % 2**28),
    pairs_of_low_bits: changed(lambda w: w - w % 16 + torch.arange(len(w))[:, None] % 16),
    correlation: changed(lambda w: w // 2 + torch.cat([w[1:], w[:1]]) // 2),
    differing_bits: changed(
        lambda w: torch.where(
            torch.arange(len(w))[:, None] % 2 == 0,
            w,
            w & ~0x11 | torch.cat([w[-1:], w[:-1]]) & 0x11,
        )
    ),
    repeated_words: changed(lambda w: w >> 4 << 4),
}


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
def test_every_test_catches_its_fault(test):
    assert test(along_ids(FAULTS[test])) < LEAST


# ---- numbers made of the words ----


def numbers(draw, **changes):
    return draw(torch.Size((N, 8, 33)), ids=torch.arange(N), **PLACE | changes).double()


# Moments of orders 1 to 8 about the mean, in standard deviations.
MOMENTS = {"uniform": (0, 1, 0, 9 / 5, 0, 27 / 7, 0, 9), "normal": (0, 1, 0, 3, 0, 15, 0, 105)}


def check_distribution(draw, name, law, **changes):
    drawn = numbers(draw, **changes).flatten()
    assert two_sided(stats.kstest(drawn.numpy(), law.cdf).pvalue) > LEAST
    standard, exact = (drawn - law.mean()) / law.std(), MOMENTS[name]
    for power in (1, 2, 3, 4):
        spread = math.sqrt((exact[2 * power - 1] - exact[power - 1] ** 2) / drawn.numel())
        z = ((standard**power).mean().item() - exact[power - 1]) / spread
        assert 2 * stats.norm.sf(abs(z)) > LEAST, f"moment {power}"


@pytest.mark.parametrize("changes", [{}, {"step": 5}, {"restart": 9}, {"seed": 2**63}])
def test_uniform_and_normal_numbers_have_their_distribution(changes):
    check_distribution(uniform, "uniform", stats.uniform, **changes)
    check_distribution(normal, "normal", stats.norm, **changes)


def check_pairs(draw):
    drawn = numbers(draw).flatten(1)  # (N, 264): the first half are cosines, then the sines
    cosines, sines = drawn[:, :132].flatten(), drawn[:, 132:].flatten()
    for power in (1, 2):  # squares too: what a shared radius leaves shows there
        r = torch.corrcoef(torch.stack([cosines**power, sines**power]))[0, 1].item()
        assert 2 * stats.norm.sf(abs(r) * math.sqrt(len(cosines))) > LEAST


def test_normal_numbers_of_one_pair_of_words_are_independent():
    check_pairs(normal)


@pytest.mark.parametrize("sign", [1, -1])
def test_normal_numbers_that_share_their_size_are_caught(sign):
    def faulty(*args, **place):
        drawn = normal(*args, **place).flatten(1)
        signs = drawn[:, 132:].sign()  # right signs, and the sizes of the other half
        return torch.cat([drawn[:, :132], drawn[:, :132].abs() * signs * sign], dim=1)

    with pytest.raises(AssertionError):
        check_pairs(faulty)


def check_tails(draw):
    drawn = numbers(draw).abs()
    for bound in (2.0, 3.0, 4.0):
        found, expected = (drawn > bound).sum().item(), 2 * stats.norm.sf(bound)
        assert two_sided(stats.binom.cdf(found, drawn.numel(), expected)) > LEAST


def test_normal_numbers_reach_as_far_as_they_should():
    check_tails(normal)


FAULTS_OF_NORMAL = {
    "wide": lambda z: z * 1.02,
    "shifted": lambda z: z + 0.02,
    "heavy tails": lambda z: z.sign() * z.abs() ** 1.03,
    "cut tails": lambda z: z.clamp(-2.5, 2.5),
}


@pytest.mark.parametrize("fault", FAULTS_OF_NORMAL)
def test_normal_numbers_with_a_fault_are_caught(fault):
    def faulty(*args, **place):
        return FAULTS_OF_NORMAL[fault](normal(*args, **place))

    if fault == "cut tails":
        with pytest.raises(AssertionError):
            check_tails(faulty)
    with pytest.raises(AssertionError):
        check_distribution(faulty, "normal", stats.norm)
