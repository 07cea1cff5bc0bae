"""`target=` of `rbl.attack` and of the attack objects, and targeted evaluations from Python."""

import numpy as np
import pytest
import torch
from torch import nn

import robustbench_lite as rbl
from robustbench_lite.attacks.targets import choose_targets

EPS = 0.4
CLASSES = 5
ATTACKS = [
    rbl.PGD(steps=30),
    rbl.APGD(steps=20),
    rbl.APGD("dlr_targeted", steps=20),
    rbl.CW(steps=40, search_steps=5, initial_c=1.0),
    rbl.Square(queries=150),
    "pgd20_ce",
    "apgd_t",
    "fab_t",
    "apgd_random",  # aims by itself
]


@pytest.fixture
def model():
    """Linear, so that every class can be reached."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 5, CLASSES))


@pytest.fixture
def pair(model):
    x = torch.rand(7, 2, 6, 5, generator=torch.Generator().manual_seed(5)) * 0.5 + 0.25
    return x, model(x).argmax(1)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_every_targeted_attack_reaches_the_labels_given(model, pair, attack):
    x, y = pair
    target = (y + 2) % CLASSES
    x_adv = rbl.attack(model, x, y, attack, eps=EPS, target=target)
    assert (model(x_adv).argmax(1) == target).float().mean() >= 6 / 7
    untargeted = rbl.attack(model, x, y, rbl.PGD(steps=30), eps=EPS)
    assert (model(untargeted).argmax(1) != target).any()


@pytest.mark.parametrize("kind", ["least_likely", "random", "next"])
@pytest.mark.parametrize("attack", [rbl.PGD(steps=30), rbl.APGD(steps=20), "apgd_t"], ids=str)
def test_a_rule_aims_where_an_evaluation_aims(model, pair, attack, kind):
    x, y = pair
    place = {"ids": torch.arange(7), "seed": 0, "batch_size": 3}
    target = choose_targets(kind, model, x, y, **place)
    x_adv = rbl.attack(model, x, y, attack, eps=EPS, target=kind, batch_size=3)
    assert torch.equal(model(x_adv).argmax(1), target)


def test_the_object_may_say_it_and_labels_come_in_many_forms(model, pair):
    x, y = pair
    target = (y + 1) % CLASSES
    forms = (target, target.tolist(), target.numpy(), target.int(), "next")
    found = [rbl.attack(model, x, y, rbl.PGD(steps=30, target=one), eps=EPS) for one in forms]
    called = rbl.attack(model, x, y, rbl.PGD(steps=30), eps=EPS, target=target)
    assert all(torch.equal(one, called) for one in found[:4])
    assert all(torch.equal(model(one).argmax(1), target) for one in found)
    one_for_all = rbl.attack(model, x, y, rbl.APGD(steps=20, target=3), eps=EPS)
    assert (model(one_for_all).argmax(1) == 3).all()
    assert torch.equal(one_for_all[y == 3], x[y == 3])


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_image_whose_label_is_its_target_is_left_as_it_is(model, pair, attack):
    x, y = pair
    target = torch.where(torch.arange(7) < 3, y, (y + 1) % CLASSES)
    x_adv = rbl.attack(model, x, y, attack, eps=EPS, target=target)
    assert torch.equal(x_adv[:3], x[:3])
    assert not torch.equal(x_adv[3:], x[3:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "hardest"}, "target='hardest' is unknown; give 'least_likely', 'random', "),
        ({"target": [0, 1]}, r"target has shape \(2,\), but there are 7 images"),
        ({"target": torch.zeros(7, 5).long()}, r"target has shape \(7, 5\)"),
        ({"target": torch.arange(7)}, "target of image 5 is 5, but there are 5 classes, 0 to 4"),
        ({"target": -np.arange(7)}, "target of image 1 is -1"),
        ({"target": torch.zeros(7)}, r"torch.float32; classes are integers: give target.long\(\)"),
        ({"target": [True] * 7}, "torch.bool; classes are integers"),
        ({"target": ["cat"] * 7}, "target is list and makes no tensor"),
        ({"target": "next", "attack": "aa_standard"}, "attack 'aa_standard' cannot aim at a class"),
        ({"target": [0] * 7, "attack": "apgd_ce"}, "attack 'apgd_ce' cannot aim"),
        ({"target": [0] * 7, "attack": rbl.APGD("ce")}, "loss='ce' of APGD knows no target"),
        ({"attack": rbl.APGD(targets=3, target="next")}, "targets=3 must be 1"),
        ({"target": [0] * 7, "attack": rbl.PGD(loss="kl")}, "loss='kl' knows no target"),
        ({"target": "next", "attack": rbl.PGD(target="next")}, "target is given twice"),
    ],
)
def test_what_cannot_be_aimed_is_refused_in_one_line(model, pair, given, message):
    with pytest.raises(rbl.InputError, match=message) as refusal:
        rbl.attack(model, *pair, **{"eps": EPS} | given)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) <= 300


def test_a_targeted_protocol_reports_its_success(model, pair):
    x, y = pair
    report = rbl.evaluate(model, (x, y), rbl.PGD(steps=30, target="least_likely"), eps=EPS)
    (name,) = report.attacks
    assert name == "pgd30_ce_least_likely"
    success = report.targeted_success[name]
    assert success.n == 7
    assert success.correct == 7 - report.robust_accuracy.correct > 0
    assert success.interval[0] <= success <= success.interval[1]
    assert f"{name}: {100 * success:.2f} % of 7 images" in report._repr_html_()
    with pytest.raises(rbl.InputError, match="an evaluation aims by a rule"):
        rbl.evaluate(model, (x, y), rbl.PGD(target=y), eps=EPS)


def test_linf_targeted_is_a_protocol_from_python_too(model, pair):
    report = rbl.evaluate(model, pair, "linf_targeted", eps=0.05, n=3)
    assert set(report.targeted_success) == set(report.attacks)
    (note,) = [line for line in repr(report).splitlines() if line.startswith("  Sequential: ")]
    assert note.endswith("targeted")
    plain = rbl.evaluate(model, pair, rbl.PGD(steps=2), eps=0.05)
    assert plain.targeted_success == {}
