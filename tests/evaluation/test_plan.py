"""The plan's passes are the passes that attacks make on a network nothing breaks."""

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.autoattack import ensemble as autoattack_module
from robustbench_lite.attacks.contract import Cost
from robustbench_lite.attacks.protocol import AttackSpec, load_protocol
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.evaluation.cost_plan import Plan, Speed, make_plan, render_plan
from robustbench_lite.evaluation.flags.network_checks import flags_cost
from robustbench_lite.evaluation.pass_counter import PassCounter

APGD = {"steps": 12, "rho": 0.75, "eot": 2, "restarts": 3, "staged_eps": False}
FAB = {"steps": 4, "restarts": 2, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
PGD = {"alpha": 0.02, "loss": "ce", "start": "uniform"}
CASES = [
    ("fgsm", {}),
    ("pgd", PGD | {"steps": 5, "restarts": 1, "keep": "last"}),
    ("pgd", PGD | {"steps": 5, "restarts": 2, "keep": "last"}),
    ("pgd", PGD | {"steps": 5, "restarts": 1, "keep": "best_loss", "loss": "kl"}),
    ("cw_l2", {"steps": 4, "search_steps": 3, "kappa": 0.0, "lr": 0.01, "initial_c": 0.1}),
    ("apgd_ce", APGD),
    ("apgd_dlr", APGD),
    ("apgd_t", APGD | {"targets": 9}),
    ("fab", FAB),
    ("fab_t", FAB | {"targets": 2}),
    ("square", {"queries": 30, "restarts": 2, "p_init": 0.8}),
    ("autoattack", {"version": "standard", "few_classes": "margin"}),
    ("autoattack", {"version": "plus", "few_classes": "margin"}),
    ("autoattack", {"version": "rand", "few_classes": "margin"}),
]


class Unbreakable(nn.Module):
    """Five classes; the first always leads, but the input has a gradient."""

    def forward(self, x):
        small = 0.01 * x.flatten(1)[:, :5]
        return small + torch.tensor([5.0, 0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("norm", ["Linf", "L1"])
@pytest.mark.parametrize(("attack", "params"), CASES)
def test_counts_are_those_of_the_attack(attack, params, norm, passes, monkeypatch):
    if norm == "L1" and attack in ("fgsm", "pgd", "cw_l2"):
        pytest.skip("no L1 there")
    monkeypatch.setitem(autoattack_module._APGD, "steps", 10)
    monkeypatch.setitem(autoattack_module._FAB, "steps", 3)
    monkeypatch.setitem(autoattack_module._SQUARE, "queries", 20)
    spec, model = AttackSpec("it", "It", attack, params), PassCounter(Unbreakable())
    x, y = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)
    threat = ThreatModel(norm, parse_eps("0.1"))
    sizes = {"batch_size": 2, "passes": passes}
    run_attack(spec, model, x, y, threat=threat, ids=torch.arange(3), seed=0, **sizes)
    cost = spec.contract.cost(norm, 5, passes)
    assert (model.forwards / 3, model.backwards / 3) == (cost.forwards, cost.backwards)


def test_standard_autoattack_costs_what_the_documentation_says():
    (spec,) = load_protocol("aa_standard", eps="0.1").attacks
    # 1 + 9 runs of 101, 9 x 100 steps of FAB, 5,001 queries, and the clean logits of each stage.
    assert spec.contract.cost("Linf", 10, 1) == Cost(10 * 101 + 2 * 900 + 5001 + 4, 10 * 101 + 900)


def test_what_nobody_knows_is_said_and_left_out_of_the_sum():
    spec = AttackSpec("theirs", "Theirs", "torchattacks:PGD", {})
    assert spec.contract.cost("Linf", 10, 1) is None
    plan = Plan({"theirs": None, "mine": Cost(3, 1)}, {50: Speed(0.5, 2.0)}, 10)
    assert plan.seconds(50) == 10 * (2 * 0.5 + 2.0)
    assert "not known in advance" in render_plan(plan)


def test_the_fastest_batch_size_is_named():
    plan = Plan({"a": Cost(1, 1)}, {50: Speed(1, 3.0), 100: Speed(1, 2.0), 500: Speed(1, 4.0)}, 7)
    assert plan.batch_size == 100
    line = next(line for line in render_plan(plan).splitlines() if line.startswith("100 "))
    assert "fastest: --batch-size 100" in line


def test_a_slow_network_is_not_probed_with_large_batches(monkeypatch):
    monkeypatch.setattr("robustbench_lite.evaluation.cost_plan._LONGEST_PASS", 0.0)
    plan = make_plan(
        Unbreakable(),
        load_protocol("linf_quick", eps="0.1"),
        torch.rand(2, 1, 4, 4),
        n=500,
        num_classes=5,
    )
    assert list(plan.speeds) == [50]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
def test_sizes_beyond_memory_or_examples_drop_out(error):
    class Small(Unbreakable):
        def forward(self, x):
            if len(x) > 100:
                raise error
            return super().forward(x)

    protocol = load_protocol("linf_quick", eps="0.1")
    x = torch.rand(5, 1, 4, 4)
    assert list(make_plan(Small(), protocol, x, n=900, num_classes=5).speeds) == [50, 100]
    assert list(make_plan(Small(), protocol, x, n=60, num_classes=5).speeds) == [50, 60]


def test_the_verdicts_of_two_networks_are_counted():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    protocol = load_protocol("linf_quick", eps="0.1")
    plan = make_plan(network, protocol, torch.rand(2, 1, 8, 8), n=2, num_classes=10)
    # 3 + 2 for each, 198 + 141 for 64 of the examples; see docs/flags.md.
    assert flags_cost(60) == Cost(201, 143)
    assert plan.costs["flags"] == flags_cost(2)
    assert plan.costs["verdicts"].forwards == 2 * (len(protocol.attacks) + 1)
    assert "verdicts" in render_plan(plan)
