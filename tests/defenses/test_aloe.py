"""ALOE, AOE, OE and ACET: the sheet's worked example, their passes, and what must be equal."""

import dataclasses
from fractions import Fraction

import pytest
import torch
from defense_cases import Recording, Scripted, crafting, example_images, make_batch, step
from torch import nn
from torch.nn import functional

from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.attacks.first_order.pgd_int import pgd_int
from robustbench_lite.attacks.losses import uniform_cross_entropy
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST, Outliers
from robustbench_lite.defenses.label_losses import CrossEntropy
from robustbench_lite.defenses.methods.aloe import Acet, Aloe, IntegerCrafting, Oe
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.methods.standard import Standard

OUTLIERS = Outliers("gaussian", count=0, batch_size=5, seed=0)
INLIER_LOGITS, OUTLIER_LOGITS = [[2.0, 0, -1], [0, 1, 0]], [[5.0, 0, 0], [0, 0, 0]]


def integer_crafting(**changes):
    """The authors' training attack; `changes` override fields."""
    arguments = {
        "eps": Fraction(1, 255),
        "alpha": Fraction(1, 255),
        "steps": 2,
        "rounding": "truncate",
        "bn_mode": "train",
    }
    return IntegerCrafting(**(arguments | changes))


def aloe(**changes):
    """ALOE as the authors train it; `changes` override fields, or those of its crafting."""
    fields = ("outliers", "weight", "attack_inliers", "attack_outliers", "clean_forward")
    own = {key: changes.pop(key) for key in fields if key in changes}
    arguments = {
        "crafting": integer_crafting(**changes),
        "outliers": OUTLIERS,
        "weight": 0.5,
        "attack_inliers": True,
        "attack_outliers": True,
        "clean_forward": True,
    }
    return Aloe(**(arguments | own))


def acet(weight=1.0, **changes):
    """ACET with the published attack; `changes` override fields of its crafting."""
    attack = {"eps": Fraction(8, 255), "alpha": Fraction(2, 255), "steps": 5, "start": "uniform"}
    return Acet(crafting(**(attack | changes)), OUTLIERS, weight)


def real_batch(n=8, m=5, **changes):
    """Images (n, 1, 3, 3), labels, and outliers (m, 1, 3, 3) beside them, all of 8 bits."""
    x, y = example_images(n)
    outliers = torch.rand(m, 1, 3, 3, generator=torch.Generator().manual_seed(4))
    images, outliers = ((z * 255).round() / 255 for z in (x, outliers))
    return make_batch(images, y, outliers=outliers, **changes)


def plain_net(seed=0):
    """A network without BatchNorm, sure enough of itself to be attacked."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 3)).double()


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(200 * x)


def gradients(defense, model, batch):
    """Every parameter's gradient after one step, in train mode."""
    model.train()
    model.zero_grad()
    step(defense, {ROBUST: model}, batch).loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def double(batch):
    """The batch in float64, still of 8 bits."""
    x, o = ((z.double() * 255).round() / 255 for z in (batch.x, batch.outliers))
    return dataclasses.replace(batch, x=x, outliers=o)


def assert_same(first, second, atol=1e-12):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def scripted_loss(defense, order, label_loss=None, **logits):
    model = Scripted(order, **logits).train()
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
    changes = {"outliers": torch.rand(2, 1, 2, 2, dtype=torch.float64)}
    if label_loss is not None:
        changes["label_loss"] = label_loss
    objective = step(defense, {ROBUST: model}, make_batch(x, [0, 1], **changes))
    objective.loss.backward()
    assert model.calls == len(order)
    assert all(not value.requires_grad for value in objective.scalars.values())
    return objective, model


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_the_total_is_the_worked_example(weight):
    mixed = INLIER_LOGITS + OUTLIER_LOGITS
    expected = {0.5: 1.471978, 0.0: 0.360645}[weight]
    still = {"steps": 0, "weight": weight}
    for defense, order in (
        (aloe(clean_forward=False, **still), ["mixed"]),
        (aloe(clean_forward=True, **still), ["mixed", "mixed"]),
        (aloe(clean_forward=False, attack_outliers=False, **still), ["mixed"]),
        (aloe(clean_forward=False, attack_inliers=False, **still), ["mixed"]),
        (Oe(OUTLIERS, weight), ["mixed"]),
    ):
        objective, _ = scripted_loss(defense, order, mixed=mixed)
        assert objective.loss.item() == pytest.approx(expected, abs=1e-6)
        assert objective.scalars["inlier_loss"].item() == pytest.approx(0.360645, abs=1e-6)
        assert objective.scalars["outlier_loss"].item() == pytest.approx(2.222666, abs=1e-6)
        assert objective.scalars["inlier_accuracy"].item() == 1.0


def test_the_first_pass_of_aloe_is_not_trained_on():
    other = [[1.0, 2, 3]] * 4
    objective, model = scripted_loss(
        aloe(steps=0), ["clean", "mixed"], clean=other, mixed=INLIER_LOGITS + OUTLIER_LOGITS
    )
    assert objective.loss.item() == pytest.approx(1.471978, abs=1e-6)
    assert model.clean.grad is None


def test_aoe_takes_its_inlier_term_from_the_second_pass_and_its_outlier_term_from_the_first():
    other = [[1.0, 2, 3]] * 2
    objective, model = scripted_loss(
        aloe(steps=0, attack_outliers=False),
        ["clean", "mixed"],
        clean=other + OUTLIER_LOGITS,
        mixed=INLIER_LOGITS + other,
    )
    assert objective.loss.item() == pytest.approx(1.471978, abs=1e-6)
    assert (model.clean.grad.abs().sum(dim=1) > 0).tolist() == [False, False, True, False]
    assert (model.mixed.grad.abs().sum(dim=1) > 0).tolist() == [True, True, False, False]


def test_the_inlier_term_is_the_recipes_label_loss():
    mixed = INLIER_LOGITS + OUTLIER_LOGITS
    smooth = CrossEntropy(0.3)
    objective, _ = scripted_loss(Oe(OUTLIERS, 0.5), ["mixed"], smooth, mixed=mixed)
    z = torch.tensor(INLIER_LOGITS)
    inlier = functional.cross_entropy(z, torch.tensor([0, 1]), label_smoothing=0.3)
    assert objective.loss.item() == pytest.approx(inlier.item() + 0.5 * 2.222666, abs=1e-6)


def seen_sizes(defense):
    model = Recording().train()
    batch = real_batch()
    step(defense, {ROBUST: model}, batch)
    assert model.training
    assert model.norm.num_batches_tracked == len(model.seen)
    return [len(x) for x in model.seen], model, batch


def test_a_step_of_aloe_has_the_batchnorm_passes_of_the_authors():
    """1 clean mixed, 2 inliers alone, 2 outliers alone, 1 adversarial mixed."""
    sizes, model, batch = seen_sizes(aloe())
    assert sizes == [13, 8, 8, 5, 5, 13]
    assert torch.equal(model.seen[0], torch.cat([batch.x, batch.outliers]))
    assert torch.equal(model.seen[1], batch.x)  # no random start at 1/255
    assert torch.equal(model.seen[3], batch.outliers)
    assert not torch.equal(model.seen[-1][:8], batch.x)
    assert not torch.equal(model.seen[-1][8:], batch.outliers)


@pytest.mark.parametrize(
    ("defense", "sizes"),
    [
        (aloe(clean_forward=False), [8, 8, 5, 5, 13]),
        (aloe(bn_mode="eval"), [13, 13]),
        (aloe(attack_outliers=False), [8, 8, 5, 5, 13, 13]),
        (aloe(attack_outliers=False, clean_forward=False), [8, 8, 13]),
        (aloe(attack_inliers=False), [13, 5, 5, 13]),
        (Oe(OUTLIERS, 0.5), [13]),
        (acet(), [13]),
        (acet(bn_mode="train"), [3] * 6 + [13]),
    ],
)
def test_batchnorm_passes_per_step(defense, sizes):
    assert seen_sizes(defense)[0] == sizes


def test_aoe_forwards_clean_images_first_and_still_crafts_outliers():
    _, model, batch = seen_sizes(aloe(attack_outliers=False))
    clean, mixed = model.seen[-2:]
    assert torch.equal(clean, torch.cat([batch.x, batch.outliers]))
    assert not torch.equal(mixed[8:], batch.outliers)


def test_aloe_with_eps_0_makes_the_updates_of_oe():
    # Float tolerance: nothing differs but the running statistics.
    batch = real_batch()
    first = gradients(aloe(eps=Fraction(0)), Recording().train(), batch)
    assert_same(first, gradients(Oe(OUTLIERS, 0.5), Recording().train(), batch), atol=1e-6)


def test_without_batchnorm_aoe_is_aloe_without_the_outlier_attack():
    batch, net = double(real_batch()), plain_net()
    aoe, lean = (aloe(attack_outliers=False, clean_forward=clean) for clean in (True, False))
    assert_same(gradients(aoe, net, batch), gradients(lean, net, batch))
    # and that is CE on x' and OE on o
    x_adv = aoe.craft({ROBUST: net}, batch)["x_adv"]
    net.zero_grad()
    loss = functional.cross_entropy(net(x_adv), batch.y)
    (loss + 0.5 * uniform_cross_entropy(net(batch.outliers)).mean()).backward()
    assert_same([p.grad for p in net.parameters()], gradients(aoe, net, batch))


def test_without_batchnorm_a_weight_of_0_leaves_standard_and_adversarial_training():
    batch, net = double(real_batch()), plain_net()
    assert_same(gradients(Oe(OUTLIERS, 0.0), net, batch), gradients(Standard(), net, batch))
    assert_same(gradients(acet(0.0), net, batch), gradients(Standard(), net, batch))
    # at 1/255 the authors' start is x itself, and the grid is what PGD walks on anyway
    walk = {"eps": Fraction(1, 255), "alpha": Fraction(1, 255), "steps": 2, "bn_mode": "train"}
    assert_same(
        gradients(aloe(weight=0.0), net, batch), gradients(PgdAt(crafting(**walk)), net, batch)
    )


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_both_attacks_ascend_their_loss(bn_mode):
    batch, net = double(real_batch()), plain_net()
    defense = aloe(eps=Fraction(8, 255), steps=10, rounding="round", bn_mode=bn_mode)
    crafted = defense.craft({ROBUST: net}, batch)
    before, after = (
        functional.cross_entropy(net(x), batch.y, reduction="none")
        for x in (batch.x, crafted["x_adv"])
    )
    assert (after > before).all()
    before, after = (
        uniform_cross_entropy(net(o)) for o in (batch.outliers, crafted["outliers_adv"])
    )
    assert (after > before).all()
    assert all(not x.requires_grad for x in crafted.values())


def test_inliers_and_outliers_are_crafted_each_in_a_batch_of_their_own():
    """In train mode the batch decides the statistics, so it decides the gradient."""
    batch = real_batch()
    defense = aloe(eps=Fraction(4, 255), rounding="round", clean_forward=False)
    crafted = defense.craft({ROBUST: Recording().train()}, batch)
    arguments = {
        "eps": 4 / 255,
        "alpha": 1 / 255,
        "steps": 2,
        "rounding": "round",
        "start": "uniform",
        "seed": 0,
        "mode": "train",
    }
    x_adv = pgd_int(
        Recording(),
        batch.x,
        batch.y,
        loss="ce",
        ids=batch.ids,
        stream="crafting/ce",
        **arguments,
    )
    assert torch.equal(crafted["x_adv"], x_adv)
    o_adv = pgd_int(
        Recording(),
        batch.outliers,
        torch.zeros(5).long(),
        loss="oe",
        ids=torch.arange(5),
        stream="crafting/oe",
        **arguments,
    )
    assert torch.equal(crafted["outliers_adv"], o_adv)


def test_acet_leaves_the_first_half_clean_and_keeps_each_images_best_iterate():
    batch, net = double(real_batch(m=8)), plain_net()
    net[2] = Sine()  # a rugged loss: the last iterate is not the best
    defense = acet(alpha=Fraction(11, 255))
    crafted = defense.craft({ROBUST: net}, batch)["outliers_adv"]
    assert torch.equal(crafted[:4], batch.outliers[:4])
    iterates = torch.stack(
        [
            pgd(
                net,
                batch.outliers[4:],
                torch.zeros(4).long(),
                norm="Linf",
                eps=8 / 255,
                alpha=11 / 255,
                steps=k,
                restarts=1,
                loss="oe",
                start="uniform",
                keep="last",
                ids=torch.arange(4, 8),
                seed=0,
                stream="crafting/oe",
            )
            for k in range(6)
        ]
    )
    losses = torch.stack([uniform_cross_entropy(net(o)) for o in iterates])  # (6, 4)
    best = losses.max(dim=0).values
    torch.testing.assert_close(uniform_cross_entropy(net(crafted[4:])), best, rtol=0, atol=1e-12)
    assert (best > losses[-1] + 1e-6).any()
    assert len(losses.argmax(dim=0).unique()) > 1
    assert (crafted - batch.outliers).abs().max() <= 8 / 255 + 1e-9


def test_acet_is_clean_cross_entropy_plus_oe_of_both_halves():
    mixed = INLIER_LOGITS + OUTLIER_LOGITS
    objective, _ = scripted_loss(acet(0.5, steps=0), ["mixed"], z=mixed, mixed=mixed)
    assert objective.loss.item() == pytest.approx(1.471978, abs=1e-6)


@pytest.mark.parametrize("m", [3, 8, 20])
def test_starts_of_outliers_differ_among_them_and_from_step_to_step(m):
    starts = []
    defense = aloe(steps=0, eps=Fraction(8, 255), rounding="round", clean_forward=False)
    for ids in (torch.arange(8), torch.arange(8, 16)):
        batch = real_batch(m=m, ids=ids)
        crafted = defense.craft({ROBUST: plain_net().float()}, batch)
        starts.append(
            (crafted["outliers_adv"] - batch.outliers) * (batch.outliers - 0.5).abs().lt(0.4)
        )
        inlier_start = crafted["x_adv"] - batch.x
    rows = torch.cat(starts).flatten(1)
    assert len({tuple(row.tolist()) for row in (rows * 255).round()}) == 2 * m
    assert not torch.equal(inlier_start[:3], starts[1][:3])


def test_a_method_says_which_outliers_it_needs():
    for defense in (aloe(), acet(), Oe(OUTLIERS, 0.5)):
        assert defense.outlier_source is OUTLIERS
    assert Standard().outlier_source is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: integer_crafting(eps=Fraction(31, 1000)), r"crafting.eps=0.031 is 7.905/255"),
        (lambda: integer_crafting(alpha=Fraction(1, 100)), r"crafting.alpha=0.01 is 2.55/255"),
        (lambda: integer_crafting(eps=Fraction(8)), r"did you mean 8/255\?"),
        (lambda: aloe(attack_inliers=False, attack_outliers=False), "that is the defense 'oe'"),
        (lambda: aloe(weight=-0.5), "weight=-0.5 must be a number of at least 0"),
        (lambda: Oe(OUTLIERS, -1.0), "weight=-1.0 must be a number of at least 0"),
        (lambda: acet(-1.0), "weight=-1.0 must be a number of at least 0"),
    ],
)
def test_values_that_make_no_method_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
