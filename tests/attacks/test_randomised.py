"""Randomised networks: averaged gradients, success by majority, and why both are needed."""

import pytest
import torch
from conftest import as_function
from torch import nn

from robustbench_lite.attacks.autoattack.active_set import attack_active_set
from robustbench_lite.attacks.autoattack.apgd import ApgdCe, ApgdDlr
from robustbench_lite.attacks.autoattack.ensemble import AutoAttack
from robustbench_lite.attacks.autoattack.square import Square
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.gradients import loss_and_gradient
from robustbench_lite.attacks.losses import cross_entropy
from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.verifier import verify

square = as_function(Square, "square")
autoattack = as_function(AutoAttack, "autoattack")
apgd_ce = as_function(ApgdCe, "apgd_ce")
apgd_dlr = as_function(ApgdDlr, "apgd_dlr")

LINF = ThreatModel("Linf", parse_eps("0.1"))


class InTurn(nn.Module):
    """A linear network whose k-th pass has the k-th weights (K, d), over and over."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.calls = weights, 0

    def forward(self, x):
        weight = self.weights[self.calls % len(self.weights)]
        self.calls += 1
        return x.flatten(1) @ weight.T


class NoisyWeights(nn.Module):
    """A linear network, each pass of it with noise of its own on the weights."""

    def __init__(self, weight, size):
        super().__init__()
        self.weight, self.size = weight, size

    def forward(self, x):
        return x.flatten(1) @ (self.weight + self.size * torch.randn(self.weight.shape)).T


@pytest.fixture
def x():
    return torch.rand(4, 1, 3, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("eot", [1, 2, 5])
def test_eot_averages_the_gradients_of_its_passes_and_gives_the_last_loss(x, eot):
    weights = torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2, 0])

    def loss(logits):
        return cross_entropy(logits, y)

    one_by_one = [loss_and_gradient(InTurn(weights[k : k + 1]), x, loss) for k in range(eot)]
    network = InTurn(weights)
    logits, losses, gradient = loss_and_gradient(network, x, loss, eot=eot)
    assert network.calls == eot
    expected = torch.stack([each for _, _, each in one_by_one]).mean(dim=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(logits, one_by_one[-1][0])
    assert torch.equal(losses, one_by_one[-1][1])


def test_eot_is_unbiased_and_its_error_falls_with_the_root_of_the_passes():
    torch.manual_seed(0)
    weight, x = torch.randn(2, 900), torch.rand(1, 1, 30, 30)
    network = NoisyWeights(weight, size=2.0)
    exact = weight[0].view(1, 1, 30, 30)
    error = {}
    for eot in (1, 4, 64):
        _, _, gradient = loss_and_gradient(network, x, lambda logits: logits[:, 0], eot=eot)
        error[eot] = gradient - exact
    for eot, each in error.items():
        sigma = 2.0 / eot**0.5
        assert each.square().mean().sqrt().item() == pytest.approx(sigma, rel=0.1)
        assert abs(each.mean().item()) < 4 * sigma / 30  # the mean of 900 errors


def constant(x):
    """Always class 0, with a gradient of zero."""
    return torch.tensor([1.0, 0.0]) + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)


class Counted(nn.Module):
    """Counts passes, over however many images."""

    def __init__(self, function):
        super().__init__()
        self.function, self.calls = function, 0

    def forward(self, x):
        self.calls += 1
        return self.function(x)


@pytest.mark.parametrize("attack", [apgd_ce, apgd_dlr])
@pytest.mark.parametrize(("eot", "passes"), [(1, 1), (3, 1), (3, 5)])
def test_apgd_makes_eot_passes_a_gradient(x, attack, eot, passes):
    network = Counted(constant)
    options = {"steps": 4, "restarts": 2, "rho": 0.75, "eot": eot, "staged_eps": False}
    attack(
        network,
        x,
        torch.zeros(4, dtype=torch.long),
        norm="Linf",
        eps=0.1,
        ids=torch.arange(4),
        seed=0,
        batch_size=4,
        passes=passes,
        **options,
    )
    # The clean images; two runs of a start and 4 steps, with several passes each judged at its end.
    judged = passes if passes > 1 else 0
    assert network.calls == passes + 2 * (5 * eot + judged)


class ClaimsAtOnce:
    """A search that takes the clean image plus 0.05 for a success, once."""

    runs = 1

    def __init__(self):
        self.finite = FiniteCheck(torch.device("cpu"))
        self.begun, self.rejected = [], []

    def begin(self, rows):
        self.begun += rows["ids"].tolist()
        claim = torch.ones_like(rows["y"], dtype=torch.bool)
        left = torch.ones_like(rows["y"])
        return rows | {"x_adv": rows["x"] + 0.05, "candidate": claim, "left": left}

    def advance(self, state, steps):
        state["left"] = state["left"] - steps

    def reject(self, state, rows):
        self.rejected += state["ids"][rows].tolist()
        state["candidate"][rows] = False


class WrongInSomePasses(nn.Module):
    """Label 0, and class 1 in the first `clean` of every `of` passes; where the mean pixel is
    above 0.5, in the first `moved` of them."""

    def __init__(self, *, clean, moved, of):
        super().__init__()
        self.clean, self.moved, self.of, self.calls = clean, moved, of, 0

    def forward(self, x):
        now = self.calls % self.of
        self.calls += 1
        limit = torch.where(x.flatten(1).mean(dim=1) > 0.5, self.moved, self.clean)
        wrong = (now < limit).float()
        return torch.stack([1.0 - wrong, wrong], dim=1)


@pytest.mark.parametrize(
    ("passes", "wrong", "success"),
    [(1, 0, False), (1, 1, True), (4, 2, False), (4, 3, True), (5, 2, False), (5, 3, True)],
)
def test_success_is_more_than_half_of_the_passes_for_searches_as_for_the_judge(
    passes, wrong, success
):
    x, y = torch.full((3, 1, 2, 2), 0.48), torch.zeros(3, dtype=torch.long)
    network = WrongInSomePasses(clean=0, moved=wrong, of=passes)
    search = ClaimsAtOnce()
    out = attack_active_set(search, network, x, y, ids=torch.arange(3), capacity=3, passes=passes)
    assert torch.equal(out, x + 0.05 if success else x)
    assert search.rejected == ([] if success else [0, 1, 2])
    assert network.calls == 2 * passes
    verdict = verify(network, x, x + 0.05, y, threat=LINF, batch_size=3, passes=passes)
    assert verdict.broken.tolist() == [success] * 3


@pytest.mark.parametrize(("clean", "attacked"), [(2, True), (3, False)])
def test_the_majority_of_the_passes_says_who_is_right_when_clean(clean, attacked):
    x, y = torch.full((2, 1, 2, 2), 0.4), torch.zeros(2, dtype=torch.long)
    network = WrongInSomePasses(clean=clean, moved=5, of=5)
    search = ClaimsAtOnce()
    attack_active_set(search, network, x, y, ids=torch.arange(2), capacity=2, passes=5)
    assert search.begun == ([0, 1] if attacked else [])


class Flaky(nn.Module):
    """Right in nine passes of ten, whatever the image: nothing there to attack."""

    def forward(self, x):
        lead = torch.where(torch.rand(len(x)) < 0.1, -1.0, 1.0)
        return torch.stack([lead, 0.0 * lead], dim=1) + 0.0 * x.flatten(1).sum(dim=1)[:, None]


APGD = {"steps": 10, "restarts": 1, "rho": 0.75, "staged_eps": False}
SQUARE = {"queries": 10, "restarts": 1, "p_init": 0.8}


@pytest.mark.parametrize(("attack", "options"), [(apgd_ce, APGD | {"eot": 2}), (square, SQUARE)])
def test_one_unlucky_pass_is_no_success_when_the_majority_decides(attack, options):
    x, y = torch.full((12, 1, 3, 3), 0.5), torch.zeros(12, dtype=torch.long)
    moved = {}
    for passes in (1, 9):
        torch.manual_seed(0)
        out = attack(
            Flaky(),
            x,
            y,
            norm="Linf",
            eps=0.1,
            ids=torch.arange(12),
            seed=0,
            batch_size=12,
            passes=passes,
            **options,
        )
        moved[passes] = int((out != x).flatten(1).any(dim=1).sum())
    assert moved[1] > 0
    # Auto-PGD proposes the best point of its run in any case, and the verifier decides.
    assert moved[9] == (12 if attack is apgd_ce else 0)


class RandomShift(nn.Module):
    """Each image moved by 0 to `most` pixels along both axes, around the edge (a toy of Xie et
    al. 2018, arXiv:1711.01991, random resizing and padding)."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        for axis in (2, 3):
            shift = torch.randint(0, self.most + 1, (len(x), 1))
            place = (torch.arange(x.shape[axis]) + shift) % x.shape[axis]
            place = place[:, None, :, None] if axis == 2 else place[:, None, None, :]
            x = x.gather(axis, place.expand(x.shape))
        return x


class Template(nn.Module):
    """Class 0 where x - 0.5 agrees with the template."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        score = (x - 0.5).flatten(1) @ self.weight
        return torch.stack([score, torch.zeros_like(score)], dim=1)


@pytest.fixture
def shifted():
    """A network that looks at an image through one of nine shifts, and images that it has right."""
    torch.manual_seed(0)
    weight = torch.randn(64)
    shifts = [weight.view(8, 8).roll((i, j), (0, 1)) for i in range(3) for j in range(3)]
    mean = torch.stack(shifts).mean(dim=0)  # the gradient that matters
    x = 0.5 + 0.05 * mean.sign().expand(20, 1, 8, 8)
    return nn.Sequential(RandomShift(2), Template(weight)).eval(), x


def broken(network, x, x_adv):
    y = torch.zeros(len(x), dtype=torch.long)
    verdict = verify(network, x, x_adv, y, threat=LINF, batch_size=20, passes=101)
    return int(verdict.broken.sum())


def test_eot_breaks_a_random_shift_that_single_gradients_leave_standing(shifted):
    network, x = shifted
    y = torch.zeros(20, dtype=torch.long)
    assert broken(network, x, x) == 0
    count = {}
    for eot in (1, 20):
        x_adv = apgd_ce(
            network,
            x,
            y,
            norm="Linf",
            eps=0.1,
            ids=torch.arange(20),
            seed=0,
            batch_size=20,
            passes=9,
            **(APGD | {"eot": eot, "steps": 20}),
        )
        count[eot] = broken(network, x, x_adv)
    assert count[1] <= 10
    assert count[20] == 20


def test_the_protocol_for_randomised_networks_breaks_the_random_shift(shifted):
    network, x = shifted
    protocol = load_protocol("aa_rand", eps="0.1")
    assert protocol.passes > 1
    (spec,) = protocol.attacks
    stages = []
    x_adv = run_attack(
        spec,
        network,
        x,
        torch.zeros(20, dtype=torch.long),
        threat=protocol.threat,
        ids=torch.arange(20),
        seed=0,
        batch_size=20,
        passes=protocol.passes,
        on_stage=lambda name, rows: stages.append((name, int(rows.sum()))),
    )
    assert broken(network, x, x_adv) >= 19
    assert stages[0][0] == "apgd_ce"


def test_a_network_that_is_not_random_loses_nothing_by_eot(linear):
    model, x, y = linear
    found = [
        model(
            apgd_ce(
                model,
                x,
                y,
                norm="Linf",
                eps=0.05,
                ids=torch.arange(len(x)),
                seed=0,
                batch_size=40,
                passes=passes,
                **APGD,
                eot=eot,
            )
        ).argmax(dim=1)
        != y
        for eot, passes in ((1, 1), (4, 3))
    ]
    assert torch.equal(found[0], found[1])
    assert 0 < int(found[0].sum()) < len(y)


def rand(network, x, y, **more):
    return autoattack(
        network,
        x,
        y,
        version="rand",
        few_classes="margin",
        norm="Linf",
        eps=0.1,
        ids=torch.arange(len(x)),
        seed=0,
        batch_size=4,
        passes=9,
        **more,
    )


class WrongInShare(nn.Module):
    """Wrong in as many passes of a hundred as the first pixel says."""

    def forward(self, x):
        unlucky = torch.rand(len(x)) < x[:, 0, 0, 0]
        return torch.stack([1.0 - 2.0 * unlucky, torch.zeros(len(x)), torch.zeros(len(x))], dim=1)


@pytest.mark.parametrize(
    ("shares", "kept", "asked"),
    [
        ([0.98, 0.1], 0.98, ["apgd_ce"]),  # it has left: no matter of luck
        ([0.6, 0.2], 0.6, ["apgd_ce", "apgd_dlr"]),  # it might be luck
        ([0.2, 0.6], 0.6, ["apgd_ce", "apgd_dlr"]),
        ([0.0, 0.0], 0.3, ["apgd_ce", "apgd_dlr"]),
    ],
)
def test_rand_keeps_the_candidate_that_is_wrong_most_often(monkeypatch, shares, kept, asked):
    called, stages = [], []

    def attack(name, share):
        def run(self, model, x, y, terms):
            called.append(name)
            return torch.full_like(x, share)

        return run

    for kind, name, share in zip((ApgdCe, ApgdDlr), ("apgd_ce", "apgd_dlr"), shares, strict=True):
        monkeypatch.setattr(kind, "__call__", attack(name, share))
    torch.manual_seed(0)
    x = torch.full((6, 1, 2, 2), 0.3)
    out = rand(
        WrongInShare(),
        x,
        torch.zeros(6, dtype=torch.long),
        on_stage=lambda name, rows: stages.append(name if rows.all() else ""),
    )
    assert called == asked
    assert torch.equal(out, torch.full_like(x, kept))
    better = {0.98: ["apgd_ce"], 0.6: asked[: 1 + shares.index(0.6)] if 0.6 in shares else []}
    assert [name for name in stages if name] == better.get(kept, []), "the last named broke it"


def test_examples_that_a_few_passes_call_wrong_when_clean_are_attacked_too(shifted):
    network, x = shifted
    torch.manual_seed(0)
    wrong_label = torch.ones(len(x), dtype=torch.long)  # of every clean image
    out = rand(network, x, wrong_label)
    assert bool((out != x).flatten(1).any(dim=1).all())


class Drifting(nn.Module):
    """A first logit that is largest in the middle of the way, off by another amount each pass."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        off = (0.0, 0.3, -0.3)[len(self.seen) % 3]
        gap = off + (x - 0.47).square().flatten(1).sum(dim=1)
        self.seen.append((x.detach().clone(), -gap.detach()))
        return torch.stack([-gap, 5.0 + 0.0 * gap, 4.0 + 0.0 * gap], dim=1)


@pytest.mark.parametrize("eot", [1, 2, 4])
def test_a_patient_run_gives_the_point_of_the_largest_mean_loss(eot):
    x = torch.full((3, 1, 2, 2), 0.5)
    network = Drifting()
    found = apgd_ce(
        network,
        x,
        torch.ones(3, dtype=torch.long),
        norm="Linf",
        eps=0.1,
        ids=torch.arange(3),
        seed=0,
        batch_size=3,
        passes=5,
        **(APGD | {"eot": eot}),
    )
    searched = network.seen[5 : 5 + 11 * eot]  # after the clean passes: a start and ten steps
    points = [searched[k * eot][0] for k in range(11)]
    losses = torch.stack(
        [sum(_cross_entropy_of(gap) for _, gap in searched[k * eot :][:eot]) for k in range(11)]
    )
    last = torch.stack([_cross_entropy_of(searched[(k + 1) * eot - 1][1]) for k in range(11)])
    for row in range(3):
        best = int(losses[:, row].argmax())
        assert torch.equal(found[row], points[best][row])
        if eot == 1:
            assert not torch.equal(points[10][row], found[row]), "else the last point would do"
        if eot == 2:
            other = points[int(last[:, row].argmax())][row]
            assert not torch.equal(other, found[row]), "else the last loss would do"


def _cross_entropy_of(first):
    logits = torch.stack([first, torch.full_like(first, 5.0), torch.full_like(first, 4.0)], dim=1)
    return cross_entropy(logits, torch.ones(len(first), dtype=torch.long))
