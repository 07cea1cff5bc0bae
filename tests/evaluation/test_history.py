"""Networks that remember what they were asked: flagged, and judged by a copy that has not."""

import copy

import pytest
import torch
from digits_networks import trained_on_digits
from test_flags import Around, measure, measure_on, names, run, up
from torch import nn

from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.flags.fresh_networks import FreshNetworks, confirmed
from robustbench_lite.evaluation.flags.history_checks import neighbours, with_verdicts
from robustbench_lite.evaluation.flags.thresholds import Check
from robustbench_lite.evaluation.header import read_header
from robustbench_lite.evaluation.ledger import Ledger
from robustbench_lite.leaderboard import load_result
from robustbench_lite.verifier import Verdict


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "test")


@pytest.fixture(scope="module")
def base():
    return trained_on_digits(hidden=32)


class Remembers(nn.Module):
    """Answers near a known image with its old logits; gradients pass as if it did not.

    Args:
        base: the network.
        after: images that it answers honestly first.
        radius: in Linf.
    """

    def __init__(self, base, after=0, radius=0.11):
        super().__init__()
        self.base, self.after, self.radius = base, after, radius
        self.images, self.logits, self.asked = [], [], 0

    def known(self, x):
        """Index (B,) of a known image near each, or -1."""
        if not self.images:
            return torch.full((len(x),), -1)
        gaps = torch.cdist(x.flatten(1), torch.stack(self.images).flatten(1), p=torch.inf)
        near, index = gaps.min(dim=1)
        return torch.where(near <= self.radius, index, -1)

    def forward(self, x):
        logits = self.base(x)
        index = self.known(x.detach())
        for image, answer, place in zip(x.detach(), logits.detach(), index, strict=True):
            if place < 0 and len(self.images) < 400:
                self.images.append(image.clone())
                self.logits.append(answer.clone())
        self.asked += len(x)
        if self.asked <= self.after or not (index >= 0).any():
            return logits
        old = torch.stack(self.logits)[index.clamp_min(0)]
        answer = torch.where((index >= 0)[:, None], old, logits.detach())
        return logits + (answer - logits).detach()


class InBuffers(nn.Module):
    """The same in a buffer, for the images of the first pass."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.register_buffer("images", torch.full((64, 1, 8, 8), 9.0))
        self.register_buffer("logits", torch.zeros(64, 10))

    def forward(self, x):
        logits = self.base(x)
        if self.images[0, 0, 0, 0] > 1 and len(x) >= 20:
            self.images[: len(x)] = x.detach()[:64]
            self.logits[: len(x)] = logits.detach()[:64]
        gaps = torch.cdist(x.detach().flatten(1), self.images.flatten(1), p=torch.inf)
        near, index = gaps.min(dim=1)
        answer = torch.where((near <= 0.11)[:, None], self.logits[index], logits.detach())
        return logits + (answer - logits).detach()


class Cache(nn.Module):
    """Remembers answers to the very same bytes: the same function as without."""

    def __init__(self, base):
        super().__init__()
        self.base, self.answers = base, {}

    def forward(self, x):
        if torch.is_grad_enabled():
            return self.base(x)
        key = x.numpy().tobytes()
        if key not in self.answers:
            self.answers[key] = self.base(x)
        return self.answers[key]


def test_a_network_that_remembers_is_flagged(base, digits):
    measured = measure(Remembers(copy.deepcopy(base)), digits, 40, eps="0.1")
    assert up(measured) == {"answers_depend_on_history"}
    assert measured.checks["answers_depend_on_history"].value > 0.9


def test_a_memory_in_buffers_is_flagged_for_both_reasons(base, digits):
    flags = up(measure(InBuffers(copy.deepcopy(base)), digits, 40, eps="0.1"))
    assert {"answers_depend_on_history", "test_time_optimisation"} <= flags


def test_a_cache_of_exact_images_changes_no_answer(base, digits):
    measured = measure(Cache(copy.deepcopy(base)), digits, 40)
    assert measured.checks["answers_depend_on_history"] == Check(0.0, 40)
    assert up(measured) == set()


def test_noise_is_no_history_and_draws_of_its_own_source_say_nothing(base, digits):
    noisy = Around(base, lambda base, x: base(x + 0.05 * torch.randn_like(x)))
    assert measure(noisy, digits, 40).checks["answers_depend_on_history"] == Check(0.0, 40)
    generator = torch.Generator().manual_seed(0)
    own = Around(base, lambda base, x: base(x + 0.05 * torch.rand(x.shape, generator=generator)))
    assert measure(own, digits, 40).checks["answers_depend_on_history"] == Check(0.0, 0)


def test_a_network_that_cannot_be_copied_is_not_measured(base, digits):
    class Uncopied(Around):
        def __deepcopy__(self, memo):
            raise TypeError("not this one")

    model = Uncopied(base, lambda base, x: base(x))
    assert measure(model, digits, 20).checks["answers_depend_on_history"] == Check(0.0, 0)
    assert FreshNetworks(model).one() is None


@pytest.mark.parametrize(("norm", "order"), [("Linf", torch.inf), ("L2", 2), ("L1", 1)])
def test_neighbours_lie_in_the_ball_and_are_not_the_image(norm, order, digits):
    x = digits.pixels(slice(0, 20))
    for near in neighbours(x, ThreatModel(norm, parse_eps("0.3")), seed=0):
        size = torch.linalg.vector_norm((near - x).double().flatten(1), ord=order, dim=1)
        assert (size > 0).all()
        assert (size <= 0.3 + 1e-6).all()
        assert near.min() >= 0
        assert near.max() <= 1


def test_a_memory_gains_nothing_and_its_row_is_flagged(base, digits, tmp_path):
    remembering = run(Remembers(copy.deepcopy(base)), digits, tmp_path / "r", n=60)
    assert "answers_depend_on_history" in names(remembering)
    assert load_result(tmp_path / "r").status == "flagged"


def test_a_memory_that_waits_for_the_attacks_is_seen_by_the_verdicts(base, digits, tmp_path):
    """It answers honestly until the checks of the network are over."""
    x, y = digits.pixels(slice(0, 60)), digits.labels[:60]
    waiting = Remembers(copy.deepcopy(base), after=10**9)
    measure_on(waiting, x, y)
    waiting = Remembers(copy.deepcopy(base), after=waiting.asked + 100)
    result = run(waiting, digits, tmp_path / "r", n=60, batch_size=40)
    ledger = Ledger(tmp_path / "r", read_header(tmp_path / "r"))
    changed = {i for name in result["attacks"] for i in ledger.read_changed(name, 0)}
    assert len(changed) >= 2
    assert result["checks"]["answers_depend_on_history"]["value"] == len(changed) / 60
    assert "answers_depend_on_history" in names(result)
    for name in result["attacks"]:
        rows = ledger.read_part(name, 0)
        assert rows["broken"][rows["example_id"].isin(ledger.read_changed(name, 0))].all()


def test_an_honest_network_has_the_same_verdicts_and_changes_none(base, digits, tmp_path):
    result = run(copy.deepcopy(base), digits, tmp_path / "r", n=60, chunk_size=40)
    assert result["checks"]["answers_depend_on_history"] == {"value": 0.0, "points": 60}
    ledger = Ledger(tmp_path / "r", read_header(tmp_path / "r"))
    assert [ledger.read_changed("pgd20_ce", chunk) for chunk in range(2)] == [[], []]


def test_either_verdict_breaks_an_example_and_differences_are_marked():
    def verdict(broken, prediction):
        none = torch.zeros(4, dtype=torch.float64)
        return Verdict(torch.tensor(broken), torch.tensor(prediction), none, none, none, none)

    used = verdict([True, True, False, False], [1, 2, 0, 0])
    fresh = verdict([True, False, True, False], [1, 0, 3, 0])
    both, differs = confirmed(used, fresh)
    assert both.broken.tolist() == [True, True, True, False]
    assert both.prediction.tolist() == [1, 2, 3, 0]
    assert differs.tolist() == [False, True, True, False]


def test_verdicts_raise_the_share_and_say_nothing_where_draws_cannot_be_repeated():
    assert with_verdicts(Check(0.0, 64), {1, 2}, 100) == Check(0.02, 100)
    assert with_verdicts(Check(0.5, 64), {1, 2}, 100) == Check(0.5, 64)
    assert with_verdicts(Check(0.0, 0), {1, 2}, 100) == Check(0.0, 0)
    assert with_verdicts(Check(0.0, 64), None, 100) == Check(0.0, 64)
