"""The active set: who is in it, who leaves, who is rejected, and that it changes no outcome."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.autoattack.active_set import (
    attack_active_set,
    majority,
    run_active_set,
)
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.core.errors import InputError

BUDGET = 10


@dataclass
class Countdown:
    """A toy: example i claims at step `claims_at[i]` of its run `claims_in[i]`, if at all."""

    claims_at: torch.Tensor
    claims_in: torch.Tensor
    runs: int = 1
    finite: FiniteCheck = field(default_factory=lambda: FiniteCheck(torch.device("cpu")))
    sizes: list = field(default_factory=list)  # rows per advance
    steps: list = field(default_factory=list)
    begun: list = field(default_factory=list)  # (id, run)
    rejected: list = field(default_factory=list)

    def begin(self, rows):
        self.begun += list(zip(rows["ids"].tolist(), rows["run"].tolist(), strict=True))
        return rows | {
            "x_adv": rows["x"].clone(),
            "candidate": torch.zeros_like(rows["y"], dtype=torch.bool),
            "left": torch.full_like(rows["y"], BUDGET),
        }

    def advance(self, state, steps):
        assert steps <= int(state["left"].min()), "asked for more steps than a row has"
        self.sizes.append(len(state["ids"]))
        self.steps.append(steps)
        for _ in range(steps):
            state["left"] = state["left"] - 1
            done = BUDGET - state["left"]
            due = (done == self.claims_at[state["ids"]]) & (
                state["run"] == self.claims_in[state["ids"]]
            )
            moved = state["x"] + 0.001 * done.view(-1, 1, 1, 1)
            state["x_adv"] = torch.where(
                (due & ~state["candidate"]).view(-1, 1, 1, 1), moved, state["x_adv"]
            )
            state["candidate"] = state["candidate"] | due

    def reject(self, state, rows):
        self.rejected += state["ids"][rows].tolist()
        state["candidate"] = state["candidate"].index_fill(0, rows, False)


def rows_of(ids):
    ids = torch.as_tensor(ids)
    x = torch.arange(len(ids)).view(-1, 1, 1, 1).float().expand(-1, 1, 2, 2) * 0.01
    return {"x": x, "y": torch.zeros_like(ids), "ids": ids, "logits": torch.zeros(len(ids), 2)}


def toy(n=40, **options):
    generator = torch.Generator().manual_seed(0)
    at = torch.randint(1, 2 * BUDGET, (n,), generator=generator)  # half of them never
    return Countdown(at, torch.randint(0, 2, (n,), generator=generator), **options)


def always(x_adv, y):
    return torch.ones_like(y, dtype=torch.bool)


def outcome(search, ids, capacity, confirm=always):
    found = run_active_set(search, rows_of(ids), capacity=capacity, confirm=confirm)
    return found.x_adv - rows_of(ids)["x"], found.broken


@pytest.mark.parametrize("capacity", [1, 3, 7, 40, 100])
def test_the_capacity_changes_no_outcome(capacity):
    ids = torch.arange(40)
    delta, broken = outcome(toy(runs=2), ids, capacity)
    expected = toy().claims_at <= BUDGET
    assert torch.equal(broken, expected)
    assert torch.allclose(delta[:, 0, 0, 0], 0.001 * toy().claims_at * expected)


def test_order_and_shards_change_no_outcome():
    ids = torch.arange(40)
    delta, broken = outcome(toy(runs=2), ids, 5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = outcome(toy(runs=2), order, 5)
    halves = [outcome(toy(runs=2), half, 5) for half in (ids[:13], ids[13:])]
    assert torch.equal(shuffled[1], broken[order])
    assert torch.allclose(shuffled[0], delta[order], atol=1e-6)
    assert torch.equal(torch.cat([half[1] for half in halves]), broken)


def test_a_freed_place_takes_the_next_waiting_example():
    search = Countdown(torch.tensor([1, 1, 99, 99, 1, 99]), torch.zeros(6, dtype=torch.int64))
    outcome(search, torch.arange(6), 2)
    assert search.begun == [(i, 0) for i in range(6)]
    assert search.sizes[:3] == [2, 2, 2]  # 0 and 1 leave after a step, 2 and 3 take their capacity
    assert max(search.sizes) == 2


def test_broken_examples_stop_costing():
    n = 64
    search = Countdown(torch.ones(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64))
    outcome(search, torch.arange(n), n)
    assert (search.sizes, search.steps) == ([n], [1])


def test_runs_follow_each_other_until_one_succeeds():
    search = Countdown(torch.tensor([99, 4, 4]), torch.tensor([0, 1, 0]), runs=3)
    _, broken = outcome(search, torch.arange(3), 3)
    assert broken.tolist() == [False, True, True]
    assert sorted(search.begun) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]


def test_a_claim_that_is_not_confirmed_is_withdrawn_and_the_row_goes_on():
    search = Countdown(torch.tensor([2, 2]), torch.zeros(2, dtype=torch.int64), runs=2)
    only_second = lambda x_adv, y: x_adv[:, 0, 0, 0] > 0.005  # noqa: E731
    found = run_active_set(search, rows_of([0, 1]), capacity=2, confirm=only_second)
    assert found.broken.tolist() == [False, True]
    assert search.rejected == [0]
    assert (0, 1) in search.begun  # its next run
    assert torch.equal(found.x_adv[0], rows_of([0, 1])["x"][0])


def test_a_denied_row_is_looked_at_again_after_one_step():
    search = Countdown(torch.tensor([3]), torch.zeros(1, dtype=torch.int64))
    run_active_set(
        search, rows_of([0]), capacity=1, confirm=lambda x_adv, y: torch.zeros_like(y) > 0
    )
    assert search.steps == [1, 2, 1, 2, 4]  # it claimed, and was rejected, at the third step


def test_no_examples_cost_nothing():
    search = toy()
    _, broken = outcome(search, torch.zeros(0, dtype=torch.int64), 4)
    assert len(broken) == 0
    assert search.sizes == []


class Fixed(nn.Module):
    """Logits from the first pixel: class 0 below 0.5, class 1 above; an odd pass is another."""

    def __init__(self, flips=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.flips, self.calls = flips, 0

    def forward(self, x):
        self.calls += 1
        lead = (x[:, 0, 0, 0] - 0.5) * self.scale
        lead = -lead if self.flips and self.calls % 2 else lead
        return torch.stack([-lead, lead], dim=1)


def test_examples_that_are_wrong_when_clean_are_left_alone():
    x = torch.tensor([0.1, 0.9, 0.2]).view(3, 1, 1, 1)
    search = Countdown(torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    y = torch.zeros(3, dtype=torch.int64)
    out = attack_active_set(search, Fixed(), x, y, ids=torch.arange(3), capacity=8)
    assert [i for i, _ in search.begun] == [0, 2]
    assert torch.equal(out, x)  # the toy's candidates are not misclassified: nothing is confirmed
    assert search.rejected == [0, 2]


def test_parameters_are_frozen_meanwhile_and_put_back():
    seen = []

    class Watch(Countdown):
        def advance(self, state, steps):
            seen.append(model.scale.requires_grad)
            super().advance(state, steps)

    model = Fixed()
    x, y = torch.full((2, 1, 1, 1), 0.1), torch.zeros(2, dtype=torch.int64)
    search = Watch(torch.ones(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    attack_active_set(search, model, x, y, ids=torch.arange(2), capacity=2)
    assert not any(seen)
    assert model.scale.requires_grad


def test_a_loss_that_is_not_finite_ends_the_search():
    class Bad(Countdown):
        def advance(self, state, steps):
            super().advance(state, steps)
            self.finite.note(7, torch.tensor([1.0, torch.nan]))

    search = Bad(torch.tensor([99]), torch.tensor([0]))
    with pytest.raises(InputError, match="not finite at step 7"):
        outcome(search, [0], 1)


def test_majority_is_of_predictions_not_of_logits():
    passes = [torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])]
    assert majority(passes).tolist() == [1]
    assert majority(passes[:1]).tolist() == [0]
    assert majority(passes[:2]).tolist() == [0]  # a tie goes to the lower class
