"""Square Attack: the authors' own queries, ball and box, and independence of batch and order."""

import itertools
import math

import pyautoattack.square as authors
import pytest
import torch
from conftest import as_function
from device_waits import syncs
from scipy import stats
from torch import nn

from robustbench_lite.attacks.autoattack import active_set
from robustbench_lite.attacks.autoattack import square as square_module
from robustbench_lite.attacks.autoattack import square_queries as square_moves
from robustbench_lite.attacks.autoattack.square import Square, SquareSearch
from robustbench_lite.attacks.autoattack.square_windows import pattern, place_windows, window_sizes
from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.attacks.losses import margin
from robustbench_lite.attacks.projections import l1_projection
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import random_words

NORMS = ("Linf", "L2", "L1")
BASE = {
    "norm": "Linf",
    "eps": 0.1,
    "queries": 20,
    "restarts": 1,
    "p_init": 0.8,
    "seed": 0,
    "batch_size": 50,
}


def run(model, x, y, **changes):
    arguments = BASE | {"ids": torch.arange(len(x))} | changes
    return as_function(Square, "square")(model, x, y, **arguments)


def broken(model, x_adv, y):
    with torch.no_grad():
        return model(x_adv).argmax(1) != y


def images(n, shape, seed=0, dtype=torch.float32):
    """Images with a few pixels exactly 0 and 1."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    x[:, :, 0, 0], x[:, :, 1, 1] = 0.0, 1.0
    return x


def classifier(shape, classes=4, seed=3):
    """A little network without a rare class: images are near a boundary."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 30), nn.Tanh(), nn.Linear(30, classes)
    ).eval()
    with torch.no_grad():
        model[3].bias -= model(images(200, shape, seed=9)).mean(dim=0)
    return model


class Recorder(nn.Module):
    """Keeps what a network is asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.model(x)


class Constant(nn.Module):
    """Always the first class of three."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0, 0.5]).repeat(len(x), 1) + 0.0 * x.sum()


class Whole(nn.Module):
    """Logits are whole numbers below 2**53, in float64: no order of summation changes a bit.

    Args:
        shape: of an image.
        twist: 0, or a little change of the weights: another network, right elsewhere.
    """

    def __init__(self, shape, classes=3, twist=0):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        draw = torch.randint(-90, 91, (2, math.prod(shape), classes), generator=generator)
        draw += twist * torch.randint(-9, 10, draw.shape, generator=generator)
        self.linear, self.squared = draw.double()
        self.centre = torch.zeros(classes).double()
        self.centre = self(images(200, shape, seed=9)).mean(dim=0).round()  # no class is rare

    def forward(self, x):
        levels = (x.flatten(1).double() * 255).round()
        return 300.0 * levels @ self.linear + levels.square() @ self.squared - self.centre


# ---- the authors' attack, fed with our draws ----


def our_draws(norm, shape, queries, ident, seed):
    """What the authors' `torch.rand` must return, call by call, for their draws to be ours."""
    channels, height, width = shape
    place = {"ids": torch.tensor([ident]), "seed": seed, "stream": "square", "restart": 0}

    def words(n, step):
        return random_words(n, step=step, **place)[0].tolist()

    def signs(drawn, n):
        return [0.75 if word >> bit & 1 else 0.25 for word in drawn for bit in range(32)][:n]

    def fractions(drawn):
        return [([1], [word / 2**32]) for word in drawn]

    if norm == "Linf":
        n = channels * width
        yield [1, channels, 1, width], signs(words(-(-n // 32), 0), n)
        for step in range(1, queries + 1):
            drawn = words(3, step)
            yield from fractions(drawn[:2])
            yield [channels, 1, 1], signs(drawn[2:], channels)
        return
    tiles = (height // (height // 5)) * (width // (height // 5))
    drawn = signs(words(-(-tiles * (1 + channels) // 32), 0), tiles * (1 + channels))
    for tile in range(tiles):
        coin, *mine = drawn[tile * (1 + channels) : (tile + 1) * (1 + channels)]
        yield [1], [coin]
        yield [1, channels, 1, 1], mine
    for step in range(1, queries + 1):
        drawn = words(5, step)
        yield from fractions(drawn[:4])
        coin, *mine = signs(drawn[4:], 1 + channels)
        yield [1], [coin]
        yield [1, channels, 1, 1], mine


def authors_queries(monkeypatch, model, x, y, *, norm, eps, queries, seed, ident):
    """All queries of the authors' code in float64, each draw replaced by ours.

    The example goes in twice: alone, its best loss would be rounded to float32 on the way.
    """
    draws = our_draws(norm, x.shape[1:], queries, ident, seed)
    x, y = x.expand(2, -1, -1, -1).clone(), y.expand(2)

    def rand(shape):
        expected, values = next(draws)
        per_row = len(expected) == 4
        assert list(shape) == [2, *expected[1:]] if per_row else expected
        drawn = torch.tensor(values).view(expected)
        return torch.cat([drawn, drawn]) if per_row else drawn

    def projection(x, delta, eps):
        # Theirs adds a correction to the perturbation, which leaves rounding noise where a pixel
        # returns to x, and later divides by the noise's norm. Ours is put in its place.
        delta.copy_(l1_projection(x, delta, eps))
        return torch.zeros_like(delta)

    recorder = Recorder(model)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "rand", rand)
        patch.setattr(authors, "L1_projection", projection)
        patch.setattr(torch.random, "manual_seed", lambda seed: None)
        torch.set_default_dtype(torch.float64)
        try:
            attack = authors.SquareAttack(
                recorder,
                norm=norm,
                eps=eps * (1 - 1e-6) if norm == "L2" else eps,  # as our L2 keeps inside
                n_queries=queries,
                p_init=0.8,
                seed=0,
                resc_schedule=False,
            )
            attack.perturb(x, y)
        finally:
            torch.set_default_dtype(torch.float32)
    # Without the clean prediction, and that of the outcome.
    return [query[:1] for query in recorder.seen[1:-1]]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 14), (2, 10, 7)])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 1.0), ("L1", 8.0)])
def test_queries_are_those_of_the_authors_code_given_the_same_draws(monkeypatch, norm, eps, shape):
    model = classifier(shape).double()
    n = (300 if norm == "Linf" else 150) if shape == (1, 28, 28) else 90
    x = images(1, shape, dtype=torch.float64)
    y = model(x).argmax(1)
    with torch.no_grad():
        model[3].bias[y] += 10.0  # the margin moves, and never below 0
    place = {"norm": norm, "eps": eps, "queries": n, "seed": 3}
    theirs = authors_queries(monkeypatch, model, x, y, ident=11, **place)
    ours = Recorder(model)
    run(model, x, y, ids=torch.tensor([11]), network=ours, **place)
    assert len(ours.seen) == len(theirs) == 1 + n
    best = margin(model(torch.cat(theirs)), y.expand(1 + n)).cummax(0).values
    assert best.unique().numel() >= 3  # the search got somewhere
    for step, (mine, other) in enumerate(zip(ours.seen, theirs, strict=True)):
        assert (mine - other).abs().max() < 1e-6, f"query {step}"


@pytest.mark.parametrize("norm", NORMS)
def test_success_comes_at_the_query_of_the_authors_code(monkeypatch, norm):
    model = classifier((3, 8, 8)).double()
    x = images(1, (3, 8, 8), dtype=torch.float64)
    y = model(x).argmax(1)
    with torch.no_grad():  # a margin of -0.1
        model[3].bias[y] -= 0.1 + margin(model(x), y)
    place = {"norm": norm, "eps": {"Linf": 0.02, "L2": 0.5, "L1": 2.0}[norm], "seed": 0}
    theirs = authors_queries(monkeypatch, model, x, y, ident=2, queries=250, **place)
    x_adv = run(model, x, y, ids=torch.tensor([2]), queries=250, **place)
    assert 3 < len(theirs) < 250
    assert broken(model, x_adv, y).item()
    assert (x_adv - theirs[-1]).abs().max() < 1e-6
    # One query fewer is too few: the success is the last query's.
    fewer = run(model, x, y, ids=torch.tensor([2]), queries=len(theirs) - 2, **place)
    assert torch.equal(fewer, x)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 64, 64), (3, 9, 14)])
@pytest.mark.parametrize("p_init", [0.8, 0.3])
def test_windows_shrink_as_in_the_authors_code(shape, p_init):
    reference = authors.SquareAttack(None, p_init=p_init, resc_schedule=False)
    channels, height, width = shape
    for norm in NORMS:
        expected = [0]
        for iteration in range(5000):
            p = reference.p_selection(iteration)
            side = round(math.sqrt(p * math.prod(shape) / channels))
            if norm == "Linf":
                side = max(side, 1)
            else:
                side = max(side, 3)
                side += side % 2 == 0
            expected.append(min(side, height, width))
        sizes = window_sizes(norm, torch.Size(shape), queries=5000, p_init=p_init)
        assert sizes == expected


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 13, 25])
def test_pattern_is_the_authors_eta(monkeypatch, norm, size):
    monkeypatch.setattr(torch, "rand", lambda shape: torch.zeros(shape))  # never transposed
    reference = authors.SquareAttack(None, norm=norm, device=torch.device("cpu"))
    torch.testing.assert_close(pattern(size, norm).float(), reference.eta(size), rtol=0, atol=1e-6)


def test_window_positions_are_uniform_and_never_the_last():
    shape, side = torch.Size((1, 12, 9)), 5
    words = random_words(
        2, ids=torch.arange(6000), seed=0, stream="square", restart=0, step=torch.ones(6000, 1)
    ).transpose(0, 1)
    sizes = torch.full((1, 6000), side)
    windows = place_windows(words, sizes, shape, side=side)
    for first, free in ((windows.rows[0, :, 0], 12 - 5), (windows.columns[0, :, 0], 9 - 5)):
        counts = torch.bincount(first, minlength=free)
        assert len(counts) == free  # 0 .. h - s - 1: the authors' code never draws h - s
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_a_window_that_fills_the_image_begins_at_0():
    words = torch.full((1, 1, 2), 2**32 - 1)
    windows = place_windows(words, torch.tensor([[5]]), torch.Size((1, 5, 5)), side=5)
    assert windows.rows.tolist() == windows.columns.tolist() == [[[0, 1, 2, 3, 4]]]


# ---- inside, and independent ----


@pytest.mark.parametrize(
    ("norm", "eps"),
    [("Linf", 0.3), ("Linf", 8 / 255), ("L2", 0.5), ("L2", 6.0), ("L1", 2.0), ("L1", 30.0)],
)
@pytest.mark.parametrize("shape", [(1, 9, 14), (3, 8, 8)])
def test_every_query_is_inside_ball_and_box(norm, eps, shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4))
    with torch.no_grad():
        model[1].bias[0] += 50.0  # never wrong: all rows make all queries
    x = images(6, shape)
    search = Recorder(model)
    out = run(model, x, torch.zeros(6).long(), norm=norm, eps=eps, queries=40, network=search)
    assert torch.equal(out, x)
    queries = torch.stack(search.seen)
    assert len(queries) == 41
    assert (queries >= 0.0).all()
    assert (queries <= 1.0).all()
    delta = (queries.double() - x.double()).flatten(2)
    size = {"Linf": delta.abs().amax(2), "L2": delta.norm(dim=2), "L1": delta.abs().sum(2)}[norm]
    assert size.max() <= eps + (eps * 1e-6 if norm == "L1" else 1e-6)
    assert size.median() > 0.6 * eps  # and it uses the ball


def test_long_l2_searches_of_large_images_stay_within_the_verifiers_tolerance():
    # The mass of a perturbation is followed from query to query: it must not drift.
    x = 0.2 + 0.6 * images(4, (3, 32, 32))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    with torch.no_grad():
        model[1].bias[0] += 50.0
    search = Recorder(model)
    run(model, x, torch.zeros(4).long(), norm="L2", eps=8.0, queries=400, network=search)
    last = search.seen[-1]
    size = (last.double() - x.double()).flatten(1).norm(dim=1)
    assert (size <= 8.0 + 1e-6).all()
    assert (size > 7.0).all()


SHAPE = (2, 10, 7)
EPS = {"Linf": 0.05, "L2": 0.5, "L1": 1.5}


def in_one_batch(norm, n=12, **changes):
    x = images(n, SHAPE)
    model, network = Whole(SHAPE), Whole(SHAPE, twist=1)
    place = {"norm": norm, "eps": EPS[norm], "network": network, "batch_size": 32} | changes
    return x, model, place


@pytest.mark.parametrize("norm", NORMS)
def test_outcome_does_not_depend_on_batch_order_or_shard(norm):
    x, model, place = in_one_batch(norm)
    y = model(x).argmax(1)
    together = run(model, x, y, **place)
    assert 3 <= broken(model, together, y).sum() <= 9
    ids = torch.arange(len(x))
    for capacity in (1, 3, 6):
        assert torch.equal(run(model, x, y, **place | {"batch_size": capacity}), together)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    shuffled = run(model, x[order], y[order], ids=ids[order], **place | {"batch_size": 5})
    assert torch.equal(shuffled, together[order])
    for shard in (slice(0, 9), slice(9, 12)):
        assert torch.equal(run(model, x[shard], y[shard], ids=ids[shard], **place), together[shard])


@pytest.mark.parametrize("norm", NORMS)
def test_outcome_does_not_depend_on_how_often_the_driver_looks(monkeypatch, norm):
    x, model, place = in_one_batch(norm)
    y, outs, rejected = model(x).argmax(1), [], []

    class Denying(SquareSearch):
        def reject(self, state, rows):
            rejected.append(len(rows))
            super().reject(state, rows)

    monkeypatch.setattr(square_module, "SquareSearch", Denying)
    for period in (1, 3, 32):
        monkeypatch.setattr(active_set, "_LONGEST_PERIOD", period)
        outs.append(run(model, x, y, restarts=2, **place))
    assert all(torch.equal(out, outs[0]) for out in outs)
    assert sum(rejected) > 4  # the search network is another one: claims were withdrawn


@pytest.mark.parametrize("norm", NORMS)
def test_padding_and_preparing_ahead_change_no_bit(monkeypatch, norm):
    x, model, place = in_one_batch(norm)
    y = model(x).argmax(1)
    usual = run(model, x, y, **place)
    with monkeypatch.context() as patch:  # as on a GPU, where the largest window is not asked for
        for module in (square_module, square_moves):
            patch.setattr(module, "largest_window", lambda sizes, shape: min(shape[1:]))
        assert torch.equal(run(model, x, y, **place), usual)
    monkeypatch.setattr(square_module, "_PREPARED_VALUES", 1)
    assert torch.equal(run(model, x, y, **place), usual)


@pytest.mark.parametrize("norm", NORMS)
def test_memory_format_of_the_images_does_not_matter(norm):
    x, model, place = in_one_batch(norm)
    y = model(x).argmax(1)
    strided = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(run(model, strided, y, **place), run(model, x, y, **place))


def test_draws_differ_between_examples_steps_runs_seeds_and_streams():
    x = images(1, (1, 8, 8)).expand(2, -1, -1, -1)
    y = torch.zeros(2).long()

    def queries(**changes):
        search = Recorder(Constant())
        run(Constant(), x, y, network=search, queries=3, restarts=2, **changes)
        return torch.stack(search.seen)  # (8, 2, C, H, W)

    usual = queries()
    assert torch.equal(usual, queries())
    assert not torch.equal(usual[:, 0], usual[:, 1])
    assert not torch.equal(usual[:4], usual[4:])
    for other in ({"seed": 1}, {"stream": "square2"}, {"ids": torch.tensor([5, 6])}):
        assert not torch.equal(usual, queries(**other))


# ---- the search ----


@pytest.mark.parametrize("norm", NORMS)
def test_constant_classifier_is_unbreakable_and_costs_all_queries(norm):
    x, model = images(5, (1, 6, 5)), Recorder(Constant())
    out = run(model, x, torch.zeros(5).long(), norm=norm, eps=2.0, queries=40, restarts=2)
    assert torch.equal(out, x)
    assert len(model.seen) == 1 + 2 * 41


@pytest.mark.parametrize("norm", NORMS)
def test_already_wrong_examples_come_back_untouched(net, images_of_net, norm):
    x, y = images_of_net
    wrong = broken(net, x, y)
    out = run(net, x, y, norm=norm, eps=0.5)
    assert wrong.any()
    assert torch.equal(out[wrong], x[wrong])


@pytest.fixture
def images_of_net(net):
    x = images(9, (2, 6, 5), seed=1)
    y = net.eval()(x).argmax(1)
    y[::3] = (y[::3] + 1) % 5
    return x, y


@pytest.mark.parametrize("norm", NORMS)
def test_more_queries_never_lose_a_success(norm):
    x, model, place = in_one_batch(norm)
    y = model(x).argmax(1)
    wrong = [broken(model, run(model, x, y, queries=n, **place), y) for n in (1, 5, 30)]
    for fewer, more in itertools.pairwise(wrong):
        assert (more | ~fewer).all()
    assert wrong[0].sum() < wrong[-1].sum()


@pytest.mark.parametrize("norm", NORMS)
def test_a_second_run_breaks_what_the_first_does_not(norm):
    x, model, place = in_one_batch(norm)
    y = model(x).argmax(1)
    once, often = (
        broken(model, run(model, x, y, queries=1, restarts=n, **place), y) for n in (1, 8)
    )
    assert (often | ~once).all()
    assert often.sum() > once.sum()


@pytest.mark.parametrize("norm", NORMS)
def test_it_finds_about_what_the_authors_code_finds(norm):
    shape = (1, 8, 8)
    model, x = classifier(shape), images(100, shape)
    y = model(x).argmax(1)
    place = {"norm": norm, "eps": {"Linf": 0.05, "L2": 0.4, "L1": 1.2}[norm]}
    attack = authors.SquareAttack(
        model, n_queries=40, p_init=0.8, seed=0, resc_schedule=False, **place
    )
    theirs = broken(model, attack.perturb(x, y), y).float().mean()
    ours = broken(model, run(model, x, y, queries=40, **place), y).float().mean()
    assert 0.25 < ours < 0.65
    assert abs(ours - theirs) < 0.13  # over seeds, both have a standard deviation of 0.03


class Levels(nn.Module):
    """A network that sees its input in five levels: no gradient leads anywhere."""

    def __init__(self, shape):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3))

    def forward(self, x):
        return self.net((x * 4).round() / 4)


@pytest.mark.parametrize("norm", NORMS)
def test_it_breaks_a_gradient_masked_network_that_pgd_cannot(norm):
    shape = (1, 8, 8)
    model, x = Levels(shape), images(20, shape)
    y = model(x).argmax(1)
    eps = {"Linf": 0.2, "L2": 1.5, "L1": 10.0}[norm]
    place = {"ids": torch.arange(20), "seed": 0}
    if norm != "L1":
        start = {"loss": "ce", "start": "none", "keep": "best_loss", "restarts": 1}
        x_adv = pgd(model, x, y, norm=norm, eps=eps, alpha=eps / 4, steps=20, **start, **place)
        assert not broken(model, x_adv, y).any()
    x_adv = run(model, x, y, norm=norm, eps=eps, queries=100)
    assert broken(model, x_adv, y).float().mean() >= 0.6


@pytest.mark.parametrize("norm", NORMS)
def test_empty_and_single_inputs(norm):
    model = classifier((1, 3, 4), classes=2)
    x = images(6, (1, 3, 4))  # fewer than five rows, where the authors' code fails
    y = model(x).argmax(1)
    assert run(model, x[:0], y[:0], norm=norm).shape == (0, 1, 3, 4)
    out = run(model, x, y, norm=norm, eps=0.5 if norm == "Linf" else 2.0, batch_size=1)
    assert broken(model, out, y).sum() > 1


@pytest.mark.parametrize("height", [5, 7, 12, 14, 18])  # the authors' code fails on 12, 14, 18
def test_the_start_covers_the_image_with_tiles(height):
    x = torch.full((2, 1, height, 12), 0.5)
    search = SquareSearch(Constant(), x, **settings_of("L2", eps=0.1))
    rows = {"x": x, "y": torch.zeros(2).long(), "ids": torch.arange(2)}
    state = search.begin(rows | {"run": torch.zeros(2).long()})
    delta = (state["x_adv"] - x).double()
    tile = height // 5
    first = (height - 5 * tile) // 2
    covered = delta[:, :, first : first + tile * (height // tile), first:][..., : 12 - 12 % tile]
    assert (covered != 0).float().mean() > 0.8
    torch.testing.assert_close(
        delta.flatten(1).norm(dim=1), torch.full((2,), 0.1).double(), rtol=1e-5, atol=0
    )


def settings_of(norm, **changes):
    """Rules and terms of a search."""
    rules = Square(**{name: BASE[name] for name in ("queries", "restarts", "p_init")})
    place = {"ids": torch.arange(1), "seed": 0, "stream": "s", "batch_size": 50}
    return {"rules": rules, "terms": RunTerms(norm=norm, **{"eps": 0.1} | changes, **place)}


@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_scale_of_the_logits_does_not_matter(scale):
    x, model, place = in_one_batch("Linf")

    class Scaled(nn.Module):
        def forward(self, x):
            return model(x) * scale

    y = model(x).argmax(1)
    del place["network"]
    assert torch.equal(run(Scaled(), x, y, **place), run(model, x, y, **place))


@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_network_searches_for_the_plain_one(norm):
    shape = (1, 8, 8)
    model = classifier(shape)

    class Half(nn.Module):
        def forward(self, x):
            return model(x).half()

    x = images(40, shape)
    y = model(x).argmax(1)
    eps = {"Linf": 0.06, "L2": 0.4, "L1": 1.2}[norm]
    counts = []
    for network in (model, Half()):
        out = run(model, x, y, norm=norm, eps=eps, network=network)
        counts.append(broken(model, out, y).sum().item())
        moved = (out != x).flatten(1).any(dim=1)
        assert torch.equal(moved, broken(model, out, y))  # what it returns, the plain one confirms
    assert abs(counts[0] - counts[1]) <= 2


def test_a_denied_row_goes_on_and_claims_a_larger_margin():
    values = iter([-1.0, 0.0, 0.0, 0.5, 0.25, 0.75])

    class Scripted(nn.Module):
        def forward(self, x):
            value = next(values)
            return torch.tensor([[0.0, value]]).repeat(len(x), 1)

    x = images(1, (1, 6, 6))
    search = SquareSearch(Scripted(), x, **settings_of("Linf"))
    y = torch.zeros(1).long()
    rows = {"x": x, "y": y, "ids": y, "run": y, "logits": torch.zeros(1, 2)}
    state, claims = search.begin(rows), []
    for _ in range(6):
        before = state["left"].item()
        search.advance(state, 1)
        assert state["left"].item() == before - 1
        claims.append(state["candidate"].item())
        if claims[-1]:
            search.reject(state, torch.tensor([0]))
    # A tie is a claim, as in the authors' code; the same margin again is none, nor is a lower one.
    assert claims == [False, True, False, True, False, True]


def test_a_claiming_row_stands_still():
    x, model, _ = in_one_batch("L2")
    y = model(x).argmax(1)
    search = SquareSearch(model, x, **settings_of("L2", eps=EPS["L2"] * 4))
    rows = {"x": x, "y": y, "ids": torch.arange(len(x)), "run": torch.zeros_like(y)}
    state = search.begin(rows)
    search.advance(state, 12)
    claims = state["candidate"].clone()
    before = {name: values.clone() for name, values in state.items()}
    search.advance(state, 6)
    assert 0 < claims.sum() < len(x)
    for name, values in state.items():
        assert torch.equal(values[claims], before[name][claims]), name
    assert (state["left"][~claims & ~state["candidate"]] == 21 - 18).all()
    assert (model(state["x_adv"][claims]).argmax(1) != y[claims]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_it_does_not_wait_for_the_device_inside_a_period(norm):
    x = images(6, (1, 8, 8))
    search = SquareSearch(Constant(), x, **settings_of(norm))
    y = torch.zeros(6).long()
    rows = {"x": x, "y": y, "ids": torch.arange(6), "run": y, "logits": torch.zeros(6, 3)}
    state = search.begin(rows)
    assert syncs(lambda: search.begin(rows)) == 0
    assert syncs(lambda: search.advance(state, 5)) == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_stop_the_attack(value):
    class Broken(nn.Module):
        def forward(self, x):
            mean = x.mean(dim=(1, 2, 3))
            return torch.stack([mean, torch.where(x[:, 0, 0, 0] == 0.0, mean, value)], dim=1)

    x = torch.full((2, 1, 6, 6), 0.5)
    x[:, :, 0, 0] = 0.0
    y = Broken()(x).argmax(1)
    with pytest.raises(InputError, match="not finite at step 0 of the search"):
        run(Broken(), x, y, eps=0.2)


def test_the_network_is_left_as_it_was(net, images_of_net):
    x, y = images_of_net
    net.train()
    net[3].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    clean = x.clone()
    out = run(net, x, y)
    assert [module.training for module in net] == [True, True, True, False, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(x, clean)
    assert not out.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 0}, "queries is 0"),
        ({"queries": 2**20}, "queries is 1048576"),
        ({"queries": 10.0}, "queries is 10.0; need an integer"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 4097}, "restarts is 4097"),
        ({"p_init": 0.0}, "p_init=0.0"),
        ({"p_init": 1.5}, "p_init is 1.5"),
        ({"p_init": "all"}, "p_init is 'all'; need a finite number"),
    ],
)
def test_wrong_options_are_named_before_any_work(change, message):
    rules = {name: BASE[name] for name in ("queries", "restarts", "p_init")}
    with pytest.raises(InputError, match=message):
        Square(**rules | change)
