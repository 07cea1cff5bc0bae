"""What the flags measure on honest networks and on the same networks with their gradients masked.

    python benchmarks/flags.py runs/mnist_trades/best --eps 0.15 --data-dir DIR --n 1000
    python benchmarks/flags.py --digits resnet18 wrn28_10 --eps 0.1 --n 64

Printed are, for each network as it is and with something done to its gradients, the values of
`gradient_disagrees` and `zero_gradients`, and the names of all raised flags (those that need the
attacks of a row apart). `--digits` trains architectures on the digits first, for 60 steps.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from robustbench_lite import load_split, resolve_model
from robustbench_lite.attacks.first_order.bpda import Bpda, identity
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.core.flag_rules import FLAGS, MEASURED
from robustbench_lite.evaluation.flags.network_checks import measure_flags
from robustbench_lite.models import build_model

BLOCK = 7  # pixels: the side of the blocks that a gradient is averaged over


class Around(nn.Module):
    """`change(network, x)`: a network with something done around it."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x):
        return self.change(self.network, x)


class _Blurred(torch.autograd.Function):
    """The identity, with a gradient that is the mean over blocks."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        height, width = gradient.shape[2:]
        coarse = functional.adaptive_avg_pool2d(gradient, (-(-height // BLOCK), -(-width // BLOCK)))
        return functional.interpolate(coarse, (height, width), mode="nearest")


def detached(network, x):
    """40 % of the pixels, always the same, have no gradient."""
    generator = torch.Generator().manual_seed(0)
    keep = (torch.rand(x.shape[1:], generator=generator) > 0.4).float().to(x.device)
    return network(x * keep + x.detach() * (1 - keep))


def levels(count):
    return lambda x: (count * x).round() / count


def straight_through(count):
    return lambda network, x: network(x + (levels(count)(x) - x).detach())


VARIANTS = {
    "as it is": lambda network: network,
    "logits x 100": lambda network: Around(network, lambda net, x: 100 * net(x)),
    "8 bits, straight through": lambda network: Around(network, straight_through(255)),
    "5 levels by Bpda": lambda network: nn.Sequential(Bpda(levels(4), identity), network),
    "5 levels, straight through": lambda network: Around(network, straight_through(4)),
    "5 levels": lambda network: Around(network, lambda net, x: net(levels(4)(x))),
    "40 % of the pixels detached": lambda network: Around(network, detached),
    "gradient blurred": lambda network: Around(network, lambda net, x: net(_Blurred.apply(x))),
}


def trained_on_digits(architecture):
    """The network after 60 steps of plain training, seed 0, in eval mode."""
    data = load_split("digits", "train")
    torch.manual_seed(0)
    shape = {"num_classes": 10, "in_channels": 1, "image_size": (8, 8)}
    network = build_model(architecture, **shape, mean=(0.305,), std=(0.376,))
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(60):
        rows = torch.randint(0, len(data), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(network(data.pixels(rows)), data.labels[rows]).backward()
        optimizer.step()
    return network.eval()


def report(name, network, data, arguments):
    threat = ThreatModel("Linf", parse_eps(arguments.eps))
    x, y = data.pixels(slice(0, arguments.n)), data.labels[: arguments.n]
    for variant in arguments.variants or VARIANTS:
        changed = VARIANTS[variant](network)
        measured = measure_flags(changed, x, y, threat=threat, seed=0, batch_size=100, passes=1)
        checks = measured.checks
        raised = [
            f"`{f.name}`" for f in FLAGS if f.name in MEASURED and f.is_raised(checks[f.name])
        ]
        agreement, zero = checks["gradient_disagrees"], checks["zero_gradients"]
        value = f"{agreement.value:.3f}" if agreement.points else "no gradient"
        flags = ", ".join(raised) or "none"
        print(f"| {name} | {variant} | {value} | {zero.value:.3f} | {flags} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--digits", nargs="+", default=[], metavar="ARCH")
    parser.add_argument("--eps", required=True, help="radius in Linf")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| network | its gradients | `gradient_disagrees` | `zero_gradients` | raised |")
    print("|---|---|---|---|---|")
    for path in arguments.checkpoints:
        source = resolve_model(path, allow_code=False, device="cpu")
        data = load_split(source.card.dataset, "test", data_dir=arguments.data_dir)
        report(source.name, source.model.eval(), data, arguments)
    for architecture in arguments.digits:
        network = trained_on_digits(architecture)
        report(f"{architecture}, digits", network, load_split("digits", "test"), arguments)


if __name__ == "__main__":
    main()
