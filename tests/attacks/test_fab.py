"""FAB: the authors' trajectory step by step, closed forms, rows that do not see each other."""

from functools import partial

import pytest
import torch
from conftest import as_function, small_net
from device_waits import syncs
from pyautoattack.fab_pt import FABAttack_PT
from torch import nn

from robustbench_lite.attacks.autoattack.fab import Fab, FabSearch, FabT, nearest_boundary
from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import normal, uniform

NORMS = ("Linf", "L2", "L1")
RULES = {"steps": 10, "restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
NEVER = 1e-9  # a radius that no candidate of these nets is inside of
MIDDLE = {"Linf": 0.02, "L2": 0.11, "L1": 0.265}  # breaks half of the images of `plain_net`


def run(model, x, y, *, targets=None, **changes):
    arguments = RULES | {"norm": "Linf", "eps": 0.1, "seed": 0, "batch_size": 8}
    arguments |= {"ids": torch.arange(len(x))} | changes
    if targets is None:
        return as_function(Fab, "fab")(model, x, y, **arguments)
    return as_function(FabT, "fab_t")(model, x, y, targets=targets, **arguments)


def search_of(model, x, *, targets=None, eps=NEVER, norm="Linf", **changes):
    rules = RULES | changes
    attack = Fab(**rules) if targets is None else FabT(**rules, targets=targets)
    terms = RunTerms(norm, eps, ids=torch.arange(len(x)), seed=0, stream="fab", batch_size=8)
    return FabSearch(model, x, attack, terms)


def rows_of(model, x, y, run=0):
    with torch.no_grad():
        logits = model(x).float()
    ids = torch.arange(len(x))
    return {"x": x, "y": y, "ids": ids, "logits": logits, "run": torch.full_like(y, run)}


def size_of(delta, norm):
    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[norm]
    return torch.linalg.vector_norm(delta.double().flatten(1), order, dim=1)


class Seen(nn.Module):
    """Passes on to a network and keeps what it was asked, and how."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.inputs, self.backwards = inner, [], 0

    def forward(self, x):
        self.inputs.append(x.detach().clone())
        self.backwards += x.requires_grad
        return self.inner(x)


def plain_net(classes=5, dtype=torch.float32):
    """A net without BatchNorm or Dropout, and images with labels that it predicts."""
    torch.manual_seed(0)
    single = {"dtype": torch.float32}  # the same net whatever the default is
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, **single),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(120, classes, **single),
    )
    net = net.to(dtype).eval()
    x = torch.rand(6, 2, 6, 5, generator=torch.Generator().manual_seed(1), **single).to(dtype)
    x[:, :, 0], x[:, :, 1] = 0.0, 1.0
    with torch.no_grad():
        net[3].bias -= net(x).mean(dim=0)  # so that they predict several classes
        return net, x, net(x).argmax(dim=1)


@pytest.fixture
def double(monkeypatch):
    """Lets the authors' code run in float64, where two ways to round part by 1e-12 only."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def theirs(model, norm, *, targets, eps=NEVER, **changes):
    rules = {"n_iter": 100, "n_restarts": 1, "n_target_classes": targets or 1} | changes
    return FABAttack_PT(model, norm=norm, eps=eps, targeted=bool(targets), device="cpu", **rules)


def trails(net, x, y, norm, *, targets, steps=100, restarts=1, **changes):
    """What the network is asked in each run, ours and theirs: lists of 2 `steps` batches."""
    reference, ours = Seen(net), Seen(net)
    attack = theirs(reference, norm, targets=targets, n_iter=steps, n_restarts=restarts, **changes)
    attack.perturb(x, y)
    run(
        ours,
        x,
        y,
        norm=norm,
        targets=targets,
        steps=steps,
        restarts=restarts,
        **{"eps": NEVER} | changes,
    )
    mine = ours.inputs[1:]
    runs = len(mine) // (2 * steps)
    before = 2 if targets else 1  # the authors look at the clean images again in each run
    each = 2 * steps + before + 1
    wanted = [reference.inputs[1 + each * k + before :][: 2 * steps] for k in range(runs)]
    assert len(reference.inputs) == 1 + each * runs
    return [mine[2 * steps * k :][: 2 * steps] for k in range(runs)], wanted


def furthest(ours, wanted):
    return max((float((a - b).abs().max()) for a, b in zip(ours, wanted, strict=True)), default=0.0)


@pytest.mark.parametrize("targets", [None, 1])
@pytest.mark.parametrize("norm", NORMS)
def test_every_step_is_that_of_the_authors(double, norm, targets):
    net, x, y = plain_net(dtype=torch.float64)
    (ours,), (wanted,) = trails(net, x, y, norm, targets=targets)
    assert furthest(ours, wanted) < 1e-9


@pytest.mark.parametrize(("norm", "steps"), [("Linf", 100), ("L2", 100), ("L1", 4)])
def test_float32_steps_are_those_of_the_authors(norm, steps):
    # L1 moves few values far, and which ones is a matter of rounding where weights are close: the
    # paths part after some steps in float32, and only there (see the test above).
    net, x, y = plain_net()
    (ours,), (wanted,) = trails(net, x, y, norm, targets=1, steps=steps)
    assert furthest(ours, wanted) < 5e-6


@pytest.mark.parametrize("targets", [None, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_restarts_begin_where_the_authors_begin_given_the_same_draws(
    double, monkeypatch, norm, targets
):
    net, x, y = plain_net(dtype=torch.float64)
    draw = partial(uniform if norm == "Linf" else normal, x.shape, step=0)
    runs = iter(range(1, 8, 2))  # of two restarts each, the second one draws

    def given(shape):
        assert shape == x.shape
        stream = "fab_t" if targets else "fab"
        return draw(ids=torch.arange(6), seed=0, stream=stream, restart=next(runs)).double()

    monkeypatch.setattr(torch, "rand" if norm == "Linf" else "randn", given)
    eps = 0.45 * MIDDLE[norm]  # breaks none, and the starts are eps / 2 away
    ours, wanted = trails(net, x, y, norm, targets=targets, steps=5, restarts=2, eps=eps)
    assert len(ours) == 2 * (targets or 1)
    for mine, reference in zip(ours, wanted, strict=True):
        assert furthest(mine, reference) < 1e-9


@pytest.mark.parametrize("targets", [None, 9])
@pytest.mark.parametrize("norm", NORMS)
def test_verdicts_are_those_of_the_authors(double, norm, targets):
    net, x, y = plain_net(dtype=torch.float64)
    broken = []
    for eps in (0.7 * MIDDLE[norm], MIDDLE[norm]):
        found = run(net, x, y, norm=norm, eps=eps, targets=targets)
        attack = theirs(net, norm, eps=eps, targets=targets and 4, n_iter=10)
        reference = attack.perturb(x, y)
        broken.append(net(found).argmax(dim=1) != y)
        assert torch.equal(broken[-1], net(reference).argmax(dim=1) != y)
    share = torch.cat(broken).double().mean()
    assert 0.0 < share < 1.0


class Linear(nn.Module):
    """A linear classifier of K classes."""

    def __init__(self, classes=4, values=12):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(classes, values, generator=generator))

    def forward(self, x):
        return (x.flatten(1) - 0.5) @ self.weight.to(x.dtype).T

    def distance(self, x, y, norm):
        """To the nearest other class: the smallest lead over the dual norm of its weights."""
        logits, own = self(x), self.weight[y]
        weight = self.weight[None] - own[:, None]  # (B, K, d)
        order = {"Linf": 1, "L2": 2, "L1": torch.inf}[norm]
        each = (logits.gather(1, y[:, None]) - logits) / torch.linalg.vector_norm(weight, order, 2)
        return each.scatter(1, y[:, None], torch.inf).amin(dim=1).detach()


@pytest.fixture
def linear_many():
    """Away from the box: within 0.2 of the middle, and the L1 norm moves one value."""
    model = Linear()
    x = 0.4 + 0.2 * torch.rand(40, 1, 3, 4, generator=torch.Generator().manual_seed(4))
    return model, x, model(x).argmax(dim=1)


@pytest.mark.parametrize("targets", [None, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_verdicts_are_exact_for_a_linear_classifier(linear_many, norm, targets):
    model, x, y = linear_many
    exact = model.distance(x, y, norm)
    for eps in exact.quantile(torch.tensor([0.2, 0.5, 0.8])).tolist():
        found = run(model, x, y, norm=norm, eps=eps, targets=targets, eta=1.0001, steps=3)
        clear = (exact / eps - 1).abs() > 3e-4
        assert clear.sum() > 30
        broken = model(found).argmax(dim=1) != y
        assert torch.equal(broken[clear], (exact < eps)[clear])


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_found_for_a_linear_classifier_is_the_closed_form(linear_many, norm):
    model, x, y = linear_many
    search = search_of(model, x, norm=norm, eta=1.0001)
    state = search.begin(rows_of(model, x, y))
    search.advance(state, 5)
    exact = model.distance(x, y, norm)
    assert (state["best"] >= exact * (1 - 1e-5)).all()
    torch.testing.assert_close(state["best"], exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        state["best"].double(), size_of(state["x_adv"] - x, norm), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_two_classes(linear, norm):
    model, x, y = linear
    with torch.no_grad():
        score = (x.flatten(1) @ model.weight + model.bias).abs()
        exact = score / (model.weight.abs().sum() if norm == "Linf" else model.weight.norm())
    eps = float(exact.median())
    for targets in (None, 9):
        found = run(model, x, y, norm=norm, eps=eps, targets=targets, eta=1.0001)
        broken = model(found).argmax(dim=1) != y
        # One image is on the plane: the tie is no mistake, and a distance of 0 asks for no move.
        clear = ((exact / eps - 1).abs() > 3e-4) & (exact > 1e-6)
        assert clear.sum() >= 38
        assert torch.equal(broken[clear], (exact < eps)[clear])


@pytest.mark.parametrize("targets", [None, 4])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("restarts", [1, 2])
def test_what_is_found_is_inside_ball_and_box_and_misclassified(norm, targets, restarts):
    net, x, y = plain_net()  # with pixels that are exactly 0 and 1
    eps = MIDDLE[norm]
    found = run(net, x, y, norm=norm, eps=eps, targets=targets, restarts=restarts)
    assert ((found >= 0.0) & (found <= 1.0)).all()
    size = size_of(found.double() - x.double(), norm)
    assert (size <= (eps * (1 + 1e-6) if norm == "L1" else eps + 1e-6)).all()
    moved = (found != x).flatten(1).any(dim=1)
    assert 0 < moved.sum() < 6
    assert torch.equal(moved, net(found).argmax(dim=1) != y)


def test_l2_and_l1_norms_of_large_images_hold_for_the_verifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5))
    x = 0.2 + 0.6 * torch.rand(20, 3, 64, 64)
    y = model(x).argmax(dim=1)
    for norm in ("L2", "L1"):
        search = search_of(model, x, norm=norm)
        state = search.begin(rows_of(model, x, y))
        search.advance(state, 2)
        exact = size_of(state["x_adv"].double() - x.double(), norm)
        off = (state["best"].double() - exact).abs()
        # What the verifier allows beyond the radius: absolute in L2, relative in L1.
        assert (off < (5e-7 if norm == "L2" else 5e-7 * exact)).all()


@pytest.mark.parametrize("targets", [None, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_capacity_order_and_shards_change_nothing(norm, targets):
    # Float64: in float32 another batch shape rounds otherwise, and a path amplifies that.
    net, x, y = plain_net(dtype=torch.float64)
    x = torch.cat([x, x.flip(3)])[:11]
    y = net(x).argmax(dim=1)
    attack = partial(run, net, norm=norm, eps=MIDDLE[norm], targets=targets, restarts=2, steps=5)
    ids = torch.arange(len(x))
    found = attack(x, y, batch_size=32)
    broken = (found != x).flatten(1).any(dim=1)
    assert 0 < broken.sum() < len(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    for batch_size in (1, 3, 7):
        again = attack(x[order], y[order], ids=ids[order], batch_size=batch_size)
        torch.testing.assert_close(again, found[order], rtol=0, atol=1e-9)
    for part in (slice(0, 5), slice(5, 11)):
        shard = attack(x[part], y[part], ids=ids[part], batch_size=5)
        torch.testing.assert_close(shard, found[part], rtol=0, atol=1e-9)


def test_looking_at_every_step_or_seldom_changes_nothing():
    net, x, y = plain_net(dtype=torch.float64)
    states = []
    for steps in ([1] * 12, [5, 7], [12]):
        search = search_of(net, x, norm="L2", eps=0.11, targets=3, steps=12)
        states.append(search.begin(rows_of(net, x, y)))
        for n in steps:
            search.advance(states[-1], n)
    claims = states[0]["candidate"]
    assert 0 < claims.sum() < len(x)
    for state in states[1:]:
        assert torch.equal(state["candidate"], claims)
        for name in ("x_adv", "best", "left"):
            torch.testing.assert_close(state[name], states[0][name], rtol=0, atol=1e-12)


def test_a_claim_stands_still_and_its_run_goes_on_from_there_when_denied():
    net, x, y = plain_net(dtype=torch.float64)
    states = []
    for late in (0, 7):
        search = search_of(net, x, norm="L2", eps=0.11, targets=3, steps=20)
        state = search.begin(rows_of(net, x, y))
        for _ in range(9):
            if not state["candidate"].any():
                search.advance(state, 1)
        row = state["candidate"].nonzero().flatten()[:1]
        held = {name: state[name][row].clone() for name in ("x_adv", "left", "best")}
        for _ in range(late):
            search.advance(state, 1)
        for name, value in held.items():
            assert torch.equal(state[name][row], value), name
        search.reject(state, row)
        assert not state["candidate"][row].any()
        search.advance(state, 3)
        assert int(state["left"][row]) < int(held["left"])
        names = ("at", "best", "x_adv", "candidate", "left")
        states.append({name: state[name][row] for name in names})
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-12)


def test_a_denied_row_claims_again_only_with_another_candidate():
    net, x, y = plain_net()
    seen = Seen(net)
    search = search_of(seen, x, norm="L2", eps=10.0, steps=15)
    state = search.begin(rows_of(net, x, y))
    claims = torch.zeros_like(y)
    for _ in range(15):
        search.advance(state, 1)
        claim = state["candidate"].clone()
        assert torch.equal(state["x_adv"][claim], seen.inputs[-1][claim])
        assert (net(state["x_adv"]).argmax(dim=1) != y)[claim].all()
        claims += claim
        search.reject(state, claim.nonzero().flatten())
    assert (claims > 3).all()


def test_the_smallest_candidate_is_kept_and_is_the_smallest_the_network_saw():
    net, x, y = plain_net()
    seen = Seen(net)
    search = search_of(seen, x, norm="L2", targets=2, steps=20)
    state = search.begin(rows_of(net, x, y))
    search.advance(state, 20)
    tested = torch.stack(seen.inputs[1::2])  # of each step the second pass
    wrong = torch.stack([net(points).argmax(dim=1) != y for points in tested])
    sizes = torch.stack([size_of(points - x, "L2") for points in tested])
    least = torch.where(wrong, sizes, torch.inf).amin(dim=0)
    torch.testing.assert_close(state["best"].double(), least, rtol=1e-6, atol=0)
    torch.testing.assert_close(size_of(state["x_adv"] - x, "L2"), least, rtol=1e-6, atol=0)
    assert not state["candidate"].any()


def test_already_wrong_examples_are_left_alone():
    net, x, y = plain_net()
    y = torch.where(torch.arange(6) < 3, y, (y + 1) % 5)
    found = run(net, x, y, eps=0.5)
    moved = (found != x).flatten(1).any(dim=1)
    assert moved.tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("targets", [None, 2])
def test_no_examples(targets):
    net, x, y = plain_net()
    assert run(net, x[:0], y[:0], targets=targets).shape == (0, 2, 6, 5)


class Constant(nn.Module):
    """Predicts class 0 everywhere, with zero gradient."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0, 0.5]) + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("targets", [None, 9])
@pytest.mark.parametrize("norm", NORMS)
def test_a_constant_classifier_is_unbreakable(norm, targets):
    x, y = torch.rand(3, 1, 4, 5), torch.zeros(3, dtype=torch.long)
    found = run(Constant(), x, y, norm=norm, eps=0.9, targets=targets, restarts=2)
    assert torch.equal(found, x)


def test_the_second_target_breaks_what_the_first_cannot():
    class Net(nn.Module):
        """Class 1 is likelier and out of reach, class 2 is near."""

        def forward(self, x):
            value = x.flatten(1).mean(dim=1, keepdim=True)
            return torch.cat([0.0 * value, 0.0 * value - 0.1, 5.0 * (value - 0.55)], dim=1)

    x, y = torch.full((2, 1, 2, 3), 0.5), torch.zeros(2, dtype=torch.long)
    found = [run(Net(), x, y, eps=0.1, targets=n) for n in (1, 2, 9)]
    assert torch.equal(found[0], x)
    assert (Net()(found[1]).argmax(dim=1) == 2).all()
    assert torch.equal(found[1], found[2])


def test_runs_go_target_by_target_by_likelihood_and_restarts_start_at_half_the_radius():
    logits = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0], [0.0, 9.0, 1.0, 2.0, 3.0]])
    y, x = torch.tensor([0, 1]), torch.full((2, 1, 3, 4), 0.5)
    for norm in NORMS:
        search = search_of(None, x, norm=norm, eps=0.2, targets=9, restarts=2)
        targets, at, ids = [], [], torch.tensor([3, 4])
        for k in range(8):
            rows = {"x": x, "y": y, "ids": ids, "logits": logits, "run": torch.full_like(y, k)}
            state = search.begin(rows)
            targets.append(state["target"].tolist())
            at.append(state["at"])
        assert search.runs == 8  # four wrong classes, two restarts
        assert targets[::2] == targets[1::2] == [[2, 4], [4, 3], [3, 2], [1, 0]]
        for clean, drawn in zip(at[::2], at[1::2], strict=True):
            assert torch.equal(clean, x)
            size = size_of(drawn - x, norm)
            torch.testing.assert_close(size, torch.full_like(size, 0.1), rtol=1e-5, atol=0)
        assert not torch.equal(at[1], at[3])
        assert not torch.equal(at[1][0], at[1][1])


def test_random_starts_are_inside_the_box():
    x = torch.rand(20, 1, 3, 4).round()
    search = search_of(None, x, norm="L2", eps=1.0, restarts=2)
    rows = {"x": x, "y": torch.zeros(20, dtype=torch.long), "ids": torch.arange(20)}
    rows |= {"logits": torch.zeros(20, 3), "run": torch.ones(20, dtype=torch.long)}
    at = search.begin(rows)["at"]
    assert ((at >= 0.0) & (at <= 1.0)).all()
    assert not torch.equal(at, x)


@pytest.mark.parametrize("norm", NORMS)
def test_the_nearest_boundary_is_that_of_all_classes(norm):
    net, x, y = plain_net()
    lead, gradient = nearest_boundary(net, x, y, norm=norm)
    inputs = x.clone().requires_grad_(True)
    totals = net(inputs).sum(dim=0).unbind()
    jacobian = torch.stack(
        [torch.autograd.grad(z, inputs, retain_graph=True)[0] for z in totals], 1
    )
    leads = net(x) - net(x).gather(1, y[:, None])
    differences = jacobian - jacobian[torch.arange(6), y][:, None]  # (B, K, C, H, W)
    order = {"Linf": 1, "L2": 2, "L1": torch.inf}[norm]
    sizes = torch.linalg.vector_norm(differences.flatten(2), order, dim=2)
    distance = (leads.abs() / sizes).scatter(1, y[:, None], torch.inf)
    nearest = distance.argmin(dim=1)
    assert len(nearest.unique()) > 1
    torch.testing.assert_close(lead, leads.gather(1, nearest[:, None])[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, differences[torch.arange(6), nearest], rtol=0, atol=1e-6)


@pytest.mark.parametrize("targets", [None, 2])
def test_an_example_that_survives_costs_what_is_documented(targets):
    seen = Seen(Constant())
    x, y = torch.rand(3, 1, 4, 5), torch.zeros(3, dtype=torch.long)
    run(seen, x, y, targets=targets, restarts=2, steps=7)
    steps = 7 * 2 * (targets or 1)
    assert len(seen.inputs) == 1 + 2 * steps
    assert seen.backwards == steps


def test_a_broken_example_leaves_at_once():
    net, x, y = plain_net()
    seen = Seen(net)
    found = run(seen, x, y, eps=1.0, targets=4)
    assert (net(found).argmax(dim=1) != y).all()
    assert len(seen.inputs) < 10  # 80 if it had run to the end


@pytest.mark.parametrize("scale", [1e-3, 1e4])
@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_the_logits_changes_no_verdict(norm, scale):
    class Scaled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return scale * self.inner(x)

    net, x, y = plain_net()
    broken = [
        model(run(model, x, y, norm=norm, eps=MIDDLE[norm], targets=1)).argmax(dim=1) != y
        for model in (net, Scaled(net))
    ]
    assert torch.equal(broken[0], broken[1])
    assert 0 < broken[0].sum() < 6


def test_a_network_that_returns_half_precision():
    class Half(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return (1e4 * self.inner(x)).half()

    net, x, y = plain_net()
    for targets in (None, 4):
        found = run(Half(net), x, y, eps=0.2, targets=targets)
        assert (net(found).argmax(dim=1) != y).all()
        assert found.dtype == torch.float32


def test_only_the_plain_network_makes_a_success():
    net, x, y = plain_net()

    class Sure(nn.Module):
        """Right everywhere, whatever the network searched on says."""

        def forward(self, x):
            return torch.nn.functional.one_hot(y[: len(x)] * 0 + 2, 5) + 0.0 * x[:, 0, 0, :1]

    always = torch.full_like(y, 2)
    assert torch.equal(run(Sure(), x, always, eps=1.0, network=net, steps=4), x)
    found = run(net, x, y, eps=1.0, network=small_net(seed=5).eval(), steps=4)
    assert torch.equal((found != x).flatten(1).any(dim=1), net(found).argmax(dim=1) != y)


@pytest.mark.parametrize("targets", [None, 4])
def test_parameters_gradients_and_modes_are_as_before(net, images, targets):
    x, _ = images
    y = net.eval()(x).argmax(dim=1)
    net.train()
    net[5].weight.grad = torch.ones_like(net[5].weight)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = run(net, x, y, targets=targets, steps=3)
    assert all(module.training for module in net)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))
    assert net[0].weight.grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not found.requires_grad


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 7, 3), (5, 3, 2, 9)])
@pytest.mark.parametrize("norm", NORMS)
def test_shapes(norm, shape):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2] * shape[3], 3))
    x = torch.rand(shape)
    y = net(x).argmax(dim=1)
    for targets in (None, 2):
        assert run(net, x, y, norm=norm, eps=0.05, targets=targets, restarts=2).shape == shape


@pytest.mark.parametrize("targets", [None, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_steps_wait_for_no_device(norm, targets):
    net, x, y = plain_net()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    search = search_of(net, x, norm=norm, targets=targets)
    state = search.begin(rows_of(net, x, y))
    with torch.no_grad():
        assert syncs(lambda: search.advance(state, 3)) == 0


@pytest.mark.parametrize("targets", [None, 2])
def test_a_network_that_gives_nan_is_an_error(targets):
    class Bad(nn.Module):
        def forward(self, x):
            value = x.flatten(1).mean(dim=1, keepdim=True)
            value = torch.where(value == 0.5, value, torch.nan * value)
            return torch.cat([1.0 - value, value, 0.0 * value], dim=1)

    x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 0])
    with pytest.raises(InputError, match="not finite"):
        run(Bad(), x, y, targets=targets)


GOOD = RULES | {"targets": 9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 500}, "4500 runs"),
        ({"targets": 0}, "targets is 0"),
        ({"alpha_max": 1.5}, "alpha_max is 1.5"),
        ({"alpha_max": "x"}, "alpha_max is 'x'"),
        ({"eta": 0.9}, "eta is 0.9"),
        ({"beta": -0.1}, "beta is -0.1"),
    ],
)
def test_wrong_options_are_named(change, message):
    with pytest.raises(InputError, match=message):
        FabT(**GOOD | change)
