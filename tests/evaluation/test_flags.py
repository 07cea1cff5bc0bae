"""Each flag rises on a network made to trip it, and stays down on honest ones."""

import copy
import json
import math
import os
import random
import re
from pathlib import Path

import numpy
import pandas
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from digits_networks import Around, trained_on_digits
from test_every_defense import on_digits
from torch import nn

from robustbench_lite.attacks.autoattack.ensemble import stages
from robustbench_lite.attacks.first_order.bpda import Bpda
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.attacks.protocol import load_protocol, protocol_files
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import with_checksum
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.evaluation.flags.network_checks import measure_flags
from robustbench_lite.evaluation.flags.outcome_checks import outcome_checks
from robustbench_lite.evaluation.flags.thresholds import (
    AFTER_ATTACKS,
    FLAGS,
    MEASURED,
    Check,
    NetworkChecks,
    raised,
    read_measured,
)
from robustbench_lite.evaluation.ledger import COLUMNS
from robustbench_lite.evaluation.pass_counter import PassCounter
from robustbench_lite.leaderboard import build_table, load_result
from robustbench_lite.training.loop import train

CPU = torch.device("cpu")
BY_NAME = {flag.name: flag for flag in FLAGS}
MEAN, STD = 0.305, 0.376  # of the digits


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "test")


@pytest.fixture(scope="module")
def base():
    return trained_on_digits()


class Normalisation(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(std))

    def forward(self, x):
        return (x - self.mean) / self.std


class AlwaysTraining(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


class Updating(nn.Module):
    """Moves its running mean in every mode, and does not use it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(()))

    def forward(self, x):
        self.running_mean += 0.1 * x.mean()
        return x


def with_layer(layer):
    return lambda base: nn.Sequential(layer, base)


def beside(layer):
    """A part of a layer's output on the image is added to the logits."""

    class Beside(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.layer = base, layer

        def forward(self, x):
            return self.base(x) + self.layer(x).flatten(1)[:, 20:30]

    return Beside


def around(change):
    return lambda base: Around(base, change)


def measure(model, data, n=100, *, norm="Linf", eps="0.1", batch_size=40, passes=1, seed=0):
    x, y = data.pixels(slice(0, n)), data.labels[:n]
    threat = ThreatModel(norm, parse_eps(eps))
    return measure_flags(
        model, x, y, threat=threat, seed=seed, batch_size=batch_size, passes=passes
    )


def up(measured, passes=1):
    """Names of the raised flags among those measured on the network."""
    fine = dict.fromkeys(AFTER_ATTACKS, Check(0.0, 0))
    return {flag["name"] for flag in raised({**measured.checks, **fine}, passes=passes)}


def _numpys(*shape):
    return torch.from_numpy(numpy.random.standard_normal(shape)).float()


def _pythons(*shape):
    return torch.tensor([random.random() for _ in range(math.prod(shape))]).view(shape)


def seen_batch(base, x):
    return base(x) + 0.1 * (x - x.mean(dim=0)).flatten(1)[:, 20:30]


def two_graphs(base, x):
    logits = base(x)
    shift = 0.5 if torch.is_grad_enabled() else 0.0
    return torch.cat([logits[:, :1] + shift, logits[:, 1:]], dim=1)


def quantised(base, x):
    return base((7 * x).round() / 7)


def partly_detached(base, x):
    keep = (torch.arange(64) * 37 % 64 >= 26).float().view(1, 1, 8, 8)  # a fixed 60 %
    return base(x * keep + x.detach() * (1 - keep))


def shattered(base, x):
    return base(x + 0.03 * torch.sin(100 * x))


def purified(base, x):
    """Four detached steps towards the prediction: gradients see the plain network alone."""
    with torch.enable_grad():
        z, y = x.detach(), base(x).argmax(dim=1)
        for _ in range(4):
            z = z.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(base(z), y, reduction="sum"), z)
            z = z - 0.02 * gradient.sign()
    return base(x + (z - x).detach())


def purified_by_backward(base, x):
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_(True)
        base(z).logsumexp(dim=1).sum().backward()
    return base(x + 0.01 * z.grad)


def purified_by_func(base, x):
    gradient = torch.func.grad(lambda z: base(z).logsumexp(dim=1).sum())(x.detach())
    return base(x + 0.01 * gradient)


def directional(base, x):
    return base(x) + 0.01 * torch.func.jvp(base, (x.detach(),), (torch.ones_like(x),))[1].detach()


class Counting(nn.Module):
    """Counts its passes, and computes the same function each time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return x


class WritesWeights(nn.Module):
    """Overwrites a weight with itself, as a step of size 0 would."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        with torch.no_grad():
            self.weight.copy_(self.weight.clone())
        return x * self.weight


def no_finite_derivative_at_0(base, x):
    return base(x) + 0.0 * x.sqrt().flatten(1).sum(dim=1, keepdim=True)


TRIPPED = {
    "the batch's mean": (around(seen_batch), {"batch_dependent"}),
    "BatchNorm without running statistics": (
        beside(nn.BatchNorm2d(1, track_running_stats=False)),
        {"batch_dependent", "bn_train_mode"},
    ),
    "BatchNorm that stays in train mode": (
        beside(AlwaysTraining(1)),
        {"batch_dependent", "bn_train_mode"},
    ),
    "functional batch norm with training=True": (
        around(
            lambda base, x: (
                base(x) + F.batch_norm(x, None, None, training=True).flatten(1)[:, 20:30]
            )
        ),
        {"batch_dependent", "bn_train_mode"},
    ),
    "an optimisation loop in forward": (around(purified), {"test_time_optimisation"}),
    "Tensor.backward in forward": (around(purified_by_backward), {"test_time_optimisation"}),
    "torch.func.grad in forward": (around(purified_by_func), {"test_time_optimisation"}),
    "torch.func.jvp in forward": (around(directional), {"test_time_optimisation"}),
    "a buffer that counts": (with_layer(Counting()), {"test_time_optimisation"}),
    "a parameter that is written": (with_layer(WritesWeights()), {"test_time_optimisation"}),
    "running statistics that move": (with_layer(Updating()), {"bn_train_mode"}),
    "dropout left on": (around(lambda base, x: base(F.dropout(x, 0.1, True))), {"randomised"}),
    "noise at test time": (
        around(lambda base, x: base(x + 0.05 * torch.randn_like(x))),
        {"randomised"},
    ),
    "other logits without gradients": (around(two_graphs), {"randomised"}),
    "noise behind a constant": (
        around(lambda base, x: base(x + 0.05 * torch.randn_like(x)) + 1000.0),
        {"randomised"},
    ),
    "softmax outputs": (around(lambda base, x: base(x).softmax(dim=1)), {"probabilities"}),
    "quantised input": (around(quantised), {"zero_gradients", "huge_eps"}),
    "sqrt at 0": (around(no_finite_derivative_at_0), {"nan_gradients"}),
    "40 % of the pixels detached": (around(partly_detached), {"gradient_disagrees"}),
    "logits x 100": (around(lambda base, x: 100 * base(x)), {"loss_scale", "huge_eps"}),
    "normalised twice by modules": (
        lambda base: nn.Sequential(Normalisation(MEAN, STD), Normalisation(MEAN, STD), base),
        {"double_normalisation"},
    ),
    "normalised twice by code": (
        around(lambda base, x: base(((x - 0.5) / 0.5 - 0.5) / 0.5)),
        {"double_normalisation"},
    ),
    "normalised by a module, and by code in another way": (
        lambda base: nn.Sequential(
            Normalisation(MEAN, STD), Around(base, lambda base, x: base(2 * x - 1))
        ),
        {"double_normalisation"},
    ),
}
HONEST = {
    "as it is": lambda base: base,
    "normalised once": lambda base: nn.Sequential(Normalisation(MEAN, STD), base),
    "to [-1, 1]": around(lambda base, x: base(2 * x - 1)),
    "to [-1, 1], then standardised": around(
        lambda base, x: base(((2 * x - 1) - (2 * MEAN - 1)) / (2 * STD))
    ),
    "in steps of 0 to 255": around(lambda base, x: base((255 * x - 255 * MEAN) / (255 * STD))),
    "BatchNorm and dropout in eval mode": with_layer(
        nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Dropout2d(0.5))
    ),
    "instance norm": with_layer(nn.InstanceNorm2d(1)),
    "log-probabilities": around(lambda base, x: base(x).log_softmax(dim=1)),
    "logits / 10": around(lambda base, x: base(x) / 10),
    "recomputed activations": around(
        lambda base, x: torch.utils.checkpoint.checkpoint(base, x, use_reentrant=False)
    ),
    "BPDA": lambda base: nn.Sequential(Bpda(nn.Identity(), nn.Identity()), base),
    "half precision": around(lambda base, x: base(x).half()),
}


@pytest.mark.parametrize("name", TRIPPED)
def test_each_flag_rises_on_its_own_network_alone(name, base, digits):
    build, expected = TRIPPED[name]
    measured = measure(build(copy.deepcopy(base)), digits)
    assert up(measured) == expected
    assert set(measured.checks) == set(MEASURED)


@pytest.mark.parametrize("name", HONEST)
def test_no_flag_rises_on_what_honest_networks_do(name, base, digits):
    assert up(measure(HONEST[name](copy.deepcopy(base)), digits)) == set()


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.1"), ("L2", "0.5"), ("L1", "3")])
def test_masked_networks_are_seen_in_every_norm_and_honest_ones_pass(
    norm, eps, base, digits, checkpoint
):
    honest = resolve_model(str(checkpoint), allow_code=False, device="cpu").model
    for model in (honest, base):
        measured = measure(model, digits, 40, norm=norm, eps=eps)
        assert up(measured) == set()
        assert all(check.points > 0 for check in measured.checks.values())
    for name in ("logits x 100", "quantised input"):
        build, expected = TRIPPED[name]
        assert up(measure(build(base), digits, 40, norm=norm, eps=eps)) == expected


def test_every_flag_is_tripped_by_some_test():
    tripped = set().union(*(names for _, names in TRIPPED.values()))
    assert tripped | {"answers_depend_on_history"} == set(MEASURED)  # that one in test_history.py
    assert {flag.name for flag in FLAGS} == {*MEASURED, *AFTER_ATTACKS}
    assert len(BY_NAME) == len(FLAGS)


# What the cheap checks look at.


@pytest.mark.parametrize(("bad", "raises"), [(1, False), (2, True)])
def test_gradients_are_looked_at_on_every_example(bad, raises, base, digits):
    """The last examples have no gradient; one alone raises nothing."""
    marked = digits.pixels(slice(0, 300))
    marked[:, :, 0, 0] = 0.0
    marked[300 - bad :, :, 0, 0] = 1.0
    flat = Around(base, lambda base, x: base(torch.where(x[:, :, :1, :1] > 0.5, x.round(), x)))
    measured = measure_on(flat, marked, digits.labels[:300])
    assert measured.checks["zero_gradients"] == Check(pytest.approx(bad / 300), 300)
    assert ("zero_gradients" in up(measured)) == raises


def measure_on(model, x, y, **changes):
    arguments = {"threat": ThreatModel("Linf", parse_eps("0.1")), "seed": 0, "batch_size": 40}
    return measure_flags(model, x, y, **(arguments | {"passes": 1} | changes))


def test_a_gradient_that_only_cross_entropy_lacks_is_not_zero(base, digits):
    """float32 loses it where the network is sure; the margin's is there: that is `loss_scale`."""
    sure = Around(base, lambda base, x: 1e4 * base(x))
    x = digits.pixels(slice(0, 50)).requires_grad_(True)
    gradient = torch.autograd.grad(F.cross_entropy(sure(x), digits.labels[:50]), x)[0]
    assert (gradient.flatten(1).abs().amax(dim=1) == 0).sum() > 25
    measured = measure(sure, digits)
    assert measured.checks["zero_gradients"].value == 0.0
    assert "loss_scale" in up(measured), "a tenth of these logits would still be far too large"


def test_a_gradient_that_only_the_margin_lacks_is_not_zero(digits):
    class Third(nn.Module):
        """Own class and runner-up do not move, the third does."""

        def forward(self, x):
            moving = x.flatten(1).mean(dim=1, keepdim=True)
            return torch.cat([2.0 + 0.0 * moving, 1.0 + 0.0 * moving, moving - 1.0], dim=1)

    x = digits.pixels(slice(0, 20))
    measured = measure_on(Third(), x, torch.zeros(20, dtype=torch.long))
    assert measured.checks["zero_gradients"] == Check(0.0, 20)


def test_a_tenth_of_the_logits_finds_masking_where_the_median_margin_is_small(base, digits):
    def two_sizes(base, x):
        large = x[:, :, :4].flatten(1).mean(dim=1, keepdim=True) > 0.34  # less than half of them
        return torch.where(large, 30.0, 0.02) * base(x)

    model = Around(base, two_sizes)
    x, y = digits.pixels(slice(0, 100)), digits.labels[:100]
    large = two_sizes(lambda x: torch.ones(len(x), 1), x).flatten() > 1
    assert 20 < large.sum() < 45
    assert model(x).topk(2, dim=1).values.diff(dim=1).abs().median() < 1
    assert "loss_scale" in up(measure_on(model, x, y))


def test_networks_see_nothing_outside_the_unit_cube(base, digits):
    def strict(base, x):
        assert x.min() >= 0.0
        assert x.max() <= 1.0
        return base(x)

    for norm, eps in (("Linf", "0.3"), ("L2", "2"), ("L1", "8")):
        measure(Around(base, strict), digits, 10, norm=norm, eps=eps)


def test_no_finite_logits_far_away_are_no_error_and_no_success(base, digits):
    def far(base, x):
        return base(x) + torch.where(x[:, 0, :1, 0] > 0.05, torch.nan, 0.0)

    x, y = digits.pixels(slice(0, 50)), digits.labels[:50]
    x[:, :, 0, 0] = 0.0
    near = ThreatModel("Linf", parse_eps("0.04"))
    measured = measure_on(Around(base, far), x, y, threat=near)
    assert up(measured) == {"huge_eps"}


def test_candidates_come_from_a_copy_with_larger_logits_too(checkpoint, digits):
    model = resolve_model(str(checkpoint), allow_code=False, device="cpu").model
    measured = measure(model, digits, 40)
    x, y = digits.pixels(slice(0, 40)), digits.labels[:40]
    options = {"norm": "Linf", "eps": 0.1, "alpha": 0.025, "steps": 10, "restarts": 1}
    options |= {"loss": "ce", "start": "uniform", "keep": "best_loss", "seed": 0}
    broken = {}
    for scale in (1, 10):
        larger = Around(model, lambda model, x, scale=scale: scale * model(x)).eval()
        x_adv = pgd(larger, x, y, ids=torch.arange(40), stream="flags", **options)
        wrong = (model(x_adv).argmax(1) != y) & (model(x).argmax(1) == y)
        broken[scale] = set(wrong.nonzero().flatten().tolist())
    assert broken[10] > broken[1]
    assert broken[10] <= set(measured.crafted_broken)


def test_layers_that_only_scale_are_no_normalisation(base, digits):
    class Scaling(nn.Conv2d):
        def __init__(self):
            super().__init__(1, 1, 1)
            nn.init.constant_(self.weight, 3.0)
            nn.init.constant_(self.bias, -1.0)

    measured = measure(nn.Sequential(Scaling(), Scaling(), base), digits, 10)
    assert measured.checks["double_normalisation"].value == 0.0


def test_tiny_gradients_count_as_zero(base, digits):
    faint = Around(base, lambda base, x: 1e-14 * base(x))
    right = (base(digits.pixels(slice(0, 100))).argmax(dim=1) == digits.labels[:100]).double()
    assert measure(faint, digits).checks["zero_gradients"].value == right.mean().item()
    small = Around(base, lambda base, x: 1e-8 * base(x))
    assert measure(small, digits).checks["zero_gradients"].value == 0.0


def test_an_infinite_gradient_of_the_last_example_is_found_and_does_not_stop_the_others(
    base, digits
):
    x = 0.1 + 0.8 * digits.pixels(slice(0, 90))
    x[89, 0, 3, 3] = 0.0
    measured = measure_on(Around(base, no_finite_derivative_at_0), x, digits.labels[:90])
    assert measured.checks["nan_gradients"] == Check(pytest.approx(1 / 90), 90)
    assert up(measured) == {"nan_gradients"}
    assert measured.checks["loss_scale"].points == 64


def test_a_batch_of_one_and_a_single_image_are_put_beside_others(base, digits):
    model = TRIPPED["the batch's mean"][0](base)
    for n, batch_size in ((1, 40), (1, 1), (5, 1), (2, 2)):
        assert "batch_dependent" in up(measure(model, digits, n, batch_size=batch_size)), n
        assert up(measure(base, digits, n, batch_size=batch_size)) == set()


def test_random_networks_are_asked_about_batches_and_a_protocol_for_them_allows_them(base, digits):
    noisy = measure(TRIPPED["noise at test time"][0](base), digits, passes=5)
    assert noisy.checks["batch_dependent"].points == 100
    assert up(noisy, passes=5) == set()
    assert up(noisy, passes=1) == {"randomised"}


@pytest.mark.parametrize("source", [torch.randn, _numpys, _pythons], ids=["torch", "numpy", "own"])
@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_noise_does_not_hide_that_a_network_looks_at_its_batch(base, digits, source, n):
    def both(base, x):
        return seen_batch(base, x) + 0.01 * source(len(x), 10)

    assert up(measure(Around(base, both), digits, n), passes=9) == {"batch_dependent"}


def test_draws_that_cannot_be_repeated_say_nothing_of_batches(base, digits):
    def unseeded(base, x):
        drawn = torch.frombuffer(bytearray(os.urandom(10 * len(x))), dtype=torch.uint8)
        return base(x) + 0.01 * drawn.float().view(-1, 10)

    measured = measure(Around(base, unseeded), digits)
    assert measured.checks["batch_dependent"] == Check(0.0, 0)
    assert up(measured) == {"randomised"}


def test_a_few_huge_logits_hide_neither_noise_nor_the_batch(base, digits):
    def noise(base, x):
        return base(x) + 0.1 * torch.randn(len(x), 10)

    def lead(logits):
        top = logits.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]

    with torch.no_grad():
        third = lead(base(digits.pixels(slice(0, 100)))).sort().values[-3]
    for change, flag in ((noise, "randomised"), (seen_batch, "batch_dependent")):

        def loud(base, x, change=change):
            logits = base(x)
            sure = (lead(logits) > third)[:, None]
            return torch.where(sure, 1e6 * logits, change(base, x))

        assert flag in up(measure(Around(base, loud), digits)), flag


def test_a_compiled_network_is_watched_as_written(base, digits):
    build, expected = TRIPPED["normalised twice by code"]
    compiled = torch.compile(build(base), backend="eager")
    assert up(measure(compiled, digits, 10)) == expected


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_torchscript_hides_is_not_counted(base, digits):
    traced = torch.jit.trace(TRIPPED["normalised twice by code"][0](base), torch.rand(2, 1, 8, 8))
    assert measure(traced, digits, 10).checks["double_normalisation"].value == 0.0


def test_two_classes_will_do(linear):
    model, x, y = linear
    assert up(measure_on(model, x, y, threat=ThreatModel("Linf", parse_eps("0.02")))) == set()


def test_a_network_that_is_always_wrong_has_nothing_to_attack(base, digits):
    x, y = digits.pixels(slice(0, 30)), base(digits.pixels(slice(0, 30))).argmin(dim=1)
    measured = measure_on(base, x, y)
    assert measured.checks["huge_eps"] == measured.checks["loss_scale"] == Check(0.0, 0)
    assert (measured.crafted_points, measured.crafted_broken) == (0, ())


def test_nan_logits_are_an_error_that_names_the_image(base, digits):
    x = digits.pixels(slice(0, 90))
    broken = Around(
        base, lambda base, x: base(x) + torch.where(x[:, 0, :1, 0] > 0.9, torch.nan, 0.0)
    )
    x[:, :, 0, 0], x[70, :, 0, 0] = 0.0, 1.0
    with pytest.raises(InputError, match="NaN or infinite logits on 90 images, first on number 70"):
        measure_on(broken, x, digits.labels[:90])


def test_same_seed_same_checks_in_any_batches(base, digits):
    first, again, small = (measure(base, digits, 40, batch_size=size) for size in (40, 40, 13))
    assert first == again
    assert first.crafted_broken == small.crafted_broken
    assert first.checks["loss_scale"] == small.checks["loss_scale"]


def test_the_network_is_left_as_it_was(base, digits):
    model = nn.Sequential(nn.BatchNorm2d(1), AlwaysTraining(1), Updating(), copy.deepcopy(base))
    model.train()
    model[3].eval()
    before = copy.deepcopy(model.state_dict())
    measure(model, digits, n=20)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, True, False]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_checks_cost_what_they_say(base, digits):
    n, attacked = 100, 64
    counter = PassCounter(base)
    measure(counter, digits, n)
    # 4 noise images are watched; 64 are asked about history, of the network 3 times.
    assert counter.forwards == 3 * n + (159 + 33) * attacked + 4 + 3 * 64
    assert counter.backwards == 2 * n + 141 * attacked


# What the row's attacks say.

PGD = {"loss": "ce", "steps": 5, "alpha": 0.1, "restarts": 1, "start": "none", "keep": "last"}
CW = {"kappa": 0.0, "lr": 0.01, "steps": 5, "search_steps": 2, "initial_c": 0.1}
AA = {"attack": "autoattack", "few_classes": "margin"}
ATTACKS = {
    "pgd": {"attack": "pgd", **PGD},
    "square": {"attack": "square", "queries": 5, "restarts": 1, "p_init": 0.8},
    "aa": {**AA, "version": "standard"},
    "plus": {**AA, "version": "plus"},
    "rand": {**AA, "version": "rand"},
    "reference": {"attack": "reference:autoattack", "version": "standard"},
    "cw_l2": {"attack": "cw_l2", **CW},
}


def part(n, broken=(), stage="", linf=0.1):
    """Rows of `n` correct examples; `stage` is that of the broken ones."""
    values = {name: [0] * n for name in COLUMNS} | {"example_id": list(range(n))}
    values["broken"] = [i in broken for i in range(n)]
    values["stage"] = [stage if i in broken else "" for i in range(n)]
    values["linf"] = [linf] * n
    values["prediction"] = [int(i in broken) for i in range(n)]
    return pandas.DataFrame(values)


def outcomes(parts, *, n=100, crafted=(0, ())):
    attacks = [{"name": name, "title": name, **ATTACKS[name]} for name in parts]
    protocol = {"norm": "Linf", "eps_value": 0.1, "attacks": attacks}
    measured = NetworkChecks({}, *crafted)
    return outcome_checks(protocol, {"clean": part(n), **parts}, measured)


def is_up(name, checks):
    return BY_NAME[name].is_raised(checks[name])


@pytest.mark.parametrize(
    ("n", "only_square", "raises"),
    # What honest networks had; then the smallest numbers whose lower bound is above 1 %.
    [
        *((200, 1, False), (500, 2, False), (500, 3, False), (600, 0, False), (1000, 7, False)),
        *((100, 2, False), (100, 3, True), (1000, 16, False), (1000, 17, True), (1000, 470, True)),
        *((20, 1, False), (20, 2, True)),
    ],
)
def test_the_share_that_square_alone_breaks_must_be_above_a_hundredth_beyond_chance(
    n, only_square, raises
):
    alone = range(5, 5 + only_square)
    for parts in (
        {"pgd": part(n, range(5)), "square": part(n, [0, 1, *alone])},
        {"pgd": part(n, [0]), "aa": part(n, alone, "square")},
    ):
        checks = outcomes(parts, n=n)
        assert checks["black_box_beats_white_box"] == Check(only_square / n, n)
        assert is_up("black_box_beats_white_box", checks) == raises


def test_what_another_white_box_attack_of_the_row_broke_is_not_squares_alone():
    parts = {"aa": part(100, range(6), "square"), "pgd": part(100, range(5))}
    assert outcomes(parts)["black_box_beats_white_box"] == Check(0.01, 100)
    stage = part(100, range(6), "fab_t")
    assert outcomes({"aa": stage})["black_box_beats_white_box"] == Check(0.0, 100)


@pytest.mark.parametrize("name", ["rand", "reference", "pgd", "square"])
def test_a_row_that_cannot_tell_says_that_it_looked_at_nothing(name):
    """Of the authors' code nobody knows which stage broke an example; or one kind is missing."""
    checks = outcomes({name: part(100, range(6), "square")})
    assert checks["black_box_beats_white_box"] == Check(0.0, 0)


def test_square_in_the_middle_is_measured_against_the_stages_before_it():
    """The follow-up of this flag, `aa_plus`, must be able to raise it."""
    assert list(stages("plus", "Linf")).index("square") == 3
    checks = outcomes({"plus": part(100, range(6), "square")})
    assert checks["black_box_beats_white_box"] == Check(0.06, 100)
    assert is_up("black_box_beats_white_box", checks)
    by_gradients = outcomes({"plus": part(100, range(6), "fab_t")})
    assert by_gradients["black_box_beats_white_box"] == Check(0.0, 100)


def test_transfer_counts_what_no_white_box_attack_of_the_row_broke():
    parts = {"pgd": part(100, [1, 2]), "aa": part(100, [3, 4, 5], "square")}
    six = outcomes(parts, crafted=(50, (1, 3, 5, 8, 9, 10, 11)))
    assert six["transfer_beats_white_box"] == Check(6 / 50, 50)  # all but 1
    assert is_up("transfer_beats_white_box", six)
    five = outcomes(parts, crafted=(50, (1, 2, 5, 8, 9, 10, 11)))
    assert five["transfer_beats_white_box"] == Check(5 / 50, 50)
    assert not is_up("transfer_beats_white_box", five)
    few = outcomes(parts, crafted=(10, (5, 6, 7, 8)))
    assert few["transfer_beats_white_box"] == Check(4 / 10, 10)
    assert not is_up("transfer_beats_white_box", few)
    square = outcomes({"square": part(100, [1])}, crafted=(50, (1, 3, 5, 8)))
    assert square["transfer_beats_white_box"] == Check(0.0, 0)


def test_images_outside_the_ball_count_for_attacks_that_know_the_ball():
    lost = part(100, range(4), linf=0.2).assign(broken=False)
    assert outcomes({"pgd": lost, "square": part(100)})["outside_ball"] == Check(0.04, 100)
    assert outcomes({"cw_l2": lost})["outside_ball"] == Check(0.0, 0)
    inside = part(100, range(4), linf=0.1 + 5e-7)
    assert outcomes({"pgd": inside})["outside_ball"] == Check(0.0, 100)


# In an evaluation.


def run(model, data, out, *, protocol="linf_quick", eps="0.1", n=100, **settings):
    if not isinstance(model, LoadedModel):
        model = LoadedModel(model, "mine", "factory", "sha256:mine", None, None, 0)
    return evaluate(
        model,
        data,
        load_protocol(protocol, eps=eps),
        out=out,
        n=n,
        seed=0,
        settings=Settings(threads=1, **settings),
        device=CPU,
    )


def names(result):
    return {flag["name"] for flag in result["flags"]}


def test_a_net_that_pgd_misses_and_square_breaks_is_flagged(base, digits, tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(
        'id = "p"\nversion = 1\nnorm = "Linf"\nengine = "ours"\nsummary = ""\npasses = 1\n'
        '[[attacks]]\nname = "pgd"\ntitle = "P"\nattack = "pgd"\nloss = "ce"\nsteps = 10\n'
        'alpha_over_eps = "1/4"\nrestarts = 1\nstart = "uniform"\nkeep = "best_loss"\n'
        '[[attacks]]\nname = "square"\ntitle = "S"\nattack = "square"\nqueries = 100\n'
        "restarts = 1\np_init = 0.8\n"
    )
    masked = run(Around(base, quantised), digits, tmp_path / "m", protocol=str(path))
    assert names(masked) == {"zero_gradients", "huge_eps", "black_box_beats_white_box"}
    assert masked["attacks"]["square"]["value"] < masked["attacks"]["pgd"]["value"] - 0.1
    assert load_result(tmp_path / "m").status == "flagged"
    assert names(run(base, digits, tmp_path / "h", protocol=str(path))) == set()


def test_shattered_gradients_are_seen_by_a_smoothed_copy(base, digits, tmp_path):
    result = run(Around(base, shattered), digits, tmp_path / "r")
    assert "transfer_beats_white_box" in names(result)
    assert result["checks"]["transfer_beats_white_box"]["value"] > 0.05
    assert names(run(base, digits, tmp_path / "h")) == set()


@pytest.mark.parametrize("name", ["pgd_at", "trades", "lbgat"])
def test_no_flag_rises_on_trained_defenses(name, digits, checkpoint, tmp_path):
    if name != "pgd_at":
        data = load_split("digits", "train")
        recipe = on_digits(name, checkpoint)
        checkpoint = train(recipe, data, out=tmp_path / "run", device=CPU, threads=1)
    source = resolve_model(str(checkpoint), allow_code=False, device="cpu")
    for protocol, eps in (("linf_quick", "0.1"), ("l2_quick", "0.5")):
        result = run(source, digits, tmp_path / protocol, protocol=protocol, eps=eps)
        assert result["flags"] == []
        assert load_result(tmp_path / protocol).status == "measured"
        assert set(result["checks"]) == {flag.name for flag in FLAGS}
        looked_at = {name for name, check in result["checks"].items() if check["points"]}
        assert looked_at == set(BY_NAME) - {"black_box_beats_white_box"}, "no such attack there"


def test_a_raised_flag_makes_the_row_flagged_and_unranked(base, digits, tmp_path):
    result = run(TRIPPED["softmax outputs"][0](base), digits, tmp_path / "r", n=20)
    (flag,) = result["flags"]
    assert flag["name"] == "probabilities"
    assert flag["follow_up"]
    assert flag["points"] == 20
    table = build_table([load_result(tmp_path / "r")])
    assert table["status"].tolist() == ["flagged"]
    assert not str(table["rank"].iloc[0]).isdigit()


def test_an_attack_of_another_norm_raises_outside_ball(tmp_path, checkpoint, digits):
    """torchattacks' PGD is an Linf attack: in an L2 protocol its images are far outside."""
    path = tmp_path / "wrong.toml"
    path.write_text(
        'id = "wrong"\nversion = 1\nnorm = "L2"\nengine = "ours"\nsummary = ""\npasses = 1\n'
        '[[attacks]]\nname = "a"\ntitle = "A"\nattack = "torchattacks:PGD"\n'
        "alpha = 0.2\nsteps = 5\n"
    )
    source = resolve_model(str(checkpoint), allow_code=False, device="cpu")
    result = run(source, digits, tmp_path / "r", protocol=str(path), eps="0.05", n=40)
    assert result["robust_accuracy"] == result["clean_accuracy"]
    # An attack that breaks nothing inside the ball is also weaker than any other.
    assert names(result) <= {"outside_ball", "transfer_beats_white_box"}
    assert "outside_ball" in names(result)


def test_checks_are_measured_once_and_never_those_of_another_network(base, digits, tmp_path):
    folder = tmp_path / "r"
    run(Around(base, quantised), digits, folder, n=40, chunk_size=20)
    for path in (folder / "parts").glob("*/*.parquet"):
        path.unlink()  # as if killed right after the checks
    run(base, digits, folder, n=40, chunk_size=20)
    honest = (folder / "checks.json").read_bytes()
    checks = read_measured(folder / "checks.json", terms=None).checks
    assert checks["zero_gradients"].value == 0.0
    altered = honest.replace(b'"points": 40', b'"points": 39')
    marked = with_checksum(json.loads(altered)).encode()
    assert marked != honest
    (folder / "checks.json").write_bytes(marked)
    (folder / "parts/pgd20_ce/00001.parquet").unlink()
    run(base, digits, folder, n=40, chunk_size=20)
    assert (folder / "checks.json").read_bytes() == marked, "a resumed run measured again"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "{",
        lambda text: "[]",
        lambda text: text.replace("huge_eps", "other"),
        lambda text: text.replace("crafted_on", "made_on"),
        lambda text: '{"randomised": 0.0}',
        None,
    ],
)
def test_checks_that_lack_something_are_one_line_with_the_fix(damage, base, digits, tmp_path):
    measured = measure(base, digits, n=10)
    path = tmp_path / "checks.json"
    path.write_text(json.dumps(measured.as_dict()))
    assert read_measured(path, terms=None) == measured
    with pytest.raises(InputError, match="no checksum, or is of another evaluation"):
        read_measured(path, terms="mine")
    path.write_text(with_checksum({"terms": "another", **measured.as_dict()}))
    with pytest.raises(InputError, match="no checksum, or is of another evaluation"):
        read_measured(path, terms="mine")
    path.write_text(with_checksum({"terms": "mine", **measured.as_dict()}))
    assert read_measured(path, terms="mine") == measured
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"checks.json (cannot be read|is damaged)"):
        read_measured(path, terms=None)


def test_out_of_memory_in_the_checks_is_one_line(base, digits, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("robustbench_lite.evaluation.evaluate.measure_flags", full)
    with pytest.raises(InputError, match="checks: out of device memory with batches of 20"):
        run(base, digits, tmp_path / "r", batch_size=20)


@pytest.mark.gpu
def test_flags_are_the_same_on_a_gpu(base, digits):
    data = digits.to("cuda")
    for name in ("softmax outputs", "quantised input", "logits x 100", "the batch's mean"):
        build, expected = TRIPPED[name]
        assert up(measure(build(copy.deepcopy(base).cuda()), data)) == expected
    assert up(measure(copy.deepcopy(base).cuda(), data)) == set()


# The table.


def test_follow_ups_name_protocols_that_exist():
    named = {name for flag in FLAGS for name in re.findall(r"--protocol (\w+)", flag.follow_up)}
    assert named
    assert named <= set(protocol_files())


def test_the_documents_table_is_the_table_of_flags():
    text = (Path(__file__).parents[2] / "docs" / "flags.md").read_text(encoding="utf-8")
    section = text.partition("\n## The table\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{flag.name}` | {flag.measures} | {flag.threshold:g}"
        + (f", {flag.at_least} examples" if flag.at_least > 1 else "")
        + f" | {flag.meaning} | {flag.follow_up} | {flag.source} |"
        for flag in FLAGS
    ]
