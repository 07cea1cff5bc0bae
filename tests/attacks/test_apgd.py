"""Auto-PGD: exact verdicts, the ball, independence of the batch, and what it leaves alone."""

import itertools
from fractions import Fraction

import pytest
import torch
from conftest import LinearBinary, as_function, small_net
from torch import nn

import robustbench_lite.attacks.autoattack.apgd as apgd_module
from robustbench_lite.attacks.autoattack.apgd import ApgdCe, ApgdDlr, ApgdT
from robustbench_lite.attacks.losses import targeted_dlr, targeted_margin
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.errors import InputError

KINDS = {"apgd_ce": ApgdCe, "apgd_dlr": ApgdDlr, "apgd_t": ApgdT}
ATTACKS = {name: as_function(kind, name) for name, kind in KINDS.items()}
WAYS = (("Linf", False), ("L2", False), ("L1", False), ("L1", True))  # norm, staged_eps
EPS = {"Linf": 0.02, "L2": 0.1, "L1": 0.5}
BASE = {"steps": 10, "restarts": 1, "rho": 0.75, "eot": 1, "staged_eps": False, "seed": 0}


def run(name, model, x, y, *, norm="Linf", **changes):
    more = {"targets": 4} if name == "apgd_t" else {}
    place = {"ids": torch.arange(len(x)), "batch_size": 32, "eps": EPS[norm]}
    return ATTACKS[name](model, x, y, norm=norm, **(BASE | more | place | changes))


def sizes(delta, norm):
    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[norm]
    return torch.linalg.vector_norm(delta.double().flatten(1), order, dim=1)


def largest(norm, eps):
    """The size that the verifier still allows."""
    return eps * (1 + 1e-6) if norm == "L1" else eps + 1e-6


def broken(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) != y


class Constant(nn.Module):
    """Always class 0, with a gradient nonetheless; counts its passes."""

    def __init__(self, classes=4):
        super().__init__()
        self.classes, self.rows = classes, 0

    def forward(self, x):
        self.rows += len(x)
        bend = 0.001 * x.square().flatten(1).sum(1)
        return torch.stack([10.0 - 2.0 * k + (k % 2) * bend for k in range(self.classes)], 1)


@pytest.fixture(scope="module")
def eval_net():
    """A network in float64, images, and its labels with two wrong ones."""
    net, x = network_and_images(classes=5)
    net, x = net.double(), x.double()
    y = net(x).argmax(1)
    y[:2] = (y[:2] + 1) % 5
    return net, x, y


def network_and_images(classes):
    """A network that predicts all its classes on 12 images with pixels at 0 and 1."""
    net = small_net(classes=classes, seed=3).eval()
    x = torch.rand(12, 2, 6, 5, generator=torch.Generator().manual_seed(2))
    x[:, :, 0], x[:, 0, 1] = 0.0, 1.0
    with torch.no_grad():
        net[5].bias -= net(x).mean(0)
    return net, x


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("norm", "staged"), WAYS)
@pytest.mark.parametrize(("factor", "breaks"), [(1.001, True), (0.999, False)])
def test_verdicts_on_a_linear_classifier_are_exact(linear, name, norm, staged, factor, breaks):
    model, x, _ = linear
    x = 0.5 + 0.4 * (x[:6] - 0.5)
    if norm == "L1":  # else the best point is one pixel, and no step is as sparse (nor theirs)
        model = LinearBinary(model.weight.detach().sign(), 0.0)
    weight = model.weight.detach()
    dual = {"Linf": weight.abs().sum(), "L2": weight.norm(), "L1": weight.abs().max()}[norm]
    distance = {"Linf": 0.02, "L2": 0.06, "L1": 0.1}[norm]
    score = x.flatten(1) @ weight + model.bias
    sign = torch.tensor([1.0, -1.0] * 3)
    # Move each image along the weights until it is at the distance from the plane, on both sides.
    shift = (sign * distance * dual - score)[:, None] * weight / weight.square().sum()
    x = (x + shift.view(x.shape)).detach()
    assert ((x > 0.3) & (x < 0.7)).all()
    y = (sign > 0).long()
    eps = factor * distance
    x_adv = run(name, model, x, y, norm=norm, eps=eps, staged_eps=staged, steps=60)
    assert (broken(model, x_adv, y) == breaks).all()
    assert breaks or torch.equal(x_adv, x)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("norm", "staged"), WAYS)
@pytest.mark.parametrize("shape", [(1, 4, 9), (3, 8, 8)])
def test_successes_are_inside_ball_and_box_and_failures_are_clean(name, norm, staged, shape):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 6))
    x = torch.rand(10, *shape)
    x[::2, :, 0], x[::2, :, 1] = 0.0, 1.0
    y = model(x).argmax(1)
    x_adv = run(name, model, x, y, norm=norm, staged_eps=staged)
    wrong = broken(model, x_adv, y)
    assert wrong.any()
    assert (sizes(x_adv.double() - x.double(), norm) <= largest(norm, EPS[norm])).all()
    assert ((x_adv >= 0.0) & (x_adv <= 1.0)).all()
    assert torch.equal(x_adv[~wrong], x[~wrong])
    assert not x_adv.requires_grad


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("norm", "staged"), WAYS)
def test_results_do_not_depend_on_batch_size_order_or_shard(eval_net, name, norm, staged):
    net, x, y = (part[:8] if isinstance(part, torch.Tensor) else part for part in eval_net)
    more = {"targets": 2} if name == "apgd_t" else {"restarts": 2}
    options = {"norm": norm, "staged_eps": staged, "steps": 6} | more
    ids = torch.arange(len(x)) + 100
    whole = run(name, net, x, y, ids=ids, **options)
    assert 0 < broken(net, whole, y)[2:].sum() < 6
    for size in (1, 3):
        part = run(name, net, x, y, ids=ids, batch_size=size, **options)
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-9)
    order = torch.tensor([7, 0, 2, 5])
    shard = run(name, net, x[order], y[order], ids=ids[order], **options)
    torch.testing.assert_close(shard, whole[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_seed_the_ids_and_the_stream_fix_the_start(eval_net, name):
    net, x, y = eval_net
    outs = [
        run(name, net, x, y, eps=0.1, **change)
        for change in ({}, {"seed": 1}, {"stream": "b"}, {"ids": torch.arange(12) + 1}, {})
    ]
    assert torch.equal(outs[0], outs[-1])
    assert all(not torch.equal(outs[0], other) for other in outs[1:-1])


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", EPS)
def test_already_misclassified_images_come_back_untouched(eval_net, name, norm):
    net, x, y = eval_net
    assert torch.equal(run(name, net, x, y, norm=norm)[:2], x[:2])
    wrong = (net(x).argmax(1) + 1) % 5
    assert torch.equal(run(name, net, x, wrong, norm=norm), x)
    assert run(name, net, x[:0], y[:0], norm=norm).shape == (0, 2, 6, 5)


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_constant_classifier_is_unbreakable_at_the_cost_stated(name, classes):
    x, y = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.long)
    runs = 2 * (min(4, classes - 1) if name == "apgd_t" else 1)
    for norm, staged in WAYS:
        model = Constant(classes)
        options = {"norm": norm, "staged_eps": staged, "restarts": 2, "eot": 2, "steps": 5}
        assert torch.equal(run(name, model, x, y, **options), x)
        assert model.rows == 3 * (1 + 2 * runs * (6 + 2 * staged))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_two_and_three_classes_break_where_a_linear_classifier_says(name, norm, classes):
    torch.manual_seed(6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, classes, bias=False))
    x = 0.4 + 0.2 * torch.rand(30, 1, 3, 4)
    weight, y = model[1].weight.detach(), model(x).argmax(1)
    logits = model(x).detach()
    dual = torch.linalg.vector_norm(weight[y][:, None] - weight, 2 if norm == "L2" else 1, dim=2)
    ahead = (logits.gather(1, y[:, None]) - logits) / dual
    distance = ahead.scatter(1, y[:, None], torch.inf).amin(1)
    eps = distance.median().item() + 1e-3
    x_adv = run(name, model, x, y, norm=norm, eps=eps, steps=50, restarts=2)
    clear = (distance - eps).abs() > 0.02 * eps
    assert torch.equal(broken(model, x_adv, y)[clear], (distance < eps)[clear])


class Scaled(nn.Module):
    """A network with its logits multiplied, or in half precision."""

    def __init__(self, net, scale, dtype):
        super().__init__()
        self.net, self.scale, self.dtype = net, scale, dtype

    def forward(self, x):
        return (self.scale * self.net(x)).to(self.dtype)


@pytest.mark.parametrize("name", ["apgd_dlr", "apgd_t"])
@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize(("scale", "dtype"), [(1e4, torch.float32), (1.0, torch.float16)])
def test_dlr_breaks_the_same_at_any_scale_of_logits(name, norm, scale, dtype):
    net, x = network_and_images(classes=5)
    y = net(x).argmax(1)
    plain = broken(net, run(name, net, x, y, norm=norm), y)
    scaled = broken(net, run(name, Scaled(net, scale, dtype), x, y, norm=norm), y)
    assert 0 < plain.sum() < 12
    assert (plain != scaled).sum() <= (1 if dtype == torch.float16 else 0)


def test_tiny_gradients_still_give_an_l2_direction(linear):
    model, x, _ = linear
    faint = LinearBinary(1e-25 * model.weight.detach(), 1e-25 * model.bias.detach())
    y = faint(x).argmax(1)
    score = (x.flatten(1) @ model.weight + model.bias).abs() / model.weight.norm()
    x_adv = run("apgd_dlr", faint, x, y, norm="L2", eps=0.2, steps=30)
    clear = (score - 0.2).abs() > 1e-3
    assert torch.equal(broken(faint, x_adv, y)[clear], (score < 0.2)[clear])


class Corner(nn.Module):
    """Wrong only where the mean pixel is above 0.51, with no gradient to it: starts decide."""

    def forward(self, x):
        value = x.flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([0.0 * value, torch.where(value > 0.51, 1.0, -1.0) + 0 * value], 1)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", EPS)
def test_more_restarts_never_lose_a_success(name, norm):
    x, y = torch.full((64, 1, 2, 2), 0.5), torch.zeros(64, dtype=torch.long)
    eps = {"Linf": 0.02, "L2": 0.03, "L1": 0.05}[norm]
    wrong = [
        broken(Corner(), run(name, Corner(), x, y, norm=norm, eps=eps, steps=1, restarts=n), y)
        for n in (1, 2, 6)
    ]
    for fewer, more in itertools.pairwise(wrong):
        assert (more | ~fewer).all()
    assert 0 < wrong[0].sum() < wrong[-1].sum()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("norm", "staged"), WAYS)
def test_what_only_a_proxy_takes_for_a_success_is_denied_and_the_search_goes_on(
    linear, name, norm, staged
):
    model, x, y = linear
    # The proxy is the plain classifier with its plane moved towards class 0.
    proxy = LinearBinary(model.weight.detach().clone(), model.bias.detach() - 0.5)
    eps = {"Linf": 0.1, "L2": 0.3, "L1": 0.5}[norm]
    x, y = x[y == 1], y[y == 1]
    keep = broken(proxy, x, 0 * y)  # not yet over the proxy's plane
    x, y = x[keep][:8], y[keep][:8]
    options = {"norm": norm, "eps": eps, "staged_eps": staged, "steps": 50}
    searched = run(name, model, x, y, **options)
    x_adv = run(name, model, x, y, network=proxy, **options)
    assert torch.equal(broken(model, x_adv, y), broken(model, searched, y))
    assert broken(model, x_adv, y).any()
    assert (broken(proxy, x_adv, y) & ~broken(model, x_adv, y)).sum() == 0
    alone = run(name, model, x, y, network=proxy, batch_size=1, **options)
    torch.testing.assert_close(alone, x_adv, rtol=0, atol=1e-5)


def test_the_network_is_left_as_it_was(net, images):
    x, y = images
    net.train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kept = x.clone()
    for name, (norm, staged) in itertools.product(ATTACKS, WAYS):
        run(name, net, x, y, norm=norm, staged_eps=staged)
    assert all(module.training for module in net)
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert net[5].weight.grad is None
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(x, kept)


@pytest.mark.parametrize("norm", EPS)
def test_a_gradient_that_is_not_finite_is_named(norm):
    class Root(nn.Module):
        """A square root at 0: the loss is finite, its slope is not."""

        def forward(self, x):
            value = ((0.0 * x) ** 2).flatten(1).sum(1).sqrt()
            return torch.stack([1.0 + value, value * 0.5], 1)

    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(InputError, match="not finite at step 0"):
        run("apgd_ce", Root(), x, y, norm=norm)


def test_targeted_losses_are_the_published_formulas():
    z = torch.tensor([[4.0, 1.0, 2.5, -1.0, 0.5], [0.0, 3.0, 1.0, 2.0, -2.0]], dtype=torch.float64)
    y, target = torch.tensor([0, 3]), torch.tensor([2, 4])
    # z_t - z_y over z_(1) - (z_(3) + z_(4)) / 2; y need not be the prediction
    expected = torch.tensor([-1.5 / (4.0 - 0.75), -4.0 / (3.0 - 0.5)], dtype=torch.float64)
    torch.testing.assert_close(targeted_dlr(z, y, target), expected, rtol=0, atol=1e-11)
    assert targeted_margin(z, y, target).tolist() == [-1.5, -4.0]
    with pytest.raises(InputError, match="at least 4 classes, got 3"):
        targeted_dlr(z[:, :3], 0 * y, 0 * y + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 2000}, "6000 runs"),
        ({"targets": 0}, "targets is 0"),
        ({"eot": True}, "eot is True"),
        ({"rho": 1.5}, "rho is 1.5"),
        ({"rho": "a"}, "rho is 'a'"),
        ({"staged_eps": True}, "staged_eps=True"),
        ({"staged_eps": 1}, "staged_eps is 1"),
        ({"staged_eps": True, "norm": "L1", "steps": 4}, "steps=4"),
    ],
)
def test_wrong_options_are_named(change, message):
    params = BASE | {"targets": 3, "norm": "Linf"} | change
    norm = params.pop("norm")
    del params["seed"]
    with pytest.raises(InputError, match=message):
        ApgdT(**params).check(ThreatModel(norm, Fraction(1, 10)))


@pytest.mark.parametrize(("classes", "name"), [(2, "margin"), (3, "dlr"), (4, "dlr")])
def test_the_margin_stands_for_dlr_only_where_there_is_none(monkeypatch, classes, name):
    """The authors' ratio needs the third largest logit, and no more."""
    called = set()
    for loss in ("margin", "dlr"):
        real = getattr(apgd_module, loss)

        def spy(logits, y, real=real, loss=loss):
            called.add(loss)
            return real(logits, y)

        monkeypatch.setattr(apgd_module, loss, spy)
    net, x = network_and_images(classes=classes)
    ATTACKS["apgd_dlr"](
        net,
        x,
        net(x).argmax(1),
        norm="Linf",
        eps=0.01,
        steps=2,
        restarts=1,
        rho=0.75,
        eot=1,
        staged_eps=False,
        ids=torch.arange(len(x)),
        seed=0,
        batch_size=12,
    )
    assert called == {name}
