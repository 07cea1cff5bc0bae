"""Microseconds per image of a network's forward pass, and of one with its input gradient.

    python benchmarks/passes.py runs/mnist_pgd_at/best           # freed memory: as by default
    python benchmarks/passes.py runs/mnist_pgd_at/best --kept    # kept, as `rbl` does

The network is the one that attacks search on; images are noise. Printed are the fastest and the
median of many passes, in CPU seconds of the process, by batch size, and its page faults.
"""

import argparse
import os
import resource
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from robustbench_lite import resolve_model
from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.core.allocator import keep_freed_memory
from robustbench_lite.datasets import dataset_info

IMAGES = 10_000  # at least this many per measurement


def microseconds(function, size):
    """Of the fastest and of the median call, per image."""
    times = []
    for _ in range(max(20, IMAGES // size)):
        begin = time.thread_time()
        function()
        times.append(time.thread_time() - begin)
    times.sort()
    return (1e6 * times[0] / size, 1e6 * times[len(times) // 2] / size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[25, 50, 64, 100, 128, 250, 500])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.kept and not keep_freed_memory():
        parser.error("the C library is not glibc")
    torch.set_num_threads(arguments.threads)
    source = resolve_model(arguments.checkpoint, allow_code=False, device="cpu")
    info = dataset_info(source.card.dataset)
    shape = (info.channels, *info.image_size)
    device = torch.device("cpu")
    network = search_network(
        source.model, precision="float32", device=device, like=torch.rand(shape)
    ).module
    print("| batch | forward: fastest | median | + backward: fastest | median |")
    print("|---|---|---|---|---|")
    with attacked(network):
        for size in arguments.batches:
            x = torch.rand(size, *shape)

            def forward(x=x):
                with torch.no_grad():
                    network(x)

            def both(x=x):
                image = x.clone().requires_grad_(True)
                torch.autograd.grad(network(image).sum(), image)

            cells = (*microseconds(forward, size), *microseconds(both, size))
            print(f"| {size} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |", flush=True)
    print(f"\npage faults: {resource.getrusage(resource.RUSAGE_SELF).ru_minflt:,}")


if __name__ == "__main__":
    main()
