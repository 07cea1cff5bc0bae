"""How strong AutoAttack's version `rand` is on a randomised network: ours, the authors', plain PGD.

    python benchmarks/randomised.py [--noise 0.5] [--eps 0.1] [--seeds 3]

A small network for digits, trained and tested with Gaussian noise on its input, is attacked by our
engine, by the authors' code and by PGD with averaged gradients. What each leaves standing is
judged by the majority of 1,001 passes, so that the verifier's luck hardly counts, and by 9 and 31
passes, to show how much it does there. Minutes on one core.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.adapters.pyautoattack import ReferenceAutoAttack
from robustbench_lite.attacks.autoattack.ensemble import AutoAttack
from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.datasets import load_split
from robustbench_lite.verifier import verify

PASSES = 31  # of the protocol's verifier


class Noisy(nn.Module):
    """Two layers behind Gaussian noise, new in each pass."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x + self.noise * torch.randn_like(x))
        return logits


def trained(noise: float) -> Noisy:
    data = load_split("digits", "train")
    torch.manual_seed(0)
    network = Noisy(noise)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(600):
        rows = torch.randint(0, len(data), (64,))
        loss = nn.functional.cross_entropy(network(data.pixels(rows)), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def pgd(network: Noisy, x: Tensor, y: Tensor, eps: float, *, eot: int = 40) -> Tensor:
    """The last of 40 steps, each along the gradient of the mean over `eot` passes, ever shorter."""
    x_adv = x.clone()
    for step in range(40):
        x_adv.requires_grad_(True)
        logits = network(x_adv.repeat(eot, 1, 1, 1)).view(eot, len(x), 10).mean(dim=0)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, y), x_adv)
        moved = x_adv.detach() + 0.5 * eps * (1 - step / 40) * gradient.sign()
        x_adv = moved.clamp(x - eps, x + eps).clamp(0.0, 1.0)
    return x_adv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--eps", default="0.1")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, threat = trained(arguments.noise), ThreatModel("Linf", parse_eps(arguments.eps))
    eps, data = float(threat.eps), load_split("digits", "test")
    x, y = data.pixels(slice(0, 100)), data.labels[:100]

    def standing(x_adv: Tensor, passes: int) -> int:
        verdict = verify(network, x, x_adv, y, threat=threat, batch_size=100, passes=passes)
        return int((~verdict.broken).sum())

    right = ~verify(network, x, x, y, threat=threat, batch_size=100, passes=1001).broken
    x, y = x[right], y[right]
    print(f"{len(x)} of 100 right when clean; standing by 1,001 | 31, 31, 31 | 9, 9, 9 passes")
    for seed in range(arguments.seeds):
        terms = RunTerms(
            norm="Linf",
            eps=eps,
            ids=torch.arange(len(x)),
            seed=seed,
            stream="autoattack",
            batch_size=100,
            passes=PASSES,
        )
        sides = {
            "ours": lambda terms=terms: AutoAttack("rand", "margin")(network, x, y, terms),
            "authors": lambda terms=terms: ReferenceAutoAttack("rand")(network, x, y, terms),
            "PGD-40, 40 passes": lambda: pgd(network, x, y, eps),
        }
        for name, attack in sides.items():
            torch.manual_seed(seed)
            x_adv = attack()
            counts = [[standing(x_adv, passes) for _ in range(3)] for passes in (31, 9)]
            shown = " | ".join(", ".join(map(str, each)) for each in counts)
            print(f"seed {seed} {name:<20}{standing(x_adv, 1001):4d} | {shown}", flush=True)


if __name__ == "__main__":
    main()
