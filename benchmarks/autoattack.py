"""AutoAttack: our engine against pyautoattack, stage by stage, in turn.

    python benchmarks/autoattack.py runs/mnist_pgd_at/best --eps 0.15 --n 500 --data-dir DIR
    python benchmarks/autoattack.py runs/mnist_standard/best --eps 0.3 --n 500 --data-dir DIR

Both sides attack the same images of the same network with AutoAttack standard. Each stage starts
from what the same side's earlier stages left. Printed are seconds per stage and the ratio (ours /
reference), the overhead (our seconds / seconds of the same forward and backward passes of the
network alone, at the same batch sizes), and which examples are judged differently. `--batches`
names the batch sizes of the reference, ours runs at `--ours`. Each side has a process of its own,
and only one works at a time. Ours keeps freed memory, as `rbl` does; the reference runs with the
system's default, as its users do, and at the sizes of `--kept` once more with our setting. Times
of one run on one machine: only the ratios mean something.
"""

import argparse
import json
import os
import platform
import time
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from attack_sides import (
    STAGES,
    add_network,
    load,
    our_stage,
    predictions,
    reference_stage,
    start_sides,
)
from torch import nn

from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.threat_model import parse_eps
from robustbench_lite.core.allocator import keep_freed_memory
from robustbench_lite.core.numerics import deterministic, plain_numerics


class Recorder(nn.Module):
    """Counts forward passes by (images, whether a gradient was asked for)."""

    def __init__(self, model):
        super().__init__()
        self.model, self.training, self.passes = model, False, Counter()

    def forward(self, x):
        self.passes[len(x), torch.is_grad_enabled() and x.requires_grad] += 1
        return self.model(x)


def seconds(device, function):
    """Seconds of a call, and what it returned.

    On a CPU those of this process: other work on the machine does not count, only what it does to
    the caches. On CUDA those of the clock.
    """
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize(device)
    begin = clock()
    out = function()
    if cuda:
        torch.cuda.synchronize(device)
    return clock() - begin, out


def bare_seconds(network, recorder, like, device, repeats):
    """Seconds of the recorded passes alone: each batch size timed by itself, then multiplied."""
    total = 0.0
    for (size, with_gradient), count in recorder.passes.items():
        x = like[torch.arange(size, device=device) % len(like)].clone()

        def once(x=x, with_gradient=with_gradient):
            if not with_gradient:
                with torch.no_grad():
                    return network(x)
            image = x.requires_grad_(True)
            with torch.enable_grad():
                return torch.autograd.grad(network(image).sum(), image)

        with attacked(network):
            times = sorted(seconds(device, once)[0] for _ in range(repeats))
        total += count * times[len(times) // 2]
    return total


def work(connection, arguments, kind, batch_size, kept):
    """The process of one side: receives stage names, answers with where the side then stands."""
    if kept:
        keep_freed_memory()
    device = torch.device(arguments.device)
    with deterministic(threads=arguments.threads, seed=0), plain_numerics():
        model, x, y = load(arguments)
        if arguments.tf32:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        side = {
            "kind": kind,
            "batch_size": batch_size,
            "standing": predictions(model, x) == y,
            "seconds": {},
            "bare": {},
            "network": model,
        }
        if kind == "ours":
            side["network"] = search_network(
                model, precision=arguments.precision, device=device, like=x[0]
            ).module
        while name := connection.recv():
            do_stage(side, name, model, x, y, arguments, device)
            answer = {key: side[key] for key in ("kind", "seconds", "bare")}
            connection.send(answer | {"standing": side["standing"].tolist()})


def do_stage(side, stage, model, x, y, arguments, device):
    ids = side["standing"].nonzero().flatten()
    if not len(ids):
        side["seconds"][stage] = 0.0
        return
    recorder = Recorder(side["network"])
    terms = {
        "norm": "Linf",
        "eps": arguments.eps_value,
        "seed": arguments.seed,
        "batch_size": side["batch_size"],
    }

    def call():
        if side["kind"] == "ours":
            return our_stage(stage, model, x[ids], y[ids], **terms, ids=ids, network=recorder)
        return reference_stage(stage, recorder, x[ids], y[ids], **terms)

    side["seconds"][stage], x_adv = seconds(device, call)
    side["standing"][ids[predictions(model, x_adv) != y[ids]]] = False
    if arguments.bare:
        side["bare"][stage] = bare_seconds(side["network"], recorder, x, device, arguments.bare)


def report(sides, stage_names):
    """Markdown: a row per side, then the ratios of ours to each reference."""
    print("\n| side | " + " | ".join(stage_names) + " | total s | / bare passes | robust |")
    print("|---|" + "---|" * (len(stage_names) + 3))
    for label, side in sides.items():
        total = sum(side["seconds"].values())
        bare = f"{total / sum(side['bare'].values()):.2f}" if side["bare"] else ""
        cells = " | ".join(f"{side['seconds'][name]:.1f}" for name in stage_names)
        print(f"| {label} | {cells} | {total:.1f} | {bare} | {sum(side['standing'])} |")
    ours = [label for label in sides if sides[label]["kind"] == "ours"]
    references = [label for label in sides if sides[label]["kind"] == "reference"]
    print("\n| ratio | " + " | ".join(stage_names) + " | total | differing verdicts |")
    print("|---|" + "---|" * (len(stage_names) + 2))
    for mine in ours:
        for theirs in references:
            a, b = sides[mine], sides[theirs]
            cells = " | ".join(
                f"{a['seconds'][name] / b['seconds'][name]:.2f}" if b["seconds"][name] else "-"
                for name in stage_names
            )
            total = sum(a["seconds"].values()) / sum(b["seconds"].values())
            pairs = enumerate(zip(a["standing"], b["standing"], strict=True))
            differing = [
                index
                for index, (mine_stands, theirs_stands) in pairs
                if mine_stands != theirs_stands
            ]
            print(f"| {mine} / {theirs} | {cells} | {total:.2f} | {differing or 'none'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_network(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[100, 250, 500])
    parser.add_argument("--kept", type=int, nargs="*", default=[])
    parser.add_argument("--ours", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--precision", choices=("float32", "mixed"), default="float32")
    parser.add_argument("--tf32", action="store_true", help="on both sides")
    parser.add_argument("--stages", nargs="+", help="default: all four")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bare", type=int, default=7, help="repeats of bare passes; 0: none")
    parser.add_argument("--json", help="also write everything here")
    arguments = parser.parse_args()
    arguments.eps_value = float(parse_eps(arguments.eps))
    sides = {f"ours at {size}": ("ours", size, True) for size in arguments.ours}
    sides |= {f"reference at {size}": ("reference", size, False) for size in arguments.batches}
    sides |= {
        f"reference at {size}, freed memory kept": ("reference", size, True)
        for size in arguments.kept
    }
    workers = start_sides(work, {label: (arguments, *side) for label, side in sides.items()})
    results = {}
    names = arguments.stages or STAGES
    for name in names:
        for label, connection in workers.items():  # stage by stage, the sides in turn
            connection.send(name)
            results[label] = connection.recv()
            print(
                f"{name:8} {label:18} {results[label]['seconds'][name]:8.1f} s, "
                f"{sum(results[label]['standing'])} stand",
                flush=True,
            )
    for connection in workers.values():
        connection.send("")
    cuda = arguments.device.startswith("cuda")
    print(
        f"\n{arguments.checkpoint or arguments.architecture}, Linf {arguments.eps}, "
        f"{arguments.n} images, {arguments.precision}, tf32 {arguments.tf32}, "
        f"{arguments.threads} threads, torch {torch.__version__}, "
        + (torch.cuda.get_device_name(arguments.device) if cuda else platform.machine())
    )
    report(results, names)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
