"""What an evaluation will cost: passes per example, and seconds from a short probe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.contract import Cost
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.protocol import Protocol
from robustbench_lite.core.numerics import is_out_of_memory
from robustbench_lite.evaluation.flags.input_gradient import missing_gradient
from robustbench_lite.evaluation.flags.network_checks import flags_cost

CANDIDATES = (50, 100, 250, 500)  # a chunk has 500 examples
_LONGEST_PASS = 3.0  # seconds; larger batches of a slow network are not tried
_PROBE_SECONDS = 0.4  # per batch size and kind of pass, at least one pass after a warm-up


@dataclass(frozen=True)
class Speed:
    """Seconds per image of a forward pass, and of one with its backward pass."""

    forward: float
    both: float

    def seconds(self, cost: Cost) -> float:
        return self.both * cost.backwards + self.forward * (cost.forwards - cost.backwards)


@dataclass(frozen=True)
class Plan:
    """The price of an evaluation if no attack breaks anything.

    Args:
        costs: passes per example by attack, in the protocol's order, and of flags and verdicts;
            None where nobody can know.
        speeds: by batch size; those that do not fit into memory are not there.
        n: examples.
    """

    costs: Mapping[str, Cost | None]
    speeds: Mapping[int, Speed]
    n: int

    @property
    def batch_size(self) -> int:
        """The fastest batch size."""
        return min(self.speeds, key=lambda size: self.seconds(size))

    def seconds(self, batch_size: int) -> float:
        """For all examples and attacks whose cost is known."""
        known = [cost for cost in self.costs.values() if cost is not None]
        return self.n * sum(self.speeds[batch_size].seconds(cost) for cost in known)


def make_plan(
    network: nn.Module, protocol: Protocol, x: Tensor, *, n: int, num_classes: int
) -> Plan:
    """Count the passes of a protocol and time the network.

    Args:
        network: the one attacks search on.
        protocol: whose attacks to count.
        x: images (B, C, H, W) on the device; repeated to fill a batch.
        n: examples of the evaluation.
        num_classes: K.

    Cost:
        About four seconds, and two passes at each batch size at least.
    """
    costs: dict[str, Cost | None] = {
        spec.name: spec.contract.cost(protocol.threat.norm, num_classes, protocol.passes)
        for spec in protocol.attacks
    }
    gradient = not missing_gradient(network, x[:1])
    costs["flags"] = flags_cost(n, gradient=gradient)
    # Every attack's images, and the clean ones, are judged by two networks.
    costs["verdicts"] = Cost(2 * protocol.passes * (len(protocol.attacks) + 1), 0)
    sizes = sorted({min(size, n) for size in CANDIDATES})
    speeds: dict[int, Speed] = {}
    with attacked(network):
        for size in sizes:
            if speeds and size * max(speed.both for speed in speeds.values()) > _LONGEST_PASS:
                break
            try:
                images = x[torch.arange(size, device=x.device) % len(x)]
                speeds[size] = _probe(network, images, gradient=gradient)
            except RuntimeError as error:
                if not speeds or not is_out_of_memory(error):
                    raise
                break
    return Plan(costs, speeds, n)


def _probe(network: nn.Module, x: Tensor, *, gradient: bool) -> Speed:
    def forward() -> None:
        with torch.no_grad():
            network(x)

    def both() -> None:
        images = x.detach().requires_grad_(True)
        with torch.enable_grad():
            torch.autograd.grad(network(images).float().sum(), images)

    once = _seconds(forward, x) / len(x)
    return Speed(once, _seconds(both, x) / len(x) if gradient else once)


def _seconds(function: object, x: Tensor) -> float:
    """The fastest of some calls: others on the machine only ever make it slower."""
    assert callable(function)
    best, spent = float("inf"), 0.0
    function()
    while spent < _PROBE_SECONDS:
        _wait(x)
        begin = time.perf_counter()
        function()
        _wait(x)
        seconds = time.perf_counter() - begin
        best, spent = min(best, seconds), spent + seconds
    return best


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def render_plan(plan: Plan) -> str:
    """The plan as lines of text."""
    best = plan.batch_size
    lines = [f"{'attack':<16}{'forwards':>10}{'backwards':>11}{'seconds':>12}"]
    for name, cost in plan.costs.items():
        if cost is None:
            lines.append(f"{name:<16}{'not known in advance':>33}")
        else:
            seconds = plan.n * plan.speeds[best].seconds(cost)
            lines.append(f"{name:<16}{cost.forwards:>10,}{cost.backwards:>11,}{seconds:>12,.0f}")
    lines.append(
        f"\nPasses per example that no attack breaks; seconds for {plan.n} such examples in "
        f"batches\nof {best}, from a short probe. Broken examples leave early, so an evaluation "
        "takes less.\n"
    )
    lines.append(f"{'batch size':<16}{'seconds':>12}")
    for size in plan.speeds:
        mark = "  fastest: --batch-size" if size == best else ""
        lines.append(f"{size:<16}{plan.seconds(size):>12,.0f}{mark and f'{mark} {size}'}")
    return "\n".join(lines)
