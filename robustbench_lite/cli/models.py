"""`rbl models check`: load a network, run one batch, and say what came out."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from robustbench_lite.cli.options import add_network, add_place, add_step, chosen_network
from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_lite.checkpoints.model_source import LoadedModel


def add(parser: argparse.ArgumentParser) -> None:
    """Steps of `rbl models`."""
    steps = parser.add_subparsers(required=True, metavar="STEP")
    check = add_step(steps, "check", run, "run one batch through a network, and describe it")
    add_network(check)
    check.add_argument("--dataset", metavar="NAME", help="images of its test split; else noise")
    check.add_argument("--shape", metavar="CxHxW", help="size of the noise, such as 3x32x32")
    check.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="default: %(default)s"
    )
    add_place(check)


def run(arguments: argparse.Namespace) -> None:
    """Print one line for each thing that is known of the network."""
    import torch

    from robustbench_lite.checkpoints.checkpoint import put_on_device
    from robustbench_lite.core.numerics import choose_device

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    source = chosen_network(arguments)
    x, where = _images(arguments, source)
    model = put_on_device(source.model, device).eval()
    rows = {"name": source.name, "hash": source.hash, **_facts(model, x.to(device), where)}
    rows |= {"parameters": f"{source.parameters:,}", "device": str(device)}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def _images(arguments: argparse.Namespace, source: LoadedModel) -> tuple[Tensor, str]:
    """A batch (B, C, H, W) in [0, 1], and what it is."""
    import torch

    from robustbench_lite.datasets import load_split

    count = arguments.batch_size
    if count < 1:
        raise InputError(f"--batch-size {count} must be at least 1")
    if arguments.dataset and arguments.shape:
        raise InputError("give either --dataset NAME or --shape CxHxW")
    if arguments.dataset:
        data = load_split(arguments.dataset, "test", data_dir=arguments.data_dir, progress=True)
        return data.pixels(slice(0, count)), arguments.dataset
    shape = _shape(arguments.shape) if arguments.shape else source.image_shape
    if shape is None:
        raise InputError("this network does not say which images it takes: add --shape CxHxW")
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)), "noise"


def _shape(text: str) -> tuple[int, int, int]:
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(f"--shape {text} must be CxHxW, such as 3x32x32")
    channels, height, width = map(int, sizes)
    return channels, height, width


def _facts(model: nn.Module, x: Tensor, where: str) -> dict[str, str]:
    """What one batch shows of a network.

    Raises:
        InputError: for a pass that fails, or gives no logits.
    """
    import torch

    from robustbench_lite.checkpoints.model_source import check_model_contract

    with torch.no_grad():
        model(x)  # what is made once at the first pass is not timed
        start = time.perf_counter()
        logits = model(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        seconds = time.perf_counter() - start
    check_model_contract(model, x, logits.shape[1])
    return {
        "images": f"{tuple(x.shape)} in [0, 1], {where}",
        "logits": f"{tuple(logits.shape)} {str(logits.dtype).removeprefix('torch.')}",
        "classes": str(logits.shape[1]),
        "outputs": getattr(model, "output", "") or "logits as they are",
        "gradient": _gradient(model, x),
        "time": f"{1000 * seconds:.1f} ms a batch",
    }


def _gradient(model: nn.Module, x: Tensor) -> str:
    """Whether a gradient comes back to the images, and why not."""
    import torch

    from robustbench_lite.attacks.model_state import attacked
    from robustbench_lite.core.messages import described
    from robustbench_lite.core.numerics import is_out_of_memory

    images = x.clone().requires_grad_(True)
    try:
        with attacked(model):
            logits = model(images)
            if not logits.requires_grad:
                return "no: only attacks by queries can run"
            (gradient,) = torch.autograd.grad(logits.float().sum(), images)
    except Exception as error:  # of a user's network: any
        if is_out_of_memory(error):
            raise
        return f"no: {described(error)}"
    return "yes" if bool(gradient.any()) else "yes, but zero on this batch"
