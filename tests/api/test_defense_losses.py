"""`rbl.losses`: the numbers of the worked examples, and exactly what the trainers minimise."""

import copy
from fractions import Fraction

import pytest
import torch
from defense_cases import Z_ADV, Scripted, Y, Z, crafting, make_batch
from torch import nn

import robustbench_lite as rbl
from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.catalogue import DEFENSES
from robustbench_lite.defenses.contract import ROBUST, Outliers
from robustbench_lite.defenses.label_losses import BalancedSoftmax, CrossEntropy, Focal, Ldam
from robustbench_lite.defenses.methods.aloe import Acet, Aloe, IntegerCrafting, Oe
from robustbench_lite.defenses.methods.alp import Alp
from robustbench_lite.defenses.methods.balanced_softmax import BalancedSoftmaxAt
from robustbench_lite.defenses.methods.bgat import Bgat
from robustbench_lite.defenses.methods.hat import HELPER, Hat
from robustbench_lite.defenses.methods.irat import Irat
from robustbench_lite.defenses.methods.lbgat import NATURAL, Lbgat, LbgatAlp, LbgatTrades
from robustbench_lite.defenses.methods.lrat import Lrat
from robustbench_lite.defenses.methods.mail import MailAt, MailMart, MailTrades
from robustbench_lite.defenses.methods.mart import Mart
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.defenses.methods.random_mask import RandomMaskTraining
from robustbench_lite.defenses.methods.srat import CbReweight, FocalAt, LdamDrw, Srat
from robustbench_lite.defenses.methods.standard import Standard
from robustbench_lite.defenses.methods.trades import Trades

losses = rbl.losses

# --- worked examples: scripted logits, whose images mean nothing


def of_logits(loss, order, y=Y, **logits):
    """The loss of images whose logits are prescribed, in the order in which they are asked for."""
    model = Scripted(order, **(logits or {"z": Z, "z_adv": Z_ADV}))
    x = torch.rand(len(y), 1, 2, 2, dtype=torch.float64)
    value = loss(model, x, torch.tensor(y), x.clone())
    assert value.dtype == torch.float64
    value.backward()
    assert model.calls == len(order)
    return value.item(), model


BOTH = ["z", "z_adv"]


@pytest.mark.parametrize(
    ("loss", "order", "expected"),
    [
        (lambda m, x, y, a: losses.standard(m, x, y), ["z"], 0.3592068245),
        (losses.pgd_at, ["z_adv"], 1.1479408815),
        (losses.trades, BOTH, 2.5307087243),
        (lambda *given: losses.trades(*given, beta=5.0), BOTH, 2.1687917410),
        (losses.mart, BOTH, 2.6794083965),
        (lambda *given: losses.alp(*given, mode="adv", weight=1.0), BOTH, 1.8701631037),
        (lambda *given: losses.alp(*given, mode="separate"), BOTH, 1.1146849641),
        (losses.mail_at, ["z_adv"], 2.0318072668),
        (lambda *given: losses.mail_at(*given, normalization="paper"), ["z_adv"], 2.1093100871),
        (losses.mail_trades, BOTH, 4.5284726071),
        (lambda *given: losses.mail_mart(*given, slope=2.0, bias=0.0), BOTH, 5.0783755929),
        (lambda *given: losses.irat(*given, torch.tensor([10, 0, 3])), ["z_adv"], 1.6706663605),
    ],
)
def test_the_worked_examples(loss, order, expected):
    assert of_logits(loss, order)[0] == pytest.approx(expected, abs=1e-9)


def test_logit_pairing_of_the_paper_smooths_labels_by_its_label_loss():
    both = [*Z, *Z_ADV]

    def smoothed(*given):
        return losses.alp(*given, label_loss=losses.CrossEntropy(0.1))

    assert of_logits(losses.alp, ["z"], z=both)[0] == pytest.approx(1.1146849641, abs=1e-9)
    assert of_logits(smoothed, ["z"], z=both)[0] == pytest.approx(1.2063516308, abs=1e-9)


def guided(loss, alpha=None, trained=True, **options):
    """A loss with a second network, on LBGAT's worked example; and both networks."""
    natural = Scripted(["n"], eval_name="n", n=[[3.0, 0, -1], [1, 4, 0]]).train(trained)
    options |= {"natural": natural} if trained else {"teachers": [natural]}
    options |= {} if alpha is None else {"alpha": alpha}
    order = ["z_adv"] if loss is losses.lbgat or not (trained or alpha) else ["z_adv", "z"]
    value, model = of_logits(
        lambda *given: loss(*given, **options),
        order,
        [0, 1],
        z=[[2.0, 0, -1], [0, 3, 0]],
        z_adv=[[1.0, 0, -1], [0, 2, 1]],
    )
    return value, model, natural


@pytest.mark.parametrize(
    ("loss", "alpha", "trained", "options", "expected"),
    [
        (losses.lbgat, None, True, {}, 1.7325505704),
        (losses.lbgat_trades, 0.0, True, {}, 1.7325505704),
        (losses.lbgat_trades, 6.0, True, {}, 2.5077571259),
        (losses.lbgat_alp, None, True, {}, 2.2325505704),
        (losses.bgat, None, False, {}, 1.6666666667),
        (losses.bgat, 6.0, False, {"pairing": "trades"}, 2.4418732222),
    ],
)
def test_the_worked_examples_of_two_networks(loss, alpha, trained, options, expected):
    value, model, natural = guided(loss, alpha, trained, **options)
    assert value == pytest.approx(expected, abs=1e-9)
    assert model.z_adv.grad is not None
    assert (natural.n.grad is not None) == trained


def test_the_worked_example_of_outliers():
    mixed = [[2.0, 0, -1], [0, 1, -2], [4, 0, 0], [0, 0, 0]]
    outlier_loss = (torch.logsumexp(torch.tensor(mixed[2:]), 1) - torch.tensor([4 / 3, 0])).mean()
    inlier_loss = nn.functional.cross_entropy(torch.tensor(mixed[:2]), torch.tensor([0, 1]))
    for loss in (losses.aloe, losses.oe):
        model = Scripted(["z"], z=mixed)
        x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
        given = (x, x) if loss is losses.oe else (x, x, x)
        value = loss(model, given[0], torch.tensor([0, 1]), *given[1:])
        expected = inlier_loss.item() + 0.5 * outlier_loss.item()
        assert value.item() == pytest.approx(expected, abs=1e-6)


# --- the same as the trainers': loss, gradients and BatchNorm's statistics, to the last bit

TEN = crafting(steps=3, start="uniform")
GRID = IntegerCrafting(Fraction(2, 255), Fraction(1, 255), 2, "round", "eval")
OUTLIERS = Outliers("uniform", 5, 5, 0)
COUNTS = torch.tensor([50, 20, 4])


class Net(nn.Module):
    """A little network with BatchNorm, features, a head and a mask, in float64."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.body, self.head = nn.BatchNorm2d(1), nn.Linear(9, 6), nn.Linear(6, 3)
        self.register_buffer("mask", torch.ones(6))
        self.double()

    def features(self, x):
        return self.mask * self.body(self.norm(x).flatten(1)).tanh()

    def forward(self, x):
        return self.head(self.features(x))


def x_adv(f):
    return lambda m, x, y, c, n: f(m, x, y, c["x_adv"])


def counted(f, **options):
    return lambda m, x, y, c, n: f(m, x, y, c["x_adv"], class_counts=COUNTS, **options)


def lrat_of(weight):
    return Lrat(TEN, ("pgd",), weight, 0.0, 10.0, 0.0, 1.0, False, "separate", 1)


def lrat_loss(weight):
    """The crafting's own kappa is not in `crafted`, so it is counted again, by `rbl.craft`."""

    def loss(m, x, y, c, n):
        kappa, count = losses.steps_resisted(y)
        options = {"eps": 0.1, "alpha": 0.025, "steps": 3, "seed": 5}
        found = rbl.craft(m, x, y, **options, on_step=count)
        assert torch.equal(found, c["x_adv_pgd"])
        return losses.lrat(m, x, y, found, kappa, steps=3, weight=weight)

    return loss


# Defense -> (as trained, with the defaults written out; its loss of what was crafted).
SAME = {
    "standard": (Standard(), lambda m, x, y, c, n: losses.standard(m, x, y)),
    "random_mask": (RandomMaskTraining(), lambda m, x, y, c, n: losses.random_mask(m, x, y)),
    "pgd_at": (PgdAt(TEN), x_adv(losses.pgd_at)),
    "trades": (Trades(TEN, 6.0, False), x_adv(losses.trades)),
    "mart": (Mart(TEN, 5.0, "code"), x_adv(losses.mart)),
    "alp": (Alp(TEN, "mixed", 0.5), x_adv(losses.alp)),
    "bgat": (
        Bgat(TEN, ("a", "b"), "none", 0.0),
        lambda m, x, y, c, n: losses.bgat(
            m, x, y, c["x_adv"], teachers=[n["teacher_0"], n["teacher_1"]]
        ),
    ),
    "lbgat": (
        Lbgat(TEN, "", 1.0),
        lambda m, x, y, c, n: losses.lbgat(m, x, y, c["x_adv"], natural=n[NATURAL]),
    ),
    "lbgat_alp": (
        LbgatAlp(TEN, "", 1.0, 1.0),
        lambda m, x, y, c, n: losses.lbgat_alp(m, x, y, c["x_adv"], natural=n[NATURAL]),
    ),
    "lbgat_trades": (
        LbgatTrades(TEN, "", 1.0, 0.0, True),
        lambda m, x, y, c, n: losses.lbgat_trades(
            m, x, y, c["x_adv"], natural=n[NATURAL], alpha=0.0
        ),
    ),
    "hat": (
        Hat(TEN, "kl", "", 2.5, 0.5, 2.0),
        lambda m, x, y, c, n: losses.hat(m, x, y, c["x_adv"], helper=n[HELPER]),
    ),
    "irat": (
        Irat(TEN, "tanh", -1.0, 1),
        lambda m, x, y, c, n: losses.irat(m, x, y, c["x_adv"], c["kappa"], steps=3),
    ),
    "lrat": (lrat_of("kappa"), lrat_loss("kappa")),
    "lrat margin": (lrat_of("margin"), lrat_loss("margin")),
    "mail_at": (MailAt(TEN, 10.0, -0.5, "code", 1), x_adv(losses.mail_at)),
    "mail_trades": (MailTrades(TEN, 2.0, 0.0, 5.0, "code", 1), x_adv(losses.mail_trades)),
    "mail_mart": (MailMart(TEN, 1.0, -1.5, 5.0, "code", 1), x_adv(losses.mail_mart)),
    "cb_reweight": (
        CbReweight(TEN, "effective_number", 0.9999, 1, "weights"),
        counted(losses.cb_reweight),
    ),
    "focal": (FocalAt(TEN, "none", 0.9999, 1, "weights"), x_adv(losses.focal)),
    "ldam_drw": (
        LdamDrw(TEN, "effective_number", 0.9999, 1, "weights"),
        counted(losses.ldam_drw),
    ),
    "balanced_softmax": (BalancedSoftmaxAt(TEN), counted(losses.balanced_softmax)),
    "srat": (
        Srat(TEN, "effective_number", 0.9999, 1, "weights", 1.0, 0.1, False),
        counted(losses.srat),
    ),
    "aloe": (
        Aloe(GRID, OUTLIERS, 0.5, True, True, False),
        lambda m, x, y, c, n: losses.aloe(m, x, y, c["x_adv"], c["outliers_adv"]),
    ),
    "oe": (Oe(OUTLIERS, 0.5), lambda m, x, y, c, n: losses.oe(m, x, y, outliers())),
    "acet": (
        Acet(TEN, OUTLIERS, 1.0),
        lambda m, x, y, c, n: losses.acet(m, x, y, c["outliers_adv"]),
    ),
}
LABEL_LOSSES = {
    "focal": Focal(2.0),
    "ldam_drw": Ldam(0.5, 30.0),
    "balanced_softmax": BalancedSoftmax(),
}


def images(n, seed):
    """Images (n, 1, 3, 3) of 8 bits in float64."""
    levels = torch.randint(50, 200, (n, 1, 3, 3), generator=torch.Generator().manual_seed(seed))
    return levels.double() / 255


def outliers():
    return images(5, 4)


def networks_of(defense):
    found = {ROBUST: Net(0).train()}
    for place, role in enumerate(defense.extra_networks):
        found[role] = Net(place + 1).train(role == NATURAL)
    return found


def results(loss, networks):
    """The loss, all gradients and all buffers."""
    loss.backward()
    return [
        loss.detach(),
        *(p.grad for net in networks.values() for p in net.parameters() if p.grad is not None),
        *(b for net in networks.values() for b in net.buffers()),
    ]


@pytest.mark.parametrize("name", SAME)
def test_a_loss_is_exactly_that_of_training(name):
    defense, ours = SAME[name]
    x, y = images(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    label_loss = LABEL_LOSSES.get(name, CrossEntropy(0.0))
    changes = {"class_counts": COUNTS, "outliers": outliers(), "label_loss": label_loss}
    batch = make_batch(x, y, seed=5, epoch=1, **changes)
    networks = networks_of(defense)
    crafted = defense.craft(networks, batch)
    copies = copy.deepcopy(networks)
    expected = results(defense.objective(networks, batch, crafted).loss, networks)
    found = results(ours(copies[ROBUST], x, y, crafted, copies), copies)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(net.training == networks[role].training for role, net in copies.items())


def test_every_defense_has_a_loss_and_every_loss_a_test():
    shipped = {name for name, entry in DEFENSES.items() if "robustbench_lite." in entry.target}
    assert shipped <= set(losses.__all__)
    assert {name.split()[0] for name in SAME} == shipped - {"fast_at", "n_fgsm", "free_at", "fat"}
    for name in losses.__all__:
        assert getattr(losses, name).__doc__, name


# --- what comes in


def given(**changes):
    x = torch.rand(3, 1, 3, 3)
    whole = {"model": Net(0).float(), "x": x, "y": torch.tensor([0, 1, 2]), "x_adv": x.clone()}
    return whole | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.zeros(3, 1, 3, 3, dtype=torch.uint8)}, "x is torch.uint8"),
        ({"x": torch.rand(1, 3, 3)}, r"x is torch.float32 \(1, 3, 3\).*image\[None\]"),
        ({"x": torch.rand(0, 1, 3, 3), "y": torch.zeros(0).long()}, r"x is .*\(0, 1, 3, 3\)"),
        ({"y": torch.tensor([0, 1, 3])}, "row 2 has label 3, but there are 3 classes"),
        ({"y": torch.tensor([0, -100, 1])}, "row 1 has label -100"),
        ({"y": torch.tensor([0, 1])}, r"y is torch.int64 \(2,\)"),
        ({"y": torch.eye(3)}, "argmax"),
        ({"y": torch.tensor([0, 1, 2]).int()}, "labels.long"),
        ({"y": [0, 1, 2]}, "y is a list"),
        ({"x_adv": torch.rand(3, 1, 3, 4)}, "x_adv is .* make them alike"),
        ({"x_adv": torch.rand(3, 1, 3, 3).double()}, "x_adv is torch.float64"),
        ({"x_adv": torch.rand(2, 1, 3, 3)}, "x_adv holds 2 images, x holds 3"),
        ({"model": [1]}, "model is a list"),
        ({"model": nn.Flatten(2)}, "must give floating-point logits"),
        ({"beta": -1.0}, "beta=-1.0"),
    ],
)
def test_what_makes_no_loss_is_refused_in_one_line(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        losses.trades(**given(**changes))
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([3, 4], "row 2 has label 2"),
        ([3, 4, 5, 6], "class_counts holds 4 numbers, .* 3 logits"),
        ([3, 0, 4], "class 1 has no training images"),
    ],
)
def test_class_counts_that_fit_nothing_are_refused(counts, words):
    with pytest.raises(InputError, match=words):
        losses.cb_reweight(**given(), class_counts=counts)


def test_class_counts_that_a_loss_needs_are_asked_for():
    with pytest.raises(InputError, match="class_counts is missing"):
        losses.focal(**given(), weights="effective_number")
    assert losses.focal(**given(), weights="effective_number", class_counts=[3, 4, 5]).ndim == 0


@pytest.mark.parametrize("kappa", [torch.tensor([1, 2]), torch.tensor([0, 1, 11]), [1, 2, 3]])
def test_counts_of_another_attack_are_refused(kappa):
    with pytest.raises(InputError, match="kappa must be counts"):
        losses.irat(**given(), kappa=kappa)


class Wrapped(nn.Module):
    """Logits as some libraries return them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return {"logits": self.network(x), "loss": None}


def test_logits_inside_something_else_are_taken_out():
    whole = given()
    expected = losses.trades(**whole)
    assert losses.trades(**(whole | {"model": Wrapped(whole["model"])})).item() == expected.item()


def test_half_precision_passes_give_a_float32_loss():
    whole = given()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.trades(**whole)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in whole["model"].parameters())
