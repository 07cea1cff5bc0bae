"""Targeted attacks: which class they aim at, that they reach it, and who says so."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torchattacks
from conftest import small_net
from torch import nn

from robustbench_lite.attacks.autoattack.square import _progress
from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.attacks.losses import cross_entropy, dlr_of_lead, lead_of, loss_towards
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.attacks.run_attack import run_attack, targets_of_spec
from robustbench_lite.attacks.targets import choose_targets, succeeded
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.verifier import largest_norm, verify

EPS = {"Linf": Fraction(1, 2), "L2": Fraction(3)}
PGD = {"loss": "ce", "alpha": 0.1, "steps": 30, "restarts": 1, "start": "none", "keep": "last"}
APGD = {"steps": 40, "restarts": 1, "rho": 0.75, "eot": 1, "staged_eps": False, "targets": 1}
FAB = {"steps": 30, "restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "targets": 1}
CW = {"kappa": 0.0, "lr": 0.02, "steps": 100, "search_steps": 5, "initial_c": 1.0}
ATTACKS = {
    "pgd": PGD,
    "apgd_t": APGD,
    "fab_t": FAB,
    "square": {"queries": 300, "restarts": 1, "p_init": 0.8},
    "cw_l2": CW,
}
CASES = [(name, norm) for name in ATTACKS for norm in EPS if (name, norm) != ("cw_l2", "Linf")]
every_attack = pytest.mark.parametrize(("name", "norm"), CASES)


def drawn(classes=5, n=12):
    """A smooth network, images of it, and what it takes them for."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 16), nn.Softplus(beta=5), nn.Linear(16, classes)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
        net[3].weight *= 4.0
        net[3].bias -= net(torch.rand(200, 1, 6, 6, generator=generator)).mean(dim=0)
    x = torch.rand(n, 1, 6, 6, generator=generator)
    return net.eval().requires_grad_(False), x, net(x).argmax(dim=1)


def spec_of(name, **changes):
    return AttackSpec(name, name, name, ATTACKS[name] | changes)


def attack(name, norm, net, x, y, *, ids=None, batch_size=5, labels=None, eps=None, **changes):
    ids = torch.arange(len(x)) if ids is None else ids
    threat = ThreatModel(norm, eps or EPS[norm])
    options = {"ids": ids, "seed": 0, "batch_size": batch_size, "target_labels": labels}
    return run_attack(spec_of(name, **changes), net, x, y, threat=threat, **options)


def targets(kind, net, x, y, *, ids=None, seed=0):
    ids = torch.arange(len(x)) if ids is None else ids
    return choose_targets(kind, net, x, y, ids=ids, seed=seed, batch_size=7)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("kind", ["least_likely", "random", "next"])
def test_no_target_is_the_label(kind, classes):
    net, x, _ = drawn(classes, n=60)
    for y in (net(x).argmax(dim=1), net(x).argmin(dim=1), torch.arange(60) % classes):
        found = targets(kind, net, x, y)
        assert found.dtype == torch.int64
        assert (found != y).all()
        assert ((found >= 0) & (found < classes)).all()


def test_the_next_class_comes_after_the_label_and_0_after_the_last():
    net, x, _ = drawn(3, n=3)
    assert targets("next", net, x, torch.arange(3)).tolist() == [1, 2, 0]


def test_the_least_likely_class_is_that_of_torchattacks():
    net, x, _ = drawn(5, n=40)
    for y in (net(x).argmax(dim=1), net(x).argmin(dim=1)):
        theirs = torchattacks.PGD(net)
        theirs.set_mode_targeted_least_likely()
        assert torch.equal(targets("least_likely", net, x, y), theirs.get_target_label(x, y))


def test_the_random_class_depends_on_id_and_seed_alone():
    net, x, y = drawn(10, n=40)
    whole = targets("random", net, x, y)
    rows = torch.tensor([30, 3, 17])
    assert torch.equal(targets("random", net, x[rows], y[rows], ids=rows), whole[rows])
    assert (targets("random", net, x, y, seed=1) != whole).any()
    assert (targets("random", net, x, y, ids=torch.arange(40) + 40) != whole).any()


def test_each_wrong_class_is_drawn_as_often():
    net, x, _ = drawn(4, n=1)
    y = torch.full((9000,), 2)
    found = targets("random", net, x.expand(9000, 1, 6, 6), y)
    counts = torch.bincount(found, minlength=4)
    assert counts[2] == 0
    # Three standard deviations of a binomial count of 9,000 at 1/3: 134.
    assert (counts[[0, 1, 3]] - 3000).abs().max() < 134


def test_a_network_of_one_class_has_no_other():
    with pytest.raises(InputError, match="at least 2 classes"):
        targets("next", nn.Flatten(), torch.rand(2, 1, 1, 1), torch.zeros(2).long())


def test_an_image_whose_label_is_its_target_never_succeeds():
    prediction, y, target = (
        torch.tensor([1, 1, 2]),
        torch.tensor([0, 1, 0]),
        torch.tensor([1, 1, 1]),
    )
    assert succeeded(prediction, y, target).tolist() == [True, False, False]
    assert succeeded(prediction, y, None).tolist() == [True, False, True]


@every_attack
@pytest.mark.parametrize("kind", ["random", "next"])
def test_attacks_reach_their_class_inside_ball_and_box(name, norm, kind):
    net, x, y = drawn()
    x_adv = attack(name, norm, net, x, y, target=kind)
    aims = targets(kind, net, x, y)
    threat = ThreatModel(norm, EPS[norm])
    held = verify(net, x, x_adv, y, threat=threat, batch_size=12, target_labels=aims)
    hit = net(x_adv).argmax(dim=1) == aims
    assert torch.equal(held.broken, hit | (held.broken & hit))
    assert int(held.broken.sum()) >= 4, "or the test says little"
    assert ((x_adv >= 0.0) & (x_adv <= 1.0)).all()
    if name != "cw_l2":
        assert torch.equal(held.broken, hit)
        size = {"Linf": held.linf, "L2": held.l2}[norm]
        assert (size <= largest_norm(norm, float(EPS[norm]))).all()
    if name in ("apgd_t", "fab_t", "square", "cw_l2"):
        assert torch.equal(x_adv[~hit], x[~hit]), "a failed example comes back clean"


@every_attack
def test_given_labels_are_what_the_name_of_a_choice_gives(name, norm):
    net, x, y = drawn()
    aims = targets("next", net, x, y)
    by_name = attack(name, norm, net, x, y, target="next")
    given = {} if name not in ("apgd_t", "fab_t") else {"targets": 4}  # one is aimed at anyway
    assert torch.equal(attack(name, norm, net, x, y, labels=aims, **given), by_name)


@every_attack
def test_an_image_that_is_its_target_already_is_left_out(name, norm):
    net, x, y = drawn()
    aims = targets("next", net, x, y)
    aims[::2] = y[::2]
    x_adv = attack(name, norm, net, x, y, labels=aims)
    assert torch.equal(x_adv[::2], x[::2])
    threat = ThreatModel(norm, EPS[norm])
    held = verify(net, x, x_adv, y, threat=threat, batch_size=12, target_labels=aims)
    assert not held.broken[::2].any()
    assert held.broken[1::2].any()


@pytest.mark.parametrize("name", ["pgd", "apgd_t", "fab_t", "square"])
@pytest.mark.parametrize("kind", ["least_likely", "random"])
def test_a_target_does_not_depend_on_batch_or_order(name, kind):
    net, x, y = drawn()
    whole = attack(name, "Linf", net, x, y, target=kind, batch_size=12)
    order = torch.tensor([7, 2, 9, 0, 11, 4])
    some = attack(name, "Linf", net, x[order], y[order], ids=order, target=kind, batch_size=4)
    assert torch.equal(net(some).argmax(dim=1), net(whole[order]).argmax(dim=1))
    assert (some - whole[order]).abs().max() < 1e-5


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_is_step_for_step_torchattacks_targeted_pgd(norm):
    net, x, y = drawn()
    aims, eps = targets("next", net, x, y), float(EPS[norm])
    options = {"eps": eps, "alpha": 0.1, "steps": 7, "random_start": False}
    theirs = (torchattacks.PGD if norm == "Linf" else torchattacks.PGDL2)(net, **options)
    theirs.set_mode_targeted_by_function(lambda images, labels: aims)
    ours = attack("pgd", norm, net, x, y, labels=aims, steps=7)
    # Some roundings of numbers below 1 in each of seven steps.
    assert (ours - theirs(x, y)).abs().max() < 1e-5


def test_square_reaches_as_many_as_torchattacks_targeted_square():
    """Their draws are per batch, so only the counts can agree; they take the margin by default, and
    cross-entropy, as ours does, where told to."""
    net, x, y = drawn(n=40)
    aims, rules = targets("next", net, x, y), {"loss": "ce", "resc_schedule": False}
    theirs = torchattacks.Square(net, "Linf", eps=0.2, n_queries=300, **rules)
    theirs.set_mode_targeted_by_function(lambda images, labels: aims)
    found = int((net(theirs(x, y)).argmax(dim=1) == aims).sum())
    ours = attack("square", "Linf", net, x, y, labels=aims, eps=Fraction(1, 5))
    assert abs(int((net(ours).argmax(dim=1) == aims).sum()) - found) <= 4
    assert 8 <= found <= 36, "or the test says little"


class Linear(nn.Module):
    """Three classes, linear in an image of three pixels."""

    weight = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 1.1, 0.7]])

    def forward(self, x):
        return x.flatten(1) @ self.weight.T - torch.tensor([0.0, 0.3, 0.7])


def smallest_move(x, target):
    """Norm of the smallest delta with z_t >= z_j for both other classes: a quadratic program in
    three numbers, solved over its faces in float64."""
    weight, logits = Linear.weight.double().numpy(), Linear()(x[None]).double().numpy()[0]
    others = [k for k in range(3) if k != target]
    a = np.stack([weight[target] - weight[k] for k in others])
    b = np.array([logits[k] - logits[target] for k in others])
    sizes = []
    for face in ([0], [1], [0, 1]):
        delta = np.linalg.lstsq(a[face], b[face], rcond=None)[0]
        if (a @ delta >= b - 1e-9).all():
            sizes.append(np.linalg.norm(delta))
    return min(sizes)


@pytest.mark.parametrize("name", ["cw_l2", "fab_t"])
def test_minimal_norms_are_those_of_a_linear_network(name):
    """Class 1 is reached only past class 2: leading the label is not enough."""
    x = torch.tensor([[0.6, 0.4, 0.45], [0.55, 0.45, 0.5]]).view(2, 1, 1, 3)
    y, aims = Linear()(x).argmax(dim=1), torch.tensor([1, 1])
    assert y.tolist() == [0, 0]
    exact = torch.tensor([smallest_move(image, 1) for image in x])
    more = {"steps": 400, "lr": 0.01, "search_steps": 8} if name == "cw_l2" else {"steps": 100}
    x_adv = attack(name, "L2", Linear(), x, y, labels=aims, **more)
    size = (x_adv - x).flatten(1).norm(dim=1)
    assert (Linear()(x_adv).argmax(dim=1) == aims).all()
    assert (size >= exact - 1e-5).all()
    if name == "cw_l2":  # FAB leaves at its first point inside the ball
        assert (size <= 1.1 * exact).all()


@pytest.mark.parametrize("name", ["pgd", "apgd_t"])
def test_a_third_class_that_leads_on_the_way_is_overtaken(name):
    x = torch.tensor([[0.6, 0.4, 0.45], [0.55, 0.45, 0.5]]).view(2, 1, 1, 3)
    y, aims = torch.tensor([0, 0]), torch.tensor([1, 1])
    x_adv = attack(name, "Linf", Linear(), x, y, labels=aims)
    assert (Linear()(x_adv).argmax(dim=1) == aims).all()


def test_losses_towards_a_class_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, 4.0, 1.0, 1.5]], dtype=torch.float64)
    target = torch.tensor([2, 1])
    assert lead_of(logits, target).tolist() == [-1.0, 2.5]
    scale = torch.tensor([3.0 - (1.0 - 1.0) / 2, 4.0 - (1.0 + 0.0) / 2])
    assert torch.allclose(dlr_of_lead(logits, target), torch.tensor([-1.0, 2.5]).double() / scale)
    assert dlr_of_lead(logits[:, :3], target).tolist() == [-1.0, 3.0]
    assert loss_towards("margin", logits, target, kappa=1.0).tolist() == [-1.0, 1.0]
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    by_hand = p[torch.arange(2), target].log()
    assert torch.allclose(loss_towards("ce", logits, target, kappa=None), by_hand)


def test_a_query_that_reaches_the_class_is_better_than_any_that_does_not():
    generator = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.rand(500, 4, generator=generator, dtype=torch.float64)
    goal = torch.arange(500) % 4
    value, hit = _progress(logits, {"goal": goal}), logits.argmax(dim=1) == goal
    assert (value[hit] >= 0.0).all()
    assert torch.equal(value[~hit], -cross_entropy(logits, goal)[~hit])
    assert value[~hit].max() < 0.0


def test_the_verifier_wants_the_target_in_more_than_half_of_the_passes():
    class Turns(nn.Module):
        """Says class 0, 1, 2, and so on, one a pass."""

        said = 0

        def forward(self, x):
            self.said += 1
            return nn.functional.one_hot(
                torch.full((len(x),), self.order[self.said - 1]), 3
            ).float()

    x, y = torch.full((2, 1, 1, 1), 0.5), torch.tensor([0, 0])
    threat = ThreatModel("Linf", Fraction(1, 10))
    for order, broken in (
        ([1, 1, 2], [True, False]),
        ([1, 2, 2], [False, True]),
        ([1, 2, 0], [0, 0]),
    ):
        net = Turns()
        net.order = order
        options = {"threat": threat, "batch_size": 2, "passes": 3}
        held = verify(net, x, x, y, target_labels=torch.tensor([1, 2]), **options)
        assert held.broken.tolist() == [bool(b) for b in broken]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("pgd", {"target": "likeliest"}, "target.*'likeliest'"),
        ("pgd", {"target": "random", "loss": "kl"}, "loss='kl' knows no target"),
        ("apgd_t", {"target": "random", "targets": 9}, "targets=9 must be 1 with target='random'"),
        ("fab_t", {"target": "next", "targets": 2}, "targets=2 must be 1"),
        ("square", {"target_labels": 3}, "may not set target_labels"),
    ],
)
def test_wrong_parameters_are_one_line(name, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        spec_of(name, **changes).contract.norms  # noqa: B018
    assert "\n" not in str(caught.value)


def test_an_attack_without_targeted_mode_says_so():
    net, x, y = small_net(), torch.rand(2, 1, 8, 8), torch.zeros(2).long()
    spec = AttackSpec("fgsm", "fgsm", "fgsm", {})
    terms = RunTerms(norm="Linf", eps=0.1, ids=torch.arange(2), seed=0, stream="s", batch_size=2)
    assert terms.target_labels is None
    assert spec.target is None
    threat = ThreatModel("Linf", Fraction(1, 10))
    options = {"threat": threat, "ids": terms.ids, "seed": 0, "batch_size": 2}
    with pytest.raises(InputError, match="Fgsm has no targeted mode"):
        run_attack(spec, net, x, y, target_labels=y + 1, **options)
    del options["threat"]
    assert targets_of_spec(spec, net, x, y, **options) is None
    assert targets_of_spec(spec_of("pgd", target="next"), net, x[:0], y[:0], **options) is None
