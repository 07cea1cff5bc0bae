"""LRAT (reconstruction): weights inside each pair, never between pairs; in float64."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from defense_cases import (
    Z_ADV,
    Recording,
    Scripted,
    Trajectory,
    Y,
    Z,
    crafting,
    example_images,
    make_batch,
    objective_of,
    one_step,
    step,
)
from torch import nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST
from robustbench_lite.defenses.instance_weights import log_geometry_weights, normalised
from robustbench_lite.defenses.label_losses import CrossEntropy
from robustbench_lite.defenses.methods.irat import Irat
from robustbench_lite.defenses.methods.lrat import Lrat, pair_losses
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.methods.standard import Standard

Z_CW = [[0.5, 1.0, -1], [0, 2, 1], [1.2, 1, 0]]
LOGITS = {"z": Z, "z_pgd": Z_ADV, "z_cw": Z_CW}
KAPPA = {"pgd": [10, 0, 3], "cw": [2, 10, 10]}
CE = {
    "z": [0.0658839038, 0.4076059644, 0.6041306053],
    "pgd": [0.1698460196, 2.1698460196, 1.1041306053],
    "cw": [1.0549569196, 0.4076059644, 0.7513806942],
}
BOTH = ("pgd", "cw")
ACTIVE = crafting(steps=4, start="uniform", eps=Fraction(1, 20))


def lrat(attacks=("pgd",), weight="kappa", **changes):
    """Ten counted steps for `kappa`, none for the others, which then see the scripted logits."""
    settings = {
        "crafting": crafting(steps=10 if weight == "kappa" else 0),
        "lam": 0.0,
        "slope": 10.0,
        "bias": 0.0,
        "pair_constant": 1.0,
        "mean_over_attacks": False,
        "batchnorm": "separate",
        "begin_epoch": 0,
    }
    return Lrat(attacks=attacks, weight=weight, **(settings | changes))


class Finals(Scripted):
    """Scripted in eval mode too: the logits of each attack's final variants, in turn."""

    def __init__(self, order, finals, **logits):
        super().__init__(order, **logits)
        self.finals = list(finals)

    def forward(self, x):
        return super().forward(x) if self.training else getattr(self, self.finals.pop(0))


def scripted(attacks, weight, order=None):
    order = order or [*(f"z_{name}" for name in attacks), "z"]
    if weight == "kappa":
        return Trajectory(order, [KAPPA[name] for name in attacks], 10, **LOGITS)
    return Finals(order, [f"z_{name}" for name in attacks], **LOGITS)


def crafted_weights(defense, model):
    batch = make_batch(torch.rand(3, 1, 2, 2, dtype=torch.float64), Y)
    return defense.craft({ROBUST: model}, batch)["weights"]


# --- the worked example


CASES = [
    # attacks, weight, C, omega per attack, slack, per sample, loss
    (
        ("pgd",),
        "kappa",
        1.0,
        [[4.53978687e-5, 0.9999546021, 0.9820137900]],
        [0.9999546021, 4.53978687e-5, 0.0179862100],
        [0.0658886234, 2.1697660176, 1.0951375004],
        1.1102640471,
    ),
    (
        ("cw",),
        "kappa",
        1.0,
        [[0.9975273768, 4.53978687e-5, 4.53978687e-5]],
        [0.0024726232, 0.9999546021, 0.9999546021],
        [1.0525113148, 0.4076059644, 0.6041372902],
        0.6880848565,
    ),
    (
        BOTH,
        "kappa",
        1.0,
        [
            [4.53978687e-5, 0.9999546021, 0.9820137900],
            [0.9975273768, 4.53978687e-5, 4.53978687e-5],
        ],
        [0.0024272253, 0.0, 0.0179408121],
        [1.0525160345, 2.1697660176, 1.0951441852],
        1.4391420791,
    ),
    (
        ("pgd",),
        "hard",
        1.0,
        [[0, 1, 1]],
        [1, 0, 0],
        [0.0658839038, 2.1698460196, 1.1041306053],
        1.1132868429,
    ),
    (
        ("cw",),
        "hard",
        1.0,
        [[1, 0, 0]],
        [0, 1, 1],
        [1.0549569196, 0.4076059644, 0.6041306053],
        0.6888978298,
    ),
    (
        BOTH,
        "hard",
        1.0,
        [[0, 1, 1], [1, 0, 0]],
        [0, 0, 0],
        [1.0549569196, 2.1698460196, 1.1041306053],
        1.4429778482,
    ),
    (
        ("pgd",),
        "kappa",
        2.0,
        [[4.53978687e-5, 0.9999546021, 0.9820137900]],
        [1.9999546021, 1.0000453979, 1.0179862100],
        [0.1317725272, 2.5773719821, 1.6992681057],
        1.4694708716,
    ),
    (
        ("pgd",),
        "margin",
        1.0,
        [[6.77789784e-4, 0.9993222102, 0.8957158895]],
        [1 - 6.77789784e-4, 1 - 0.9993222102, 1 - 0.8957158895],
        [0.0659543682, 2.1686515912, 1.0519885501],
        1.0955315032,
    ),
]


@pytest.mark.parametrize(("attacks", "weight", "c", "omega", "slack", "per_sample", "loss"), CASES)
def test_the_worked_example(attacks, weight, c, omega, slack, per_sample, loss):
    defense = lrat(attacks, weight, pair_constant=c)
    weights = crafted_weights(defense, scripted(attacks, weight))
    expected = torch.tensor(omega, dtype=torch.float64).T
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-9)

    variants = torch.tensor([CE[name] for name in attacks], dtype=torch.float64).T
    clean = torch.tensor(CE["z"], dtype=torch.float64)
    ours = pair_losses(0 * variants, torch.ones_like(clean), weights, pair_constant=c)
    assert ours.tolist() == pytest.approx(slack, abs=1e-9)  # the clean loss's factor
    ours = pair_losses(variants, clean, weights, pair_constant=c)
    assert ours.tolist() == pytest.approx(per_sample, abs=1e-9)

    objective = objective_of(defense, scripted(attacks, weight))
    assert objective.loss.item() == pytest.approx(loss, abs=1e-9)


def test_the_example_compares_with_plain_reweighted_and_natural_training():
    adversarial = Scripted(["z_pgd"], **LOGITS)
    assert objective_of(PgdAt(crafting()), adversarial).loss.item() == pytest.approx(1.1479408815)
    irat = Irat(crafting(steps=10), "tanh", 0.0, 1)
    model = Trajectory(["z_pgd"], [KAPPA["pgd"]], 10, **LOGITS)
    assert objective_of(irat, model).loss.item() == pytest.approx(1.6417780343, abs=1e-9)
    natural = Scripted(["z"], **LOGITS)
    assert objective_of(Standard(), natural).loss.item() == pytest.approx(0.3592068245, abs=1e-9)


# --- exact properties


def test_infinite_lambdas_are_plain_adversarial_and_natural_training():
    model = scripted(("pgd",), "kappa")
    at = objective_of(lrat(lam=math.inf), model)
    assert at.loss.item() == pytest.approx(1.1479408815, abs=1e-9)
    natural = objective_of(lrat(lam=-math.inf), scripted(("pgd",), "kappa"))
    assert natural.loss.item() == pytest.approx(0.3592068245, abs=1e-9)


@pytest.mark.parametrize("c", [0.5, 1.0, 1.5])
def test_no_pair_is_lighter_than_the_pair_constant(c):
    weights = torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.9, 0.8]], dtype=torch.float64)
    ones = torch.ones(3, 2, dtype=torch.float64)
    mass = pair_losses(ones, ones[:, 0], weights, pair_constant=c)
    assert mass.tolist() == pytest.approx([max(c, total) for total in (0.0, 0.7, 1.7)])


def net(seed=0):
    """BatchNorm-free, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double().train()


def images(n=8):
    x, y = example_images(n)
    return x.double(), y


def changes_of_the_safest(weights_of):
    """Which example is safest, its weights and the others' as it, its image or label changes."""
    x, y = images()
    before = weights_of(x, y)
    k = int(before.reshape(8, -1).sum(1).argmin())
    new_x, new_y = x.clone(), y.clone()
    new_x[k], new_y[k] = 1.0 - x[k], (y[k] + 1) % 3
    others = torch.arange(8) != k
    all_weights = [before, weights_of(x, new_y), weights_of(new_x, y)]
    return [w[k] for w in all_weights], [w[others] for w in all_weights]


@pytest.mark.parametrize("weight", ["kappa", "hard", "margin"])
def test_another_examples_image_and_label_leave_a_weight_alone(weight):
    defense = lrat(BOTH, weight, crafting=ACTIVE)
    model = Recording().double().train()  # its BatchNorm must not couple the examples either
    own, others = changes_of_the_safest(
        lambda x, y: defense.craft({ROBUST: model}, make_batch(x, y))["weights"]
    )
    assert len(others[0].unique()) > 1
    assert not torch.equal(own[0], own[1])
    assert torch.equal(others[0], others[1])
    assert torch.equal(others[0], others[2])


def test_irats_weights_follow_the_other_examples():
    irat = Irat(ACTIVE, "tanh", 0.0, 1)

    def weights_of(x, y):
        kappa = irat.craft({ROBUST: Recording().double().train()}, make_batch(x, y))["kappa"]
        return normalised(log_geometry_weights(kappa.double(), steps=4, lam=0.0, weight="tanh"))

    _, others = changes_of_the_safest(weights_of)
    assert (others[0] - others[1]).abs().max() > 1e-2


@pytest.mark.parametrize("weight", ["kappa", "hard", "margin"])
def test_the_loss_is_additive_over_instances_and_irats_is_not(weight):
    def loss_of(defense, rows):
        x, y = images()
        batch = make_batch(x[rows], y[rows], ids=rows)
        return step(defense, {ROBUST: net()}, batch).loss.item()

    everything = torch.arange(8)
    parts = everything[:3], everything[3:]
    defense = lrat(BOTH, weight, crafting=ACTIVE)
    split = sum(len(rows) * loss_of(defense, rows) for rows in parts) / 8
    assert loss_of(defense, everything) == pytest.approx(split, abs=1e-12)
    irat = Irat(ACTIVE, "tanh", 0.0, 1)
    split = sum(len(rows) * loss_of(irat, rows) for rows in parts) / 8
    assert abs(loss_of(irat, everything) - split) > 1e-3


@pytest.mark.parametrize("weight", ["kappa", "hard", "margin"])
def test_weights_are_between_0_and_1_and_carry_no_gradient(weight):
    x, y = images()
    crafted = lrat(BOTH, weight, crafting=ACTIVE).craft({ROBUST: net()}, make_batch(x, y))
    assert not any(value.requires_grad for value in crafted.values())
    assert ((crafted["weights"] >= 0) & (crafted["weights"] <= 1)).all()


def test_kappa_weights_fall_with_kappa_and_are_a_half_in_the_middle():
    kappas = torch.arange(11).reshape(1, 11).tolist()
    model = Trajectory(["z"], kappas, 10, y=[0] * 11)
    batch = make_batch(torch.rand(11, 1, 2, 2, dtype=torch.float64), [0] * 11)
    weights = lrat().craft({ROBUST: model}, batch)["weights"][:, 0]
    assert (weights.diff() < 0).all()
    assert weights[5].item() == pytest.approx(0.5, abs=1e-12)


def test_the_margin_weight_is_a_half_where_the_margin_is_the_bias():
    own = 0.7295995351  # sample 1's
    weights = crafted_weights(lrat(weight="margin", bias=own), scripted(("pgd",), "margin"))
    assert weights[0].item() == pytest.approx(0.5, abs=1e-9)
    assert weights[1].item() > 0.999


def test_the_order_of_attacks_does_not_matter():
    x, y = images()
    losses = [
        step(lrat(attacks, crafting=ACTIVE), {ROBUST: net()}, make_batch(x, y)).loss.item()
        for attacks in (BOTH, BOTH[::-1])
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_the_same_variants_twice_count_twice_unless_averaged():
    order, twice = ["z_pgd", "z_pgd", "z"], ["z_pgd", "z_pgd"]
    doubled = objective_of(lrat(BOTH, "hard"), Finals(order, twice, **LOGITS))
    immune, wrong = CE["z"][0], CE["pgd"][1:]
    assert doubled.loss.item() == pytest.approx((immune + 2 * sum(wrong)) / 3, abs=1e-9)
    averaged = lrat(BOTH, "hard", mean_over_attacks=True)
    objective = objective_of(averaged, Finals(order, twice, **LOGITS))
    assert objective.loss.item() == pytest.approx(1.1132868429, abs=1e-9)


@pytest.mark.parametrize(
    ("weight", "slack"),
    [("hard", [0.0, 0.0, 0.0]), ("kappa", [0.0024272253, 0.0, 0.0179408121])],
)
def test_gradients_have_constant_weights(weight, slack):
    model = scripted(BOTH, weight)
    objective_of(lrat(BOTH, weight), model)
    omega = crafted_weights(lrat(BOTH, weight), scripted(BOTH, weight))
    factors = {"z": torch.tensor(slack, dtype=torch.float64), "z_pgd": omega[:, 0]}
    factors["z_cw"] = omega[:, 1]
    for name, factor in factors.items():
        logits = getattr(model, name).detach()
        residual = logits.softmax(1) - nn.functional.one_hot(torch.tensor(Y), 3)
        by_hand = factor[:, None] / 3 * residual
        torch.testing.assert_close(getattr(model, name).grad, by_hand, rtol=0, atol=1e-9)
    assert torch.equal(model.z.grad.abs().sum(1) > 0, torch.tensor(slack) > 0)


# --- attacks


def test_each_attack_has_its_own_start_and_pgds_is_that_of_plain_training():
    x, y = images()
    still = crafting(steps=1, alpha=Fraction(0), start="uniform")
    crafted = lrat(BOTH, crafting=still).craft({ROBUST: net()}, make_batch(x, y))
    assert not torch.equal(crafted["x_adv_pgd"], crafted["x_adv_cw"])
    plain = PgdAt(still).craft({ROBUST: net()}, make_batch(x, y))
    assert torch.equal(crafted["x_adv_pgd"], plain["x_adv"])


def test_cw_ascends_the_margin_up_to_50():
    class Line(nn.Module):
        """Margin 200 (x - 1/2) for label 0."""

        def forward(self, x):
            rise = 200.0 * (x.flatten(1) - 0.5)
            return torch.cat([torch.zeros_like(rise), rise, rise - 1000.0], dim=1)

    x = torch.tensor([0.2, 0.7, 0.8], dtype=torch.float64).reshape(3, 1, 1, 1)
    attack = crafting(steps=3, alpha=Fraction(1, 10), eps=Fraction(1, 2))
    crafted = lrat(BOTH, crafting=attack).craft({ROBUST: Line()}, make_batch(x, [0, 0, 0]))
    # Margins -60, 40, 60 at first; a step adds 20, and cross-entropy never stops.
    assert crafted["x_adv_cw"].flatten().tolist() == pytest.approx([0.5, 0.8, 0.8])
    assert crafted["x_adv_pgd"].flatten().tolist() == pytest.approx([0.5, 1.0, 1.0])


def test_final_variants_are_read_in_eval_mode_which_is_then_undone():
    class Modes(Recording):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    x, y = example_images()
    for weight, passes in (("kappa", 4), ("hard", 5), ("margin", 5)):
        modes = []
        model = Modes().train()
        before = {name: value.clone() for name, value in model.norm.named_buffers()}
        crafted = lrat(weight=weight, crafting=ACTIVE).craft({ROBUST: model}, make_batch(x, y))
        assert modes == [False] * passes
        assert model.training
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert all(torch.equal(before[name], b) for name, b in model.norm.named_buffers())
        if weight == "hard":
            wrong = model.eval()(crafted["x_adv_pgd"]).argmax(1) != y
            assert torch.equal(crafted["weights"][:, 0], wrong.float())


# --- the step


@pytest.mark.parametrize(
    ("attacks", "batchnorm", "epoch", "sizes"),
    [
        (("pgd",), "separate", 2, [8, 8]),
        (BOTH, "separate", 2, [8, 8, 8]),
        (("pgd",), "concat", 2, [16]),
        (BOTH, "concat", 2, [24]),
        (BOTH, "separate", 1, [8, 8]),
        (BOTH, "concat", 1, [16]),
    ],
)
def test_forward_passes_and_batchnorm_updates(attacks, batchnorm, epoch, sizes):
    defense = lrat(attacks, crafting=ACTIVE, batchnorm=batchnorm, begin_epoch=2)
    model, x, updates, _ = one_step(defense, epoch=epoch)
    assert updates == len(sizes)
    assert [len(seen) for seen in model.seen] == sizes
    seen = torch.cat(model.seen)
    plain = PgdAt(ACTIVE)
    assert torch.equal(seen[:8], one_step(plain)[0].seen[0])  # pgd's variants come first
    assert torch.equal(seen[-8:], x) == (epoch == 2)  # and x last, but not while burning in


def test_concatenation_changes_nothing_without_batchnorm():
    x, y = images()
    losses = [
        step(lrat(BOTH, crafting=ACTIVE, batchnorm=bn), {ROBUST: net()}, make_batch(x, y)).loss
        for bn in ("separate", "concat")
    ]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-12)


def test_before_begin_epoch_it_is_the_mean_over_all_variants():
    burning = {"begin_epoch": 30}
    one = scripted(("pgd",), "kappa", order=["z_pgd"])
    loss = objective_of(lrat(**burning), one, epoch=29).loss.item()
    assert loss == pytest.approx(1.1479408815, abs=1e-9)
    both = scripted(BOTH, "kappa", order=["z_pgd", "z_cw"])
    loss = objective_of(lrat(BOTH, **burning), both, epoch=29).loss.item()
    assert loss == pytest.approx(sum(CE["pgd"] + CE["cw"]) / 6, abs=1e-9)
    for begin, epoch in ((30, 30), (0, 1)):
        first = objective_of(lrat(begin_epoch=begin), scripted(("pgd",), "kappa"), epoch=epoch)
        assert first.loss.item() == pytest.approx(1.1102640471, abs=1e-9)


def test_the_recipes_label_loss_is_used_for_variants_and_images():
    objective = objective_of(
        lrat(("pgd",), "hard"), scripted(("pgd",), "hard"), label_loss=CrossEntropy(0.3)
    )
    rows = torch.tensor([Z[0], *Z_ADV[1:]], dtype=torch.float64).log_softmax(1)
    expected = (-0.7 * rows[range(3), Y] - 0.3 * rows.mean(1)).mean().item()
    assert objective.loss.item() == pytest.approx(expected, abs=1e-12)


def test_mean_weights_are_logged_by_attack():
    scalars = objective_of(lrat(BOTH), scripted(BOTH, "kappa")).scalars
    assert not any(value.requires_grad for value in scalars.values())
    assert {name: value.item() for name, value in scalars.items()} == pytest.approx(
        {
            "adv_loss": sum(CE["pgd"] + CE["cw"]) / 6,
            "adv_accuracy_pgd": 1 / 3,
            "adv_accuracy_cw": 2 / 3,
            "mean_weight_pgd": (4.53978687e-5 + 0.9999546021 + 0.9820137900) / 3,
            "mean_weight_cw": (0.9975273768 + 2 * 4.53978687e-5) / 3,
            "clean_loss": 0.3592068245,
        },
        abs=1e-7,
    )


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ()}, "attacks="),
        ({"attacks": ("pgd", "pgd")}, "each once"),
        ({"crafting": crafting(steps=0)}, "at least 1 step"),
        ({"crafting": crafting(steps=10, bn_mode="train")}, "bn_mode='train'"),
        ({"lam": math.nan}, "lam=nan"),
        ({"pair_constant": 0.0}, "pair_constant=0.0"),
        ({"pair_constant": math.inf}, "pair_constant=inf"),
        ({"slope": -1.0}, "slope=-1.0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(lrat(), **changes)


def test_every_text_shown_says_that_it_is_a_reconstruction():
    import robustbench_lite.defenses.methods.lrat as module

    for text in (module.__doc__, Lrat.__doc__, pair_losses.__doc__):
        assert "reconstruction" in text.splitlines()[0]
