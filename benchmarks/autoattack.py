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
import multiprocessing
import os
import platform
import time
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn

from robustbench_lite import load_split, resolve_model
from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.autoattack.ensemble import stages
from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.threat_model import parse_eps
from robustbench_lite.core.allocator import keep_freed_memory
from robustbench_lite.core.numerics import deterministic, plain_numerics
from robustbench_lite.models import build_model

REFERENCE_NAMES = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}


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


def run_reference(stage, model, x, y, arguments, batch_size, device):
    from pyautoattack import AutoAttack

    classes = model(x[:1]).shape[1]
    attack = AutoAttack(
        model, norm="Linf", eps=arguments.eps_value, seed=arguments.seed, device=device
    )
    attack.apgd_targeted.n_target_classes = min(9, classes - 1)
    attack.fab.n_target_classes = min(9, classes - 1)
    attack.attacks_to_run = [REFERENCE_NAMES[stage]]
    return attack.run_standard_evaluation(x, y, batch_size=batch_size)[0].detach()


def run_ours(stage, model, x, y, arguments, batch_size, ids, network):
    terms = RunTerms(
        norm="Linf",
        eps=arguments.eps_value,
        ids=ids,
        seed=arguments.seed,
        stream=f"aa_standard/{stage}",
        batch_size=batch_size,
        network=network,
    )
    return stages("standard", "Linf")[stage](model, x, y, terms)


def still_right(model, x, y, batch_size=250):
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(batch_size)]) == y


def load(arguments):
    """The network, images and labels, on the device."""
    if arguments.checkpoint:
        source = resolve_model(arguments.checkpoint, allow_code=False, device="cpu")
        model, dataset = source.model, source.card.dataset
        data = load_split(dataset, "test", data_dir=arguments.data_dir)
        x, y = data.pixels(slice(0, arguments.n)), data.labels[: arguments.n]
    else:
        torch.manual_seed(0)
        model = build_model(
            arguments.architecture,
            num_classes=10,
            in_channels=3,
            image_size=(32, 32),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
        )
        x = torch.rand(arguments.n, 3, 32, 32)
        y = None
    model, x = model.to(arguments.device).eval(), x.to(arguments.device)
    with torch.no_grad():
        # Random weights know no labels: what they predict is right, so that nothing is skipped.
        y = torch.cat([model(p).argmax(1) for p in x.split(100)]) if y is None else y
    return model, x, y.to(arguments.device)


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
            "standing": still_right(model, x, y),
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
    if side["kind"] == "ours":

        def call():
            return run_ours(
                stage, model, x[ids], y[ids], arguments, side["batch_size"], ids, recorder
            )
    else:

        def call():
            return run_reference(
                stage, recorder, x[ids], y[ids], arguments, side["batch_size"], device
            )

    side["seconds"][stage], x_adv = seconds(device, call)
    side["standing"][ids[~still_right(model, x_adv, y[ids])]] = False
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
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument(
        "--architecture", help="instead of a checkpoint: random weights, 3x32x32 noise images"
    )
    parser.add_argument("--eps", required=True)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--batches", type=int, nargs="+", default=[100, 250, 500])
    parser.add_argument("--kept", type=int, nargs="*", default=[])
    parser.add_argument("--ours", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--precision", choices=("float32", "mixed"), default="float32")
    parser.add_argument("--tf32", action="store_true", help="on both sides")
    parser.add_argument("--stages", nargs="+", help="default: all four")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bare", type=int, default=7, help="repeats of bare passes; 0: none")
    parser.add_argument("--data-dir")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="also write everything here")
    arguments = parser.parse_args()
    arguments.eps_value = float(parse_eps(arguments.eps))
    sides = {f"ours at {size}": ("ours", size, True) for size in arguments.ours}
    sides |= {f"reference at {size}": ("reference", size, False) for size in arguments.batches}
    sides |= {
        f"reference at {size}, freed memory kept": ("reference", size, True)
        for size in arguments.kept
    }
    context = multiprocessing.get_context("spawn")
    workers, results = {}, {}
    for label, side in sides.items():
        workers[label], end = context.Pipe()
        context.Process(target=work, args=(end, arguments, *side), daemon=True).start()
        end.close()  # so that a worker that dies is seen
    names = arguments.stages or list(REFERENCE_NAMES)
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
