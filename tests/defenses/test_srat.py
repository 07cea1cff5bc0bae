"""SRAT and the baselines beside it: weights, separation, switches, in float64 where it counts."""

import math
from fractions import Fraction

import pytest
import torch
from defense_cases import Recording, Scripted, crafting, example_images, make_batch, step
from torch import nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.catalogue import DEFENSES
from robustbench_lite.defenses.class_balance import check_no_class_is_empty, class_weights
from robustbench_lite.defenses.contract import ROBUST
from robustbench_lite.defenses.label_losses import CrossEntropy, Encouraging, Focal, Ldam
from robustbench_lite.defenses.methods import srat
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.methods.srat import (
    CbReweight,
    ClassBalanced,
    FocalAt,
    LdamDrw,
    Srat,
    separations,
)
from robustbench_lite.models import build_model

STEP_100 = torch.tensor([5000] * 5 + [50] * 5)
STEP_10 = torch.tensor([5000] * 5 + [500] * 5)
EXP_100 = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])


def class_balanced(kind=ClassBalanced, **changes):
    """Inverse-frequency weights from the start; `changes` override fields."""
    arguments = {
        "crafting": crafting(),
        "weights": "inverse_frequency",
        "beta": 0.0,
        "begin_epoch": 1,
        "divisor": "weights",
    }
    return kind(**(arguments | changes))


def srat_with(**changes):
    arguments = {"separation": 1.0, "temperature": 1.0, "positives_only_mean": False}
    return class_balanced(Srat, **(arguments | changes))


def close(tensor, numbers, tolerance):
    expected = torch.tensor(numbers, dtype=torch.float64)
    torch.testing.assert_close(tensor, expected, rtol=0, atol=tolerance)


# --- class weights


@pytest.mark.parametrize(
    ("counts", "kind", "beta", "head", "tail", "ratio"),
    [
        (STEP_100, "effective_number", 0.0, 1.0, 1.0, 1.0),
        (STEP_100, "effective_number", 0.99, 0.566302, 1.433698, 2.5317),
        (STEP_100, "effective_number", 0.999, 0.093649, 1.906351, 20.3564),
        (STEP_100, "effective_number", 0.9999, 0.025034, 1.974966, 78.8899),
        (STEP_100, "inverse_frequency", 0.0, 0.019802, 1.980198, 100.0),
        (STEP_10, "effective_number", 0.9999, 0.220564, 1.779436, 8.0677),
        (STEP_100, "none", 0.9999, 1.0, 1.0, 1.0),
    ],
)
def test_class_weights_of_step_imbalance(counts, kind, beta, head, tail, ratio):
    weights = class_weights(counts, kind, beta=beta)
    close(weights, [head] * 5 + [tail] * 5, 1e-6)
    assert (weights[9] / weights[0]).item() == pytest.approx(ratio, abs=1e-4)
    assert weights.sum().item() == pytest.approx(10.0, abs=1e-12)


def test_class_weights_of_a_long_tail():
    weights = class_weights(EXP_100, "effective_number", beta=0.9999)
    expected = [0.050611, 0.076900, 0.121134, 0.195037, 0.318805]
    expected += [0.524590, 0.868349, 1.442627, 2.409223, 3.992724]
    close(weights, expected, 1e-6)


def test_effective_numbers_tend_to_the_inverse_frequency():
    near = class_weights(EXP_100, "effective_number", beta=1.0 - 1e-10)
    limit = class_weights(EXP_100, "inverse_frequency", beta=0.0)
    torch.testing.assert_close(near, limit, rtol=1e-5, atol=0)


def test_a_class_without_images_is_named_and_only_plain_weights_do_without():
    with pytest.raises(InputError, match="class 2 has no training images"):
        check_no_class_is_empty(torch.tensor([3, 1, 0, 0]))
    check_no_class_is_empty(torch.tensor([1, 1]))
    assert class_weights(torch.tensor([3, 0]), "none", beta=0.9).tolist() == [1.0, 1.0]


# --- reduction and deferral

LOGITS, LABELS = [[2.0, 0], [0, 1], [1, 1]], [0, 0, 1]
COUNTS = torch.tensor([3, 1])  # whose inverse-frequency weights are 0.5 and 1.5


def reduced(defense, *, epoch=1, label_loss=None):
    """Objective of one step on the prescribed logits, and the network."""
    model = Scripted(["z_adv"], z=LOGITS, z_adv=LOGITS)
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    changes = {"class_counts": COUNTS, "label_loss": label_loss or CrossEntropy(0.0)}
    batch = make_batch(x, LABELS, epoch=epoch, **changes)
    return step(defense, {ROBUST: model}, batch), model


@pytest.mark.parametrize(("divisor", "loss"), [("weights", 0.703926), ("batch", 0.586605)])
def test_weighted_losses_are_divided_by_what_the_recipe_says(divisor, loss):
    objective, _ = reduced(class_balanced(divisor=divisor))
    assert objective.loss.item() == pytest.approx(loss, abs=1e-6)
    assert objective.scalars["mean_weight"].item() == pytest.approx(2.5 / 3, abs=1e-12)
    assert objective.scalars["adv_loss"].item() == objective.loss.item()
    assert objective.scalars["adv_accuracy"].item() == pytest.approx(1 / 3)
    assert not any(value.requires_grad for value in objective.scalars.values())


def test_each_label_s_weight_scales_its_own_gradient():
    objective, model = reduced(class_balanced(divisor="batch"))
    objective.loss.backward()
    p = torch.tensor(LOGITS, dtype=torch.float64).softmax(dim=1)
    errors = p - nn.functional.one_hot(torch.tensor(LABELS), 2)
    weights = torch.tensor([[0.5], [0.5], [1.5]], dtype=torch.float64)
    torch.testing.assert_close(model.z_adv.grad, weights * errors / 3)


@pytest.mark.parametrize(
    "label_loss", [CrossEntropy(0.1), Encouraging(1.0), Focal(2.0), Ldam(0.5, 30.0)]
)
def test_weights_stay_outside_of_every_label_loss(label_loss):
    z, y = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)
    losses = label_loss.per_example(z, y, COUNTS).tolist()
    expected = (0.5 * losses[0] + 0.5 * losses[1] + 1.5 * losses[2]) / 3
    for divisor, scale in (("batch", 1.0), ("weights", 3 / 2.5)):
        objective, _ = reduced(class_balanced(divisor=divisor), label_loss=label_loss)
        assert objective.loss.item() == pytest.approx(scale * expected, abs=1e-12)


# --- the authors' codes, written out

WEIGHTS = torch.tensor([0.5, 1.5], dtype=torch.float64)


def cross_entropy_of_torch(z, y):
    return nn.functional.cross_entropy(z, y, weight=WEIGHTS)


def ldam_of_the_public_code(z, y):
    """LDAM-DRW's LDAMLoss: margins on the label's logit, times s, then torch's weighted mean."""
    margins = 1.0 / COUNTS.double().sqrt().sqrt()
    margins = margins * (0.5 / margins.max())
    own = nn.functional.one_hot(y, 2).bool()
    return nn.functional.cross_entropy(
        30.0 * torch.where(own, z - margins[y][:, None], z), y, weight=WEIGHTS
    )


def focal_written_out(z, y):
    p = z.softmax(dim=1)[torch.arange(len(y)), y]
    return (WEIGHTS[y] * (1 - p) ** 2 * -p.log()).sum() / WEIGHTS[y].sum()


@pytest.mark.parametrize(
    ("kind", "label_loss", "written_out"),
    [
        (CbReweight, CrossEntropy(0.0), cross_entropy_of_torch),
        (LdamDrw, Ldam(0.5, 30.0), ldam_of_the_public_code),
        (FocalAt, Focal(2.0), focal_written_out),
    ],
)
def test_loss_and_gradient_are_those_of_the_formula_over_the_weights(kind, label_loss, written_out):
    objective, model = reduced(class_balanced(kind), label_loss=label_loss)
    objective.loss.backward()
    z = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    expected = written_out(z, torch.tensor(LABELS))
    expected.backward()
    torch.testing.assert_close(objective.loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(model.z_adv.grad, z.grad, rtol=1e-12, atol=1e-15)


def test_over_the_batch_the_focal_loss_is_class_balanced_focal_as_published():
    """Cui et al.'s code divides the weighted sum by the number of labels in the batch."""
    objective, _ = reduced(class_balanced(FocalAt, divisor="batch"), label_loss=Focal(2.0))
    z = torch.tensor(LOGITS, dtype=torch.float64)
    expected = focal_written_out(z, torch.tensor(LABELS)) * 2.5 / 3
    torch.testing.assert_close(objective.loss.detach(), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    "label_loss", [CrossEntropy(0.0), Encouraging(1.0), Focal(2.0), Ldam(0.5, 30.0)]
)
@pytest.mark.parametrize("factor", [1 / 64, 8.0])  # powers of two: exact
def test_the_scale_of_the_weights_changes_nothing(monkeypatch, factor, label_loss):
    def step_scaled(scale):
        weights = class_weights(COUNTS, "inverse_frequency", beta=0.0)
        monkeypatch.setattr(srat, "class_weights", lambda *a, **k: scale * weights)
        objective, model = reduced(class_balanced(), label_loss=label_loss)
        objective.loss.backward()
        return objective.loss.detach(), model.z_adv.grad

    assert all(map(torch.equal, step_scaled(factor), step_scaled(1.0)))


def step_100_batch(epoch):
    """128 images as they fall from a step of 100, all with the same features and logits."""
    y = torch.tensor([0, 1, 2, 3, 4] * 25 + [0, 1, 9])
    model = Featured([[1.0, 0.0]] * 128, [[0.0] * 10] * 128)
    x = torch.rand(128, 1, 2, 2, dtype=torch.float64)
    return model, make_batch(x, y, epoch=epoch, class_counts=STEP_100)


@pytest.mark.parametrize(
    ("divisor", "jump"), [("weights", 1.0), ("batch", 128 / (127 * 0.025034 + 1.974966))]
)
def test_the_terms_of_srat_keep_their_ratio_when_the_weights_begin(divisor, jump):
    defense = srat_with(
        weights="effective_number", beta=0.9999, begin_epoch=161, temperature=0.1, divisor=divisor
    )

    def ratio(epoch):
        model, batch = step_100_batch(epoch)
        scalars = step(defense, {ROBUST: model}, batch).scalars
        return (scalars["separation"] / scalars["adv_loss"]).item()

    assert ratio(161) / ratio(160) == pytest.approx(jump, rel=1e-4)


@pytest.mark.parametrize("kind", [class_balanced, srat_with])
def test_weights_are_exactly_one_before_their_first_epoch(kind):
    def at(epoch):
        objective = kind(begin_epoch=161)
        model = Featured(LOGITS, LOGITS)
        batch = make_batch(
            torch.rand(3, 1, 2, 2, dtype=torch.float64), LABELS, epoch=epoch, class_counts=COUNTS
        )
        return step(objective, {ROBUST: model}, batch).scalars

    plain = nn.functional.cross_entropy(
        torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)
    )
    for epoch in (1, 160):
        assert at(epoch)["mean_weight"].item() == 1.0
        assert at(epoch)["adv_loss"].item() == pytest.approx(plain.item(), abs=1e-15)
    for epoch in (161, 400):
        assert at(epoch)["mean_weight"].item() == pytest.approx(2.5 / 3)
        assert at(epoch)["adv_loss"].item() == pytest.approx(0.703926, abs=1e-6)


# --- separation

FEATURES = [[1.0, 0], [0.6, 0.8], [0, 1], [-1, 0]]
PAIRS = torch.tensor([0, 0, 1, 1])


def rows(features, y=PAIRS, temperature=1.0):
    features = torch.as_tensor(features, dtype=torch.float64)
    return separations(features, torch.as_tensor(y), temperature=temperature)[0]


@pytest.mark.parametrize(
    ("temperature", "expected", "mean"),
    [
        (1.0, [0.560020, 0.925289, 1.441147, 0.650600], 0.894264),
        (0.5, [0.294129, 0.948774, 1.939178, 0.362230], 0.886078),
        (0.1, [0.002476, 2.126928, 8.000670, 0.002521], 2.533149),
    ],
)
def test_separation_gives_the_worked_examples(temperature, expected, mean):
    close(rows(FEATURES, temperature=temperature), expected, 1e-6)
    assert rows(FEATURES, temperature=temperature).mean().item() == pytest.approx(mean, abs=1e-6)


def test_an_image_alone_of_its_class_contributes_nothing():
    losses, has_positive = separations(
        torch.tensor(FEATURES[:3], dtype=torch.float64), torch.tensor([0, 0, 1]), temperature=1.0
    )
    close(losses, [0.437488, 0.798139, 0.0], 1e-6)
    assert has_positive.tolist() == [True, True, False]


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0, 3.0])
def test_equal_features_give_the_logarithm_of_the_others_and_no_gradient(temperature):
    features = torch.tensor([[3.0, 4.0]] * 4, dtype=torch.float64, requires_grad=True)
    losses, _ = separations(features, PAIRS, temperature=temperature)
    close(losses.detach(), [math.log(3)] * 4, 1e-12)
    losses.sum().backward()
    assert features.grad.abs().max() < 1e-12


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.239545), (0.1, 4.12e-9)])
def test_antipodal_classes_are_nearly_separated(temperature, expected):
    losses = rows([[1.0, 0], [1, 0], [-1, 0], [-1, 0]], temperature=temperature)
    close(losses, [expected] * 4, 1e-6 if temperature == 1.0 else 5e-12)


def random_features(n=9, d=5):
    generator = torch.Generator().manual_seed(7)
    y = torch.tensor([0, 1, 2, 0, 1, 0, 3, 0, 1])
    return torch.randn(n, d, generator=generator, dtype=torch.float64), y


def test_permuting_the_batch_permutes_the_rows():
    features, y = random_features()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rows(features[order], y[order]), rows(features, y)[order])


def test_separation_ignores_the_length_of_features_and_their_rotation():
    features, y = random_features()
    scales = torch.logspace(-3, 3, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(rows(features * scales, y), rows(features, y))
    rotation, _ = torch.linalg.qr(random_features(5)[0][:5])
    torch.testing.assert_close(rows(features @ rotation, y), rows(features, y))


def test_separation_is_its_formula_with_several_positives():
    features, y = random_features()
    z = features / features.norm(dim=1, keepdim=True)
    expected = []
    for i in range(9):
        others = [a for a in range(9) if a != i]
        total = sum(math.exp(z[i] @ z[a] / 0.3) for a in others)
        positives = [a for a in others if y[a] == y[i]]
        terms = [-math.log(math.exp(z[i] @ z[p] / 0.3) / total) for p in positives]
        expected.append(sum(terms) / max(len(terms), 1))
    close(rows(features, y, temperature=0.3), expected, 1e-12)


def test_no_side_of_the_separation_is_detached():
    features, y = random_features()
    assert torch.autograd.gradcheck(
        lambda raw: separations(raw, y, temperature=0.5)[0].sum(), features.requires_grad_()
    )


# --- the whole objective


class Featured(nn.Module):
    """Gives prescribed features, which carry the prescribed logits; counts its forwards."""

    def __init__(self, features, logits):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(features, dtype=torch.float64))
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))
        self.calls = []

    def features(self, x):
        assert not self.training or len(self.calls) == 0, "one forward pass a step"
        if self.training:
            self.calls.append(x)
        return self.raw

    def head(self, features):
        return self.logits + 0.0 * features.sum()

    def forward(self, x):
        return self.head(self.features(x))


FOUR_LOGITS = [[2.0, 0], [0, 1], [1, 1], [0, 3]]


def srat_step(defense, y=(0, 0, 1, 1)):
    n = len(y)
    model = Featured(FEATURES[:n], FOUR_LOGITS[:n])
    x = torch.rand(n, 1, 2, 2, dtype=torch.float64)
    objective = step(defense, {ROBUST: model}, make_batch(x, list(y), class_counts=COUNTS))
    assert len(model.calls) == 1
    return objective, model


def test_srat_adds_lambda_times_the_mean_separation():
    base, _ = srat_step(class_balanced())
    for strength, temperature, mean in ((1.0, 1.0, 0.894264), (0.5, 0.1, 2.533149)):
        defense = srat_with(separation=strength, temperature=temperature)
        objective, _ = srat_step(defense)
        added = (objective.loss - base.loss).item()
        assert added == pytest.approx(strength * mean, abs=1e-6)
        assert objective.scalars["separation"].item() == pytest.approx(mean, abs=1e-6)
        for name, value in base.scalars.items():
            assert objective.scalars[name].item() == value.item()
        assert not any(value.requires_grad for value in objective.scalars.values())


@pytest.mark.parametrize(("positives_only", "mean"), [(False, 0.411876), (True, 0.617813)])
def test_images_without_a_positive_stay_in_the_mean_unless_asked(positives_only, mean):
    objective, _ = srat_step(srat_with(positives_only_mean=positives_only), y=(0, 0, 1))
    assert objective.scalars["separation"].item() == pytest.approx(mean, abs=1e-6)
    assert objective.scalars["anchors_with_positive"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("positives_only", [False, True])
def test_a_batch_of_strangers_has_no_separation(positives_only):
    objective, model = srat_step(srat_with(positives_only_mean=positives_only), y=(0, 1))
    objective.loss.backward()
    assert objective.scalars["separation"].item() == 0.0
    assert objective.scalars["anchors_with_positive"].item() == 0.0
    assert model.raw.grad.abs().max() == 0.0


def test_the_label_loss_moves_logits_and_the_separation_features():
    objective, model = srat_step(srat_with(separation=0.7))
    objective.loss.backward()
    base, plain = srat_step(class_balanced())
    base.loss.backward()
    assert torch.equal(model.logits.grad, plain.logits.grad)
    raw = torch.tensor(FEATURES, dtype=torch.float64, requires_grad=True)
    (0.7 * rows(raw).mean()).backward()
    assert raw.grad.abs().max() > 0.01
    torch.testing.assert_close(model.raw.grad, raw.grad)


class FeaturedRecording(Recording):
    """A network with BatchNorm, features and a head, whose logits are head(features(x))."""

    def features(self, x):
        self.seen.append(x.detach().clone())
        return self.norm(x).flatten(1)

    def head(self, features):
        return self.out(features)

    def forward(self, x):
        return self.head(self.features(x))


def test_both_terms_reach_the_weights_below_the_features():
    def slope(strength):
        model = FeaturedRecording().train()
        batch = make_batch(*example_images(), class_counts=torch.tensor([9, 3, 1]))
        step(srat_with(separation=strength), {ROBUST: model}, batch).loss.backward()
        return torch.cat([model.norm.weight.grad, model.norm.bias.grad])

    torch.testing.assert_close(2 * slope(1.0) - slope(2.0), slope(0.0))
    assert (slope(2.0) - slope(1.0)).abs().max() > 0.01


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_one_forward_of_the_crafted_batch_a_step(strength):
    attack = crafting(steps=3, start="uniform")
    model = FeaturedRecording().train()
    batch = make_batch(*example_images())
    defense = srat_with(separation=strength, crafting=attack)
    crafted = defense.craft({ROBUST: model}, batch)
    model.seen.clear()
    before = model.norm.num_batches_tracked.item()
    defense.objective({ROBUST: model}, batch, crafted)
    assert model.norm.num_batches_tracked.item() == before + 1
    (seen,) = model.seen
    assert torch.equal(seen, crafted["x_adv"])
    assert not torch.equal(seen, batch.x)
    assert model.training


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_built_in_networks_have_what_srat_needs(head):
    facts = {"num_classes": 3, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}
    model = build_model("small_cnn", **facts, head=head)
    y = torch.arange(6) % 3
    batch = make_batch(torch.rand(6, 1, 8, 8), y, label_loss=Ldam(0.5, 30.0))
    step(srat_with(crafting=crafting(**ATTACK)), {ROBUST: model}, batch).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_lambda_zero_never_computes_the_separation(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the separation was computed")

    monkeypatch.setattr(srat, "separations", refuse)
    batch = make_batch(*example_images())
    network = Recording().train()  # which has neither features nor head
    objective = step(srat_with(separation=0.0), {ROBUST: network}, batch)
    assert set(objective.scalars) == {"adv_loss", "adv_accuracy", "mean_weight"}
    with pytest.raises(AssertionError, match="was computed"):
        step(srat_with(), {ROBUST: FeaturedRecording().train()}, batch)


def test_separation_needs_a_network_with_features_and_head():
    batch = make_batch(*example_images())
    with pytest.raises(InputError, match=r"logits are head\(features\(x\)\), and Recording does"):
        step(srat_with(), {ROBUST: Recording().train()}, batch)


# --- crafting and switches


def training_run(defense, steps=4):
    """Parameters and losses after some updates by SGD with momentum, on batches of their own."""
    model = FeaturedRecording().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for number in range(steps):
        x, y = example_images()
        counts = torch.tensor([50, 7, 3])
        batch = make_batch(x.roll(number, 0), y, seed=number, epoch=2, class_counts=counts)
        objective = step(defense, {ROBUST: model}, batch)
        optimizer.zero_grad()
        objective.loss.backward()
        optimizer.step()
        losses.append(objective.loss.item())
    return model.state_dict(), losses


ATTACK = {"steps": 3, "start": "uniform"}
OFF = {"crafting": crafting(**ATTACK), "separation": 0.0}


@pytest.mark.parametrize(
    "defense",
    [
        class_balanced(crafting=crafting(**ATTACK), weights="none"),
        class_balanced(crafting=crafting(**ATTACK), weights="effective_number"),  # beta = 0
        class_balanced(CbReweight, crafting=crafting(**ATTACK), begin_epoch=3),
        srat_with(weights="none", **OFF),
        srat_with(begin_epoch=3, **OFF),
    ],
)
def test_all_switched_off_is_pgd_adversarial_training_step_for_step(defense):
    expected, expected_losses = training_run(PgdAt(crafting(**ATTACK)))
    state, losses = training_run(defense)
    assert losses == expected_losses
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "changes", [{"weights": "inverse_frequency"}, {"weights": "none", "separation": 1.0}]
)
def test_each_switch_changes_the_training(changes):
    expected, _ = training_run(PgdAt(crafting(**ATTACK)))
    state, _ = training_run(srat_with(**{**OFF, **changes}))
    assert not torch.equal(state["out.weight"], expected["out.weight"])


@pytest.mark.parametrize(
    "label_loss", [CrossEntropy(0.1), Encouraging(0.5), Focal(2.0), Ldam(0.5, 30.0)]
)
def test_crafting_is_plain_cross_entropy_whatever_the_label_loss_and_weights(label_loss):
    counts, networks = torch.tensor([50, 7, 3]), {ROBUST: Recording().train()}
    x, y = example_images()
    plain = PgdAt(crafting(**ATTACK)).craft(networks, make_batch(x, y))["x_adv"]
    batch = make_batch(x, y, class_counts=counts, label_loss=label_loss)
    for defense in (class_balanced(crafting=crafting(**ATTACK)), srat_with(**OFF)):
        assert torch.equal(defense.craft(networks, batch)["x_adv"], plain)


def test_positive_weights_inside_the_attack_would_change_nothing():
    """PGD written out with weighted cross-entropy ends at the tensor that was crafted."""
    attack = crafting(steps=4, eps=Fraction(1, 10), alpha=Fraction(1, 40))
    model, (x, y) = Recording().eval(), example_images()
    weights = class_weights(torch.tensor([5000, 60, 3]), "effective_number", beta=0.9999)[y]
    x_adv = x.clone()
    for _ in range(4):
        x_adv.requires_grad_(True)
        losses = nn.functional.cross_entropy(model(x_adv), y, reduction="none")
        (gradient,) = torch.autograd.grad((weights * losses).sum(), x_adv)
        x_adv = (x_adv + float(attack.alpha) * gradient.sign()).detach()
        x_adv = torch.minimum(torch.maximum(x_adv, x - 0.1), x + 0.1).clamp(0, 1)
    crafted = class_balanced(crafting=attack).craft({ROBUST: model}, make_batch(x, y))["x_adv"]
    assert torch.equal(crafted, x_adv)
    assert not torch.equal(crafted, x)


# --- names and ranges


def test_baselines_are_registered_and_say_which_label_loss_makes_them():
    by_name = {"cb_reweight": CbReweight, "focal": FocalAt, "ldam_drw": LdamDrw, "srat": Srat}
    assert {name: DEFENSES.load(name) for name in by_name} == by_name
    needed = {name: kind.required_label_loss for name, kind in by_name.items()}
    assert needed == {
        "cb_reweight": "cross_entropy",
        "focal": "focal",
        "ldam_drw": "ldam",
        "srat": None,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta": 1.0}, "defense.beta=1.0"),
        ({"beta": -0.1}, "defense.beta=-0.1"),
        ({"begin_epoch": 0}, "defense.begin_epoch=0"),
        ({"separation": -1.0}, "defense.separation=-1.0"),
        ({"separation": math.nan}, "defense.separation=nan"),
        ({"temperature": 0.0}, "defense.temperature=0.0"),
        ({"temperature": math.inf}, "defense.temperature=inf"),
    ],
)
def test_constants_out_of_range_are_named(changes, words):
    with pytest.raises(InputError, match=f"{words} must be"):
        srat_with(**changes)
