"""PGD-40: ours against torchattacks, foolbox and a bare loop; same run, same machine, as ratios.

    pip install foolbox
    python benchmarks/pgd.py runs/mnist_pgd_at/best --eps 0.15 --n 500 --data-dir DIR
    python benchmarks/pgd.py --architecture preact_resnet18 --eps 8/255 --n 16

All do 40 signed steps of eps / 10 on cross-entropy from a uniform start, and return the last
iterate. `ours` searches on the network that evaluations search on; `ours, plain network` does not.
The bare loop is the least that PGD can be: forward, input gradient, sign, two clamps, with frozen
parameters. Each has a process of its own, only one works at a time, and rounds interleave all of
them. Ours keep freed memory, as `rbl` does; the others run with the system's default, as their
users do. Printed are medians, ratios to ours, and how many images each breaks.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from importlib.util import find_spec

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from attack_sides import add_network, load, predictions
from torch.nn import functional

from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.threat_model import parse_eps
from robustbench_lite.core.allocator import keep_freed_memory
from robustbench_lite.core.numerics import deterministic, plain_numerics

STEPS = 40


def bare(model, x, y, eps):
    """The loop itself."""
    with attacked(model):
        low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        for _ in range(STEPS):
            x_adv = x_adv.detach().requires_grad_(True)
            loss = functional.cross_entropy(model(x_adv), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = torch.clamp(x_adv.detach() + eps / 10 * gradient.sign(), low, high)
    return x_adv.detach()


def ours(model, x, y, eps):
    return pgd(
        model,
        x,
        y,
        norm="Linf",
        eps=eps,
        alpha=eps / 10,
        steps=STEPS,
        restarts=1,
        loss="ce",
        start="uniform",
        keep="last",
        ids=torch.arange(len(x), device=x.device),
        seed=0,
    )


def by_torchattacks(model, x, y, eps):
    import torchattacks

    attack = torchattacks.PGD(model, eps=eps, alpha=eps / 10, steps=STEPS, random_start=True)
    return attack(x, y)


def by_foolbox(model, x, y, eps):
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 10, steps=STEPS, random_start=True)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return attack.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=eps)


# Side: the attack, whether it runs on the search network, whether freed memory is kept.
SIDES = {
    "ours": (ours, True, True),
    "ours, plain network": (ours, False, True),
    "bare loop": (bare, False, False),
    "bare loop, freed memory kept": (bare, False, True),
    "bare loop, network of ours": (bare, True, True),
    "torchattacks": (by_torchattacks, False, False),
    "foolbox": (by_foolbox, False, False),
}
PACKAGES = ("torchattacks", "foolbox")  # a side whose package is not installed is left out


def work(connection, arguments, name):
    """The process of one side: a round for each message, answered by seconds and broken images."""
    attack, searches, kept = SIDES[name]
    if kept:
        keep_freed_memory()
    model, x, y = load(arguments)
    eps, device, network = float(parse_eps(arguments.eps)), x.device, model
    if searches:
        network = search_network(model, precision="float32", device=device, like=x[0]).module
    # On a CPU the process's own seconds: other work on the machine does not count.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with deterministic(threads=arguments.threads, seed=0), plain_numerics():
        while connection.recv():
            begin = clock()
            parts = zip(x.split(arguments.batch_size), y.split(arguments.batch_size), strict=True)
            x_adv = torch.cat([attack(network, *part, eps) for part in parts])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent = clock() - begin
            broken = predictions(model, x_adv, arguments.batch_size) != y
            connection.send((spent, int(broken.sum())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_network(parser)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    workers = {}
    there = [name for name in SIDES if name not in PACKAGES or find_spec(name)]
    for name in there:
        workers[name], end = context.Pipe()
        context.Process(target=work, args=(end, arguments, name), daemon=True).start()
        end.close()  # so that a worker that dies is seen
    times, broken = {name: [] for name in there}, {}
    for _ in range(arguments.rounds + 1):  # the first warms up
        for name, connection in workers.items():
            connection.send(True)
            spent, broken[name] = connection.recv()
            times[name].append(spent)
    for connection in workers.values():
        connection.send(False)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(
        f"PGD-{STEPS}, {arguments.checkpoint or arguments.architecture}, Linf {arguments.eps}, "
        f"{arguments.n} images, batches of {arguments.batch_size}, {arguments.threads} threads, "
        f"{arguments.device} {platform.machine()}, torch {torch.__version__}\n"
    )
    print("| | median s | ours / it | broken |\n|---|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {medians['ours'] / value:.2f} | {broken[name]} |")


if __name__ == "__main__":
    main()
