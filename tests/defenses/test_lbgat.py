"""BGAT and LBGAT against the method sheet's worked example and exact properties."""

import copy
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from defense_cases import (
    Z_ADV,
    Recording,
    Scripted,
    Y,
    Z,
    crafting,
    example_images,
    make_batch,
    step,
)
from torch import nn

from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.defenses.contract import ROBUST, FrozenNetwork, JointNetwork
from robustbench_lite.defenses.methods import lbgat
from robustbench_lite.defenses.methods.bgat import Bgat
from robustbench_lite.defenses.methods.lbgat import NATURAL, Lbgat, LbgatAlp, LbgatTrades
from robustbench_lite.defenses.methods.standard import Standard

ROBUST_ADV, ROBUST_CLEAN = [[1.0, 0, -1], [0, 2, 1]], [[2.0, 0, -1], [0, 3, 0]]
NATURAL_CLEAN, LABELS = [[3.0, 0, -1], [1, 4, 0]], [0, 1]
MSE, CE, KL = 1.6666666667, 0.0658839038, 0.1292010926
KL_SAMPLES, REVERSED_KL_SAMPLES = [0.0815546794, 0.1768475058], [0.0969990993, 0.2668045073]

ADV_GRADIENT = [[-0.66666667, 0, 0], [-0.33333333, -0.66666667, 0.33333333]]
NATURAL_GRADIENT = [
    [0.63478644, 0.02330631, 0.00857391],
    [0.35663964, 0.63478644, -0.32475942],
]
DETACHED_NATURAL_GRADIENT = [
    [-0.03188022, 0.02330631, 0.00857391],
    [0.02330631, -0.03188022, 0.00857391],
]
ADV_GRADIENT_TRADES_6 = [
    [-1.2023280028, 0.3915998150, 0.1440615211],
    [-0.1990771161, -1.3992727949, 0.9316832443],
]
CLEAN_GRADIENT_TRADES_6 = [
    [0.3954155416, -0.2890719238, -0.1063436178],
    [-0.1173842186, 0.3706039394, -0.2532197208],
]


def plain(inner=None, gamma=1.0):
    return Lbgat(inner or crafting(), "small_cnn", gamma)


def alp(alpha=1.0, inner=None):
    return LbgatAlp(inner or crafting(), "small_cnn", 1.0, alpha)


def trades(alpha=6.0, inner=None, clean_forward=True):
    return LbgatTrades(inner or crafting(), "small_cnn", 1.0, alpha, clean_forward)


def bgat(pairing="none", alpha=0.0, inner=None, teachers=("a",)):
    return Bgat(inner or crafting(), teachers, pairing, alpha)


def passes(defense):
    """Names of the scripted logits that f_R gives in train mode, in turn."""
    once = type(defense) is Lbgat or getattr(defense, "pairing", "") == "none"
    once = once or not getattr(defense, "clean_forward", True)
    return ["z_adv"] if once else ["z_adv", "z"]


def scripted(defense, z_adv=ROBUST_ADV, z=ROBUST_CLEAN, natural=NATURAL_CLEAN):
    """f_R and f_N, or f_R and BGAT's teachers in eval mode, on prescribed logits."""
    networks = {ROBUST: Scripted(passes(defense), z_adv=z_adv, z=z)}
    for role, network in defense.extra_networks.items():
        networks[role] = Scripted(["n"], eval_name="n", n=natural)
        networks[role].train(isinstance(network, JointNetwork))
    return networks


def evaluate(defense, y=LABELS, **logits):
    """(loss, networks with gradients, scalars) of one step on prescribed logits."""
    networks = scripted(defense, **logits)
    batch = make_batch(torch.rand(len(y), 1, 2, 2, dtype=torch.float64), y)
    objective = step(defense, networks, batch)
    objective.loss.backward()
    for network in networks.values():
        # A teacher in eval mode takes nothing from its script.
        assert network.calls == (len(network.order) if network.training else 0)
    assert all(not value.requires_grad for value in objective.scalars.values())
    assert not {"clean_accuracy", "robust_accuracy"} & set(objective.scalars)
    return objective.loss.item(), networks, objective.scalars


def same(gradient, expected, atol):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=atol)


def recording(defense, seed=0):
    """f_R and f_N, or f_R and BGAT's teachers in eval mode, that keep the batches they train on."""
    networks = {ROBUST: Recording(seed)}
    for place, (role, network) in enumerate(defense.extra_networks.items()):
        networks[role] = Recording(seed + 1 + place).train(isinstance(network, JointNetwork))
    return networks


def crafted_by(defense, networks, labels=None, seed=0, n=8):
    x, y = example_images(n)
    batch = make_batch(x, y if labels is None else labels, seed=seed)
    return x, defense.craft(networks, batch)["x_adv"]


# The worked example.


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        (plain(), 1.7325505704),
        (plain(gamma=2.0), MSE + 2 * CE),
        (trades(0.0), 1.7325505704),
        (trades(0.0, clean_forward=False), 1.7325505704),
        (trades(1.0), 1.8617516630),
        (trades(6.0), 2.5077571259),
        (alp(1.0), 2.2325505704),
        (bgat(), 1.6666666667),
        (bgat("alp", 1.0), 2.1666666667),
        (bgat("trades", 0.0), 1.6666666667),
        (bgat("trades", 6.0), 2.4418732222),
    ],
)
def test_losses_are_those_of_the_sheet(defense, expected):
    assert evaluate(defense)[0] == pytest.approx(expected, abs=1e-9)


def test_parts_are_those_of_the_sheet_and_the_guidance_is_a_mean_over_classes():
    scalars = evaluate(trades(6.0))[2]
    assert scalars["guidance"].item() == pytest.approx(MSE, abs=1e-9)  # 5.0 if summed over classes
    assert scalars["natural_loss"].item() == pytest.approx(CE, abs=1e-9)
    assert scalars["kl"].item() == pytest.approx(KL, abs=1e-9)
    assert scalars["adv_accuracy"].item() == scalars["natural_accuracy"].item() == 1.0
    assert evaluate(alp())[2]["pairing"].item() == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("defense", [trades(1.0), bgat("trades", 1.0)])
def test_kl_is_of_clean_to_adversarial_in_each_sample(defense, row):
    logits = {
        "z_adv": ROBUST_ADV[row : row + 1],
        "z": ROBUST_CLEAN[row : row + 1],
        "natural": NATURAL_CLEAN[row : row + 1],
    }
    kl = evaluate(defense, y=[row], **logits)[2]["kl"].item()
    assert kl == pytest.approx(KL_SAMPLES[row], abs=1e-9)
    assert kl != pytest.approx(REVERSED_KL_SAMPLES[row], abs=1e-3)


@pytest.mark.parametrize("defense", [plain(), trades(0.0), trades(0.0, clean_forward=False)])
def test_lbgat_gradients_pull_both_networks(defense):
    networks = evaluate(defense)[1]
    same(networks[ROBUST].z_adv.grad, ADV_GRADIENT, 1e-8)
    same(networks[NATURAL].n.grad, NATURAL_GRADIENT, 1e-8)
    with pytest.raises(AssertionError):
        same(networks[NATURAL].n.grad, DETACHED_NATURAL_GRADIENT, 1e-2)
    clean = networks[ROBUST].z.grad
    assert clean is None or (clean == 0.0).all()


def test_trades_form_gradients_reach_both_sides_of_the_kl():
    networks = evaluate(trades(6.0))[1]
    same(networks[ROBUST].z_adv.grad, ADV_GRADIENT_TRADES_6, 1e-9)
    same(networks[ROBUST].z.grad, CLEAN_GRADIENT_TRADES_6, 1e-9)
    same(networks[NATURAL].n.grad, NATURAL_GRADIENT, 1e-8)


@pytest.mark.parametrize("defense", [alp(1.0), bgat("alp", 1.0)])
def test_logit_pairing_pulls_both_outputs_of_the_robust_network(defense):
    robust = evaluate(defense)[1][ROBUST]
    difference = torch.tensor(ROBUST_ADV).double() - torch.tensor(ROBUST_CLEAN).double()
    pull = 2.0 * difference / 6
    same(robust.z.grad, (-pull).tolist(), 1e-12)
    same(robust.z_adv.grad, (torch.tensor(ADV_GRADIENT) + pull).tolist(), 1e-7)


@pytest.mark.parametrize("defense", [bgat(), bgat("alp", 1.0), bgat("trades", 6.0)])
def test_bgat_gives_its_teacher_no_gradient(defense):
    networks = evaluate(defense)[1]
    assert networks["teacher_0"].n.requires_grad
    assert networks["teacher_0"].n.grad is None
    assert networks[ROBUST].z_adv.grad is not None


def test_bgat_trades_form_gradients_are_those_of_the_learnable_one():
    robust = evaluate(bgat("trades", 6.0))[1][ROBUST]
    same(robust.z_adv.grad, ADV_GRADIENT_TRADES_6, 1e-9)
    same(robust.z.grad, CLEAN_GRADIENT_TRADES_6, 1e-9)


# Exact properties of the sheet, in its order.


def test_without_guidance_the_robust_network_stays_and_the_natural_one_trains_plainly(
    monkeypatch,
):
    monkeypatch.setattr(lbgat, "guidance", lambda a, b: 0.0 * (a - b).square().mean())
    defense = trades(0.0, crafting(steps=2, start="gaussian"))
    networks = recording(defense)
    robust_start, alone = copy.deepcopy(networks[ROBUST]), copy.deepcopy(networks[NATURAL])
    x, y = example_images()
    joint = torch.optim.SGD([p for n in networks.values() for p in n.parameters()], 0.1, 0.9)
    single = torch.optim.SGD(alone.parameters(), 0.1, 0.9)
    for seed in range(3):
        batch = make_batch(x, y, seed=seed)
        for optimizer, method, nets in (
            (joint, defense, networks),
            (single, Standard(), {ROBUST: alone}),
        ):
            optimizer.zero_grad()
            step(method, nets, batch).loss.backward()
            optimizer.step()
        assert all((p.grad == 0.0).all() for p in networks[ROBUST].parameters())
    for ours, start in zip(networks[ROBUST].parameters(), robust_start.parameters(), strict=True):
        assert torch.equal(ours, start)
    assert not torch.equal(networks[ROBUST].norm.running_mean, robust_start.norm.running_mean)
    for name, value in alone.state_dict().items():
        assert torch.equal(networks[NATURAL].state_dict()[name], value), name


@pytest.mark.parametrize("defense", [plain(), trades(0.0)])
def test_when_the_networks_agree_only_the_natural_label_loss_is_left(defense):
    loss, networks, _ = evaluate(defense, z_adv=NATURAL_CLEAN)
    assert loss == pytest.approx(CE, abs=1e-9)
    assert (networks[ROBUST].z_adv.grad == 0.0).all()


def test_tied_networks_give_clean_cross_entropy_with_logit_pairing():
    tied = Scripted(["z_adv", "z"], z_adv=Z_ADV, z=Z)
    batch = make_batch(torch.rand(3, 1, 2, 2, dtype=torch.float64), Y)
    loss = step(plain(), {ROBUST: tied, NATURAL: tied}, batch).loss.item()
    assert loss == pytest.approx(1.0814290467, abs=1e-9)


@pytest.mark.parametrize("form", [trades, alp, lambda alpha: bgat("trades", alpha)])
def test_alpha_enters_linearly(form):
    zero, one, six = (evaluate(form(alpha))[0] for alpha in (0.0, 1.0, 6.0))
    assert six - zero == pytest.approx(6 * (one - zero), abs=1e-12)
    assert one - zero > 0.1


def test_a_shift_of_all_logits_of_both_networks_changes_nothing():
    def shifted(rows):
        return [[logit + 0.7 for logit in row] for row in rows]

    shift = {
        "z_adv": shifted(ROBUST_ADV),
        "z": shifted(ROBUST_CLEAN),
        "natural": shifted(NATURAL_CLEAN),
    }
    for defense in (plain(), alp(), trades(6.0), bgat("trades", 6.0)):
        moved, unmoved = evaluate(defense, **shift)[0], evaluate(defense)[0]
        assert moved == pytest.approx(unmoved, abs=1e-12)
    # of one network alone: where the logits agree, by its square
    agreeing = evaluate(bgat(), z_adv=shifted(NATURAL_CLEAN))[0]
    assert agreeing == pytest.approx(0.7**2, abs=1e-12)


MOVING = {"inner": crafting(steps=3, start="gaussian")}
FORMS = {
    "plain": plain(**MOVING),
    "alp": alp(**MOVING),
    "trades_0": trades(0.0, **MOVING),
    "trades_0_without": trades(0.0, clean_forward=False, **MOVING),
    "trades_6": trades(6.0, **MOVING),
    "bgat": bgat(**MOVING, teachers=("a", "b")),
    "bgat_alp": bgat("alp", 1.0, **MOVING),
    "bgat_trades_0": bgat("trades", 0.0, **MOVING),
    "bgat_trades_6": bgat("trades", 6.0, **MOVING),
}


@pytest.mark.parametrize("form", FORMS)
def test_crafting_ignores_the_natural_network_and_in_trades_forms_the_labels(form):
    defense = FORMS[form]
    networks = recording(defense)
    others = {**recording(defense, seed=50), ROBUST: networks[ROBUST]}
    _, first = crafted_by(defense, networks)
    assert torch.equal(crafted_by(defense, others)[1], first)
    assert torch.equal(crafted_by(defense, {ROBUST: networks[ROBUST]})[1], first)
    _, relabelled = crafted_by(defense, networks, labels=(torch.arange(8) + 1) % 3)
    assert torch.equal(relabelled, first) == ("trades" in form)


@pytest.mark.parametrize("form", FORMS)
def test_crafted_images_stay_inside_and_crafting_leaves_the_networks_alone(form):
    defense = FORMS[form]
    networks = recording(defense)
    before = {role: copy.deepcopy(net.state_dict()) for role, net in networks.items()}
    x, x_adv = crafted_by(defense, networks)
    assert (x_adv - x).abs().max() <= 0.1 + 1e-7
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert not x_adv.requires_grad
    assert networks[ROBUST].training
    for role, network in networks.items():
        assert all(parameter.grad is None for parameter in network.parameters())
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[role][name]), (role, name)


@pytest.mark.parametrize(
    ("form", "robust", "extra"),
    [
        ("plain", 1, [1]),
        ("alp", 2, [1]),
        ("trades_0", 2, [1]),
        ("trades_0_without", 1, [1]),
        ("trades_6", 2, [1]),
        ("bgat", 1, [0, 0]),
        ("bgat_alp", 2, [0]),
        ("bgat_trades_0", 2, [0]),
        ("bgat_trades_6", 2, [0]),
    ],
)
def test_batchnorm_updates_per_step_and_order_of_forwards(form, robust, extra):
    defense = FORMS[form]
    networks = recording(defense)
    x, y = example_images()
    calls = []
    for role, network in networks.items():
        network.register_forward_pre_hook(
            lambda module, inputs, role=role: calls.append((role, torch.equal(inputs[0], x)))
        )
    batch = make_batch(x, y)
    crafted = defense.craft(networks, batch)
    calls.clear()
    before = copy.deepcopy({role: net.norm.state_dict() for role, net in networks.items()})
    defense.objective(networks, batch, crafted)
    updates = [net.norm.num_batches_tracked.item() for net in networks.values()]
    assert updates == [robust, *extra]
    clean = True
    expected = [(ROBUST, not clean), (ROBUST, clean)][:robust]
    assert calls == expected + [(role, clean) for role in defense.extra_networks]
    for role, count in zip(defense.extra_networks, extra, strict=True):
        unmoved = torch.equal(networks[role].norm.running_mean, before[role]["running_mean"])
        assert unmoved == (count == 0)
        assert networks[role].training == (count == 1)


@pytest.mark.parametrize(
    ("form", "graph"),
    [
        ("alp", True),
        ("trades_0", False),
        ("trades_6", True),
        ("bgat_alp", True),
        ("bgat_trades_0", False),
        ("bgat_trades_6", True),
    ],
)
def test_the_clean_forward_has_a_graph_only_where_it_has_weight(form, graph):
    networks, outputs = recording(FORMS[form]), []
    x, y = example_images()
    networks[ROBUST].register_forward_hook(lambda *arguments: outputs.append(arguments[-1]))
    FORMS[form].objective(networks, make_batch(x, y), {"x_adv": x.clone()})
    assert [logits.requires_grad for logits in outputs] == [True, graph]


class OneChannel(nn.Module):
    """BatchNorm of one number an example, then logits."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(1, momentum=0.1), nn.Linear(1, 3)

    def forward(self, x):
        return self.out(self.norm(x))


@pytest.mark.parametrize(
    ("defense", "mean", "variance"),
    [
        (trades(0.0), [0.1, 0.69], [1.1, 1.79]),
        (trades(6.0), [0.1, 0.69], [1.1, 1.79]),
        (alp(), [0.1, 0.69], [1.1, 1.79]),
        (bgat("trades", 0.0), [0.1, 0.69], [1.1, 1.79]),
        (bgat("alp", 1.0), [0.1, 0.69], [1.1, 1.79]),
        (trades(0.0, clean_forward=False), [0.1], [1.1]),
        (plain(), [0.1], [1.1]),
        (bgat(), [0.1], [1.1]),
    ],
)
def test_running_statistics_see_the_adversarial_batch_then_the_clean_one(defense, mean, variance):
    networks = {ROBUST: OneChannel()}
    for role, network in defense.extra_networks.items():
        networks[role] = OneChannel().train(isinstance(network, JointNetwork))
    trail = []
    networks[ROBUST].register_forward_hook(
        lambda module, *_: trail.append((module.norm.running_mean + 0, module.norm.running_var + 0))
    )
    batch = make_batch(torch.tensor([[4.0], [8.0]]), LABELS)
    defense.objective(networks, batch, {"x_adv": torch.tensor([[0.0], [2.0]])})
    assert [m.item() for m, _ in trail] == pytest.approx(mean, abs=1e-6)
    assert [v.item() for _, v in trail] == pytest.approx(variance, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_crafting_starts_at_the_gaussian_noise_of_its_seed(form):
    start = crafting(steps=1, start="gaussian", alpha=Fraction(0))
    defense = replace(FORMS[form], crafting=start)
    networks = recording(defense)
    x, first = crafted_by(defense, networks, n=1200)
    size = (first - x).abs().mean().item()
    assert size == pytest.approx(0.001 * math.sqrt(2 / math.pi), rel=0.03)
    assert not torch.equal(crafted_by(defense, networks, seed=1, n=1200)[1], first)


# BGAT's teachers, and what is refused.


def test_bgat_is_guided_by_the_mean_of_its_teachers_logits():
    defense = bgat(teachers=("runs/a", "digits_standard"))
    assert defense.extra_networks == {
        "teacher_0": FrozenNetwork("runs/a"),
        "teacher_1": FrozenNetwork("digits_standard"),
    }
    networks = scripted(defense)
    networks["teacher_1"] = Scripted([], eval_name="n", n=[[5.0, 2, -1], [1, 0, 0]]).eval()
    batch = make_batch(torch.rand(2, 1, 2, 2, dtype=torch.float64), LABELS)
    mean = torch.tensor([[4.0, 1, -1], [1, 2, 0]])
    expected = (torch.tensor(ROBUST_ADV) - mean).square().mean().item()
    assert step(defense, networks, batch).loss.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("part", ["whole", "norm"])
def test_bgat_refuses_a_teacher_in_train_mode(part):
    defense = bgat(teachers=("a", "b"))
    networks = recording(defense)
    teacher = networks["teacher_1"]
    (teacher if part == "whole" else teacher.norm).train()
    with pytest.raises(InputError, match="'teacher_1' is in train mode"):
        step(defense, networks, make_batch(*example_images()))
    assert teacher.norm.num_batches_tracked == 0


def test_learnable_forms_declare_a_joint_network_and_bgat_plain_labels():
    for defense in (plain(), alp(), trades()):
        assert defense.extra_networks == {NATURAL: JointNetwork("small_cnn")}
        assert defense.required_label_loss is None
    assert bgat().required_label_loss == "cross_entropy"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bgat(teachers=()), "at least one"),
        (lambda: bgat("kl", 1.0), "pairing='kl' is unknown; available: none, alp, trades"),
        (lambda: bgat("none", 1.0), "alpha=1.0 weighs nothing with pairing='none'"),
        (lambda: trades(6.0, clean_forward=False), "clean_forward=false needs alpha=0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# A small run.


def small_digit_net(width, seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 16, 10),
    )


@pytest.fixture(scope="module")
def digits():
    split = load_split("digits", "train")
    return split.images[:600].float() / 255.0, split.labels[:600]


@pytest.mark.parametrize("form", ["plain", "trades_0"])
def test_guidance_alone_teaches_the_robust_network(form, digits):
    inner = crafting(steps=3, start="gaussian", eps=Fraction(1, 20), alpha=Fraction(1, 40))
    defense = replace(FORMS[form], crafting=inner)
    x, y = digits
    networks = {ROBUST: small_digit_net(16, 0), NATURAL: small_digit_net(16, 1)}
    parameters = [p for network in networks.values() for p in network.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    for epoch in range(8):
        order = torch.randperm(400, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(50):
            batch = make_batch(x[rows], y[rows], seed=epoch, classes=10, ids=rows)
            optimizer.zero_grad()
            step(defense, networks, batch).loss.backward()
            optimizer.step()
    held_x, held_y = x[400:], y[400:]
    x_adv = pgd(
        networks[ROBUST].eval(),
        held_x,
        held_y,
        norm="Linf",
        eps=0.05,
        alpha=0.01,
        steps=20,
        restarts=1,
        loss="ce",
        start="uniform",
        keep="last",
        ids=torch.arange(200),
        seed=0,
    )
    with torch.no_grad():
        natural = networks[NATURAL].eval()(held_x).argmax(dim=1)
        robust, attacked = (networks[ROBUST](images).argmax(dim=1) for images in (held_x, x_adv))
    scores = [(p == held_y).float().mean().item() for p in (natural, robust, attacked)]
    assert min(scores) > 0.5  # chance is 0.1
