"""Auto-PGD step by step against the authors' code: every point the network sees is the same.

In float64, since a step by sign or by rank turns the last bit of float32 into another path: theirs
is made to follow by setting the default type. Their start noise is replaced by ours.
"""

import pytest
import torch
from conftest import as_function
from pyautoattack import autopgd_base
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import nn

from robustbench_lite.attacks.autoattack.apgd import ApgdCe, ApgdDlr, ApgdT
from robustbench_lite.core.random_numbers import normal, uniform

SEED, STREAM = 5, "golden"
EPS = {"Linf": 0.03, "L2": 0.2, "L1": 1.0}
MIXED = {"Linf": 0.012, "L2": 0.07, "L1": 0.3}  # breaks some
NORMS = ("Linf", "L2", "L1")
WAYS = (("Linf", False), ("L2", False), ("L1", False), ("L1", True))  # norm, staged_eps


class Recorder(nn.Module):
    """Remembers every batch that the network sees, and what it says.

    With labels it also lifts their logits, out of any attack's reach: runs go on to their end.
    """

    def __init__(self, net, y=None):
        super().__init__()
        self.net, self.seen, self.said = net, [], []
        self.lift = 0.0 if y is None else 3.0 * nn.functional.one_hot(y, 6)

    def forward(self, x):
        self.seen.append(x.detach().clone())
        logits = self.net(x) + self.lift
        self.said.append(logits.detach().argmax(1))
        return logits


class Flicker(Recorder):
    """A network that is another one in every third pass: what averaging over passes is for."""

    def forward(self, x):
        logits = super().forward(x)
        return logits * (1.0 + 0.3 * (len(self.seen) % 3)) + 0.1 * (len(self.seen) % 3) * x.mean()


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def case():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(180, 6)
    )
    x = torch.rand(12, 2, 6, 5)
    x[:, :, 0], x[:, 0, 1] = 0.0, 1.0
    with torch.no_grad():
        net[0].weight *= 4.0
        net[3].bias -= net(x).mean(0)  # so that it predicts every class
    return net, x, net(x).argmax(1), 7 * torch.arange(12) + 3


def noise(norm, x, ids, run):
    place = {"ids": ids, "seed": SEED, "stream": STREAM, "restart": run, "step": 0}
    draw = uniform if norm == "Linf" else normal
    return draw(x.shape, **place).double()


def theirs(monkeypatch, model, x, y, *, norm, eps, steps, start, rank=None, eot=1, staged=False):
    """One run of their attack from given noise (uniform in [0, 1) for Linf), and its result."""
    kind, options = (APGDAttack, {"loss": "ce"}) if rank is None else (APGDAttack_targeted, {})
    eps *= 1.0 if norm == "Linf" else 1.0 - 1e-6  # as our balls are
    attack = kind(model, n_iter=steps, norm=norm, eps=eps, device="cpu", eot_iter=eot, **options)
    attack.init_hyperparam(x)
    with monkeypatch.context() as patch:
        for name in ("rand", "randn", "randn_like"):
            patch.setattr(torch, name, lambda *_, **__: start.clone())
        # x + noise - noise is not x: their count of moved entries would see the rounding.
        patch.setattr(autopgd_base, "L0_norm", lambda d: (d.abs() > 1e-12).flatten(1).sum(1))
        if rank is not None:
            attack.y_target = model.net(x).argsort(dim=1)[:, -2 - rank]
            return run_theirs(attack, x, y, staged)
        attack.loss = model.loss
        return run_theirs(attack, x, y, staged)


def run_theirs(attack, x, y, staged):
    if not staged:
        return attack.attack_single_run(x, y)
    early, eps = -(-3 * attack.n_iter // 10), attack.eps
    return attack.decr_eps_pgd(
        x, y, [3 * eps, 2 * eps, eps], [early, early, attack.n_iter - 2 * early]
    )


def ours(name, model, x, y, ids, *, norm, eps, steps, staged=False, restarts=1, eot=1, **more):
    function = as_function({"ce": ApgdCe, "dlr": ApgdDlr, "t": ApgdT}[name], f"apgd_{name}")
    place = {"ids": ids, "seed": SEED, "stream": STREAM, "batch_size": len(x)}
    options = {"restarts": restarts, "rho": 0.75, "eot": eot, "staged_eps": staged} | more
    return function(model, x, y, norm=norm, eps=eps, steps=steps, **options, **place)


@pytest.mark.parametrize("steps", [7, 100])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize(("norm", "staged"), WAYS)
def test_the_network_sees_the_same_points(monkeypatch, case, norm, loss, steps, staged):
    net, x, y, ids = case
    mine, reference = Recorder(net, y), Recorder(net, y)
    reference.loss = loss
    options = {"norm": norm, "eps": EPS[norm], "steps": steps, "staged": staged}
    x_adv = ours(loss, mine, x, y, ids, **options)
    start = noise(norm, x, ids, 0)
    accurate = theirs(monkeypatch, reference, x, y, start=start, **options)[1]
    assert accurate.all()
    assert torch.equal(x_adv, x)
    same_points(mine.seen[1:], reference.seen, norm)
    assert len(reference.seen) == steps + (3 if staged else 1)


def same_points(mine, reference, norm):
    assert len(mine) == len(reference)
    # For L2 theirs adds 1e-12 to each norm it divides by.
    tolerance = 1e-7 if norm == "L2" else 1e-12
    for one, other in zip(mine, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("norm", "staged"), WAYS)
def test_targets_and_restarts_run_one_after_the_other(monkeypatch, case, norm, staged):
    net, x, y, ids = case
    mine, reference = Recorder(net, y), Recorder(net, y)
    options = {"norm": norm, "eps": EPS[norm], "steps": 12, "staged": staged}
    ours("t", mine, x, y, ids, targets=3, restarts=2, **options)
    for run in range(6):
        start = noise(norm, x, ids, run)
        theirs(monkeypatch, reference, x, y, start=start, rank=run // 2, **options)
    same_points(mine.seen[1:], reference.seen, norm)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_several_passes_are_averaged(monkeypatch, case, norm):
    net, x, y, ids = case
    mine, reference = Flicker(net, y), Flicker(net, y)
    reference.loss = "ce"
    reference.seen, reference.said = [x], [y]  # ours begins with a clean pass
    options = {"norm": norm, "eps": EPS[norm], "steps": 20, "eot": 4}
    ours("ce", mine, x, y, ids, **options)
    theirs(monkeypatch, reference, x, y, start=noise(norm, x, ids, 0), **options)
    same_points(mine.seen[1:], reference.seen[1:], norm)


@pytest.mark.parametrize("name", ["ce", "dlr", "t"])
@pytest.mark.parametrize(("norm", "staged"), WAYS)
def test_the_result_is_their_first_misclassified_point(monkeypatch, case, norm, name, staged):
    net, x, y, ids = case
    reference = Recorder(net)
    reference.loss = name
    options = {"norm": norm, "eps": MIXED[norm], "steps": 40, "staged": staged}
    more = {"targets": 1} if name == "t" else {}
    x_adv = ours(name, net, x, y, ids, **options, **more)
    rank = 0 if name == "t" else None
    start = noise(norm, x, ids, 0)
    accurate = theirs(monkeypatch, reference, x, y, start=start, rank=rank, **options)[1].bool()
    first = 26 if staged else 0  # points of the wider stages do not count
    wrong = torch.stack(reference.said[first:]) != y
    points = torch.stack(reference.seen[first:])
    expected = points[wrong.int().argmax(0), torch.arange(len(x))]
    assert torch.equal(wrong.any(0), ~accurate)
    assert 0 < accurate.sum() < len(x)
    expected[accurate] = x[accurate]
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-7 if norm == "L2" else 1e-12)


class Trap(nn.Module):
    """Fooled at one point of each image alone, which its slope leads away from."""

    def __init__(self, points):
        super().__init__()
        self.points = points

    def forward(self, x):
        at = (x[:, None] - self.points).flatten(2).abs().amax(2).amin(1) < 1e-9  # any of them
        slope = x.flatten(1).sum(1)
        return torch.stack([100.0 + 0.0 * slope, slope + 1000.0 * at], dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_start_that_is_misclassified_is_already_a_success(monkeypatch, case, norm):
    net, x, y, ids = case
    reference = Recorder(net, y)
    reference.loss = "ce"
    start = noise(norm, x, ids, 0)
    theirs(monkeypatch, reference, x, y, norm=norm, eps=EPS[norm], steps=1, start=start)
    trap = Trap(reference.seen[0])
    x_adv = ours("ce", trap, x, 0 * y, ids, norm=norm, eps=EPS[norm], steps=1)
    torch.testing.assert_close(x_adv, reference.seen[0], rtol=0, atol=1e-9)


def test_linf_is_the_same_in_float32_to_the_last_bit(monkeypatch, case):
    monkeypatch.undo()  # float32 again
    torch.set_default_dtype(torch.float32)
    net, x, y, ids = case
    net, x = net.float(), x.float()
    mine, reference = Recorder(net, y), Recorder(net, y)
    reference.loss = "ce"
    options = {"norm": "Linf", "eps": EPS["Linf"], "steps": 100}
    ours("ce", mine, x, y, ids, **options)
    start = noise("Linf", x, ids, 0).float()
    theirs(monkeypatch, reference, x, y, start=start, **options)
    assert all(map(torch.equal, mine.seen[1:], reference.seen))
