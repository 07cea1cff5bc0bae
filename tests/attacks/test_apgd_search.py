"""Auto-PGD as rows: frozen claims, denials, schedules, rounding, and no waiting."""

import pytest
import torch
from conftest import small_net
from device_waits import syncs
from torch import nn

from robustbench_lite.attacks.autoattack.apgd_search import AutoPGD
from robustbench_lite.attacks.autoattack.apgd_steps import BallRule, SparseRule, stages

WAYS = (("Linf", False), ("L2", False), ("L1", False), ("L1", True))  # norm, staged_eps


def begun(model, rule, x, noise):
    """A search on cross-entropy, and the state in which all rows begin."""
    search = AutoPGD(
        model,
        lambda logits, rows: nn.functional.cross_entropy(logits, rows["y"], reduction="none"),
        rule=rule,
        draw=lambda rows: noise,
        restarts=1,
        targets=0,
        eot=1,
        device=x.device,
    )
    ids = torch.arange(len(x))
    logits = model(x)
    rows = {"x": x, "y": logits.argmax(1), "ids": ids, "logits": logits, "run": 0 * ids}
    return search, search.begin(rows)


def rule_of(norm, staged, eps, x, steps):
    if norm == "L1":
        return SparseRule(eps, steps=steps, staged=staged, like=x)
    return BallRule(norm, eps, steps=steps, rho=0.75, like=x)


@pytest.mark.parametrize(("norm", "eps"), [("L2", 3.0), ("L2", 8.0), ("L1", 0.1), ("L1", 12.0)])
@torch.no_grad()
def test_large_images_stay_within_the_verifiers_tolerance(norm, eps):
    torch.manual_seed(0)
    x = 0.2 + 0.6 * torch.rand(4, 3, 64, 64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5))
    search, state = begun(model, rule_of(norm, False, eps, x, 3), x, torch.randn_like(x))
    for _ in range(3):
        delta = (state["x_adv"].double() - x.double()).flatten(1)
        size = delta.norm(dim=1) if norm == "L2" else delta.abs().sum(1)
        assert (size > 0.98 * eps).all()
        assert (size <= (eps + 1e-6 if norm == "L2" else eps * (1 + 1e-6))).all()
        state["candidate"][:] = False
        search.advance(state, 1)


@pytest.mark.parametrize("change", WAYS)
@torch.no_grad()
def test_advancing_waits_for_nothing(net, images, change):
    x, _ = images
    search, state = begun(net.eval(), rule_of(*change, 0.1, x, 20), x, torch.randn_like(x))
    assert syncs(lambda: search.advance(state, 5)) == 0


@pytest.mark.parametrize("change", WAYS)
@torch.no_grad()
def test_a_claim_is_frozen_and_a_denied_row_does_not_show_how_long_it_waited(change):
    net = small_net(seed=3).eval().double()
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(8, 2, 6, 5, generator=generator, dtype=torch.float64)
    net[5].bias -= net(x).mean(0)  # so that it is near its edges
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    eps = {"Linf": 0.05, "L2": 0.3, "L1": 2.0}[change[0]]
    outcomes, rejected = [], 0
    for wait in (0, 3):
        search, state = begun(net, rule_of(*change, eps, x, 20), x, noise)
        for _ in range(19):
            search.advance(state, 1)
            claims = state["candidate"].nonzero().flatten()
            before = {name: state[name].clone() for name in ("x_adv", "left", "candidate")}
            state["candidate"][:] = True  # the others wait too: only so are the outcomes comparable
            search.advance(state, wait)
            assert torch.equal(state["x_adv"], before["x_adv"])
            assert torch.equal(state["left"], before["left"])
            state["candidate"] = before["candidate"]
            search.reject(state, claims)
            assert not state["candidate"].any()
            rejected += len(claims)
        outcomes.append(state)
    assert rejected > 20
    for later in outcomes[1:]:
        for name in ("x_adv", "left", "best", "best_loss", "best_gradient", "gradient", "step"):
            torch.testing.assert_close(later[name], outcomes[0][name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("change", WAYS)
@torch.no_grad()
def test_rows_at_different_steps_do_not_see_each_other(change):
    net = small_net(seed=3).double().eval()
    x = torch.rand(6, 2, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).double()
    parts = [slice(0, 2), slice(2, 3), slice(3, 6)]
    states, searches = [], []
    for part, ahead in zip(parts, (0, 3, 9), strict=True):
        search, state = begun(net, rule_of(*change, 0.01, x, 20), x[part], noise[part])
        search.advance(state, ahead)
        states.append(state)
        searches.append(search)
    mixed = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    for search, state in zip(searches, states, strict=True):
        search.advance(state, 7)
    searches[0].advance(mixed, 7)
    for name, values in mixed.items():
        alone = torch.cat([state[name] for state in states])
        torch.testing.assert_close(values, alone, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("steps", [3, 5, 10, 70, 100, 333])
def test_stages_add_up_and_end_at_eps(steps):
    (three, first), (two, second), (one, last) = stages(steps)
    assert (three, two, one) == (3.0, 2.0, 1.0)
    assert first == second == -(-3 * steps // 10)
    assert first + second + last == steps
